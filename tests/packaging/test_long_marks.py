"""The pages say where what they promise is shown by ``make test-long`` alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
CLUSTER = CHECKOUT / "tests" / "cluster"
PAGES = sorted(path.name for path in (CHECKOUT / "docs").glob("*.md"))
SAID = ("long", "make test-long")


def long_modules() -> set[str]:
    """Return the files whose tests ``make test`` leaves out, all of them."""
    marked = re.compile(r"^pytestmark = .*pytest\.mark\.long\b", re.MULTILINE)
    return {p.name for p in CLUSTER.glob("test_*.py") if marked.search(p.read_text("utf-8"))}


def unsaid(text: str, modules: set[str]) -> list[str]:
    """Return the named *modules* behind which *text* does not say it, in the same sentence."""
    found = []
    for match in re.finditer(r"`(?:tests/)?cluster/(test_\w+\.py)`([^`|]{0,60}(?:`[^`]*`)?)", text):
        if match[1] in modules and not any(word in match[2] for word in SAID):
            found.append(match[1])
    return found


def test_what_is_looked_for_is_found() -> None:
    modules = long_modules()
    assert {"test_two_versions.py", "test_key_service.py", "test_disruptions.py"} <= modules
    assert "test_drain.py" not in modules
    one = {"test_two_versions.py"}
    assert unsaid("| x | `cluster/test_two_versions.py` | long |", one) == [*one]
    assert unsaid("| x | `cluster/test_two_versions.py` (long) |", one) == []
    assert unsaid("so (`cluster/test_two_versions.py`, in `make test-long`).", one) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_which_tests_are_long(page: str) -> None:
    text = (CHECKOUT / "docs" / page).read_text("utf-8")
    assert unsaid(text, long_modules()) == []
