"""The pages say where what they promise is shown by ``make test-long`` alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TESTS = CHECKOUT / "tests"
CLUSTER = TESTS / "cluster"
DOCS = CHECKOUT / "docs"
PAGES = sorted(
    str(path.relative_to(DOCS))
    for folder in (DOCS, DOCS / "decisions")
    for path in folder.glob("*.md")
)
SAID = ("long", "make test-long")
NEAR_CHARS = 40
"""How far behind a phrase it is said."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a page promises by one test of a file of which others run each time."""

    page: str
    phrase: str
    """Behind it the page says *long*, or does not."""
    test: str
    """``file::function``, below ``tests``."""
    value: str = ""
    """Of a parameter, where the promise is about one of several."""


SAVED = "kernel/gvisor/test_saved.py"
GVISOR = "persistent-checkpoints.md"
PARTS = (
    Part(
        page="migration.md",
        phrase="`cluster/test_drain.py`; of several containers",
        test="cluster/test_drain.py::"
        "test_all_managed_containers_of_a_pod_go_on_beside_one_that_starts_anew",
    ),
    Part(
        page="migration.md",
        phrase="`cluster/test_volumes.py`: with a driver that attaches disks",
        test="cluster/test_volumes.py::test_a_pod_goes_on_where_its_disk_is_attached_next",
    ),
    Part(
        page="migration.md",
        phrase="with a CSI driver whose disks are attached",
        test="cluster/test_volumes.py::test_memory_meets_no_disk_that_another_pod_has_written",
    ),
    Part(
        page="migration.md",
        phrase="rollout; scale-down",
        test="cluster/test_drain.py::test_a_pod_without_a_successor_of_its_identity_gets_its_signal",
        value="scaled down",
    ),
    Part(
        page="failure-modes.md",
        phrase="a disk that is too small",
        test="cluster/test_moves_under_fault.py::"
        "test_what_cannot_be_saved_gets_its_signal_and_its_whole_grace_period",
        value="its disk is too small",
    ),
    Part(
        page="failure-modes.md",
        phrase="`cluster/test_restore_policies.py` (what CRIU refuses",
        test="cluster/test_restore_policies.py::"
        "test_fresh_starts_the_application_where_criu_refuses_what_came",
    ),
    Part(
        page="failure-modes.md",
        phrase="`cluster/test_restore_policies.py` (in the store",
        test="cluster/test_restore_policies.py::test_what_is_damaged_goes_as_each_policy_says",
        value="in the store",
    ),
    Part(
        page="failure-modes.md",
        phrase="`cluster/test_moves_under_fault.py` (the keeper",
        test="cluster/test_moves_under_fault.py::"
        "test_a_replacement_that_comes_before_the_dump_has_begun_waits_for_it",
        value="keeper",
    ),
    Part(
        page="failure-modes.md",
        phrase="`cluster/test_node_shutdown.py` (what nobody has fetched",
        test="cluster/test_node_shutdown.py::"
        "test_what_nobody_has_fetched_in_time_lies_in_the_object_store",
    ),
    Part(
        page="failure-modes.md",
        phrase="`kernel/gvisor/test_saved.py` (`retry`",
        test=f"{SAVED}::"
        "test_an_image_that_is_damaged_ends_the_sandbox_and_the_policy_says_what_the_next_one_does",
        value="retry",
    ),
    Part(
        page="failure-modes.md",
        phrase="(`retry`, another command",
        test=f"{SAVED}::test_another_command_than_the_saved_one_is_refused_by_name",
    ),
    Part(
        page="failure-modes.md",
        phrase="the next one goes on from the same image | nothing | `kernel/gvisor/test_saved.py`",
        test=f"{SAVED}::test_one_that_waits_for_the_rest_of_its_pod_can_be_ended",
    ),
    Part(
        page=GVISOR,
        phrase="in the new pods (they go on in the saved one)",
        test=f"{SAVED}::test_connections_go_on_in_the_saved_pod_and_have_ended_in_the_others",
    ),
    Part(
        page=GVISOR,
        phrase="under the name that kubelet has given it there",
        test=f"{SAVED}::test_an_open_file_that_the_new_pod_has_under_another_name_is_refused",
    ),
    *(
        Part(
            page=GVISOR,
            phrase=phrase,
            test=f"{SAVED}::test_what_cannot_be_in_an_image_is_refused_by_name",
        )
        for phrase in (
            "such as a container of `kubectl debug`",
            "as one that has ended well beside others",
            "a container has a terminal (`tty: true`)",
        )
    ),
)


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


def is_long(source: str, test: str, value: str = "") -> bool:
    """Whether ``make test`` leaves out function *test*, or what it does with parameter *value*."""
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    (function,) = (n for n in functions if n.name == test)
    texts = [ast.unparse(decorator) for decorator in function.decorator_list]
    if "pytest.mark.long" in texts:
        return True
    if not value:
        return False
    (is_left_out,) = {found for d in function.decorator_list for found in _left_out(d, value)}
    return is_left_out


def _left_out(decorator: ast.expr, value: str) -> Iterator[bool]:
    """Yield whether *value* is for ``make test-long`` alone, if *decorator* is what names it."""
    for call in ast.walk(decorator):
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        if name == "sized":
            sample, whole = call.args
            # Which values a name stands for is not looked up: what the sample lacks is in there.
            if repr(value) in ast.unparse(whole) or not isinstance(whole, ast.List):
                yield repr(value) not in ast.unparse(sample)
        elif name == "pytest.param" and ast.unparse(call.args[0]) == repr(value):
            yield any("pytest.mark.long" in ast.unparse(k.value) for k in call.keywords)


def test_what_is_looked_for_is_found() -> None:
    modules = long_modules()
    assert {"test_two_versions.py", "test_key_service.py", "test_disruptions.py"} <= modules
    assert "test_drain.py" not in modules
    one = {"test_two_versions.py"}
    assert unsaid("| x | `cluster/test_two_versions.py` | long |", one) == [*one]
    assert unsaid("| x | `cluster/test_two_versions.py` (long) |", one) == []
    assert unsaid("so (`cluster/test_two_versions.py`, in `make test-long`).", one) == []
    assert {"migration.md", "decisions/0021-what-was-promised-and-is-met-otherwise.md"} <= set(
        PAGES
    )


def test_a_test_that_is_left_out_in_part_is_known() -> None:
    source = """
@pytest.mark.long
def test_all(): ...
@pytest.mark.parametrize("how", sized(["a"], ["a", "b"]))
@pytest.mark.parametrize("who", ["c", pytest.param("d", marks=pytest.mark.long)])
def test_some(): ...
"""
    assert is_long(source, "test_all")
    assert not is_long(source, "test_some")
    assert [is_long(source, "test_some", value) for value in "abd"] == [False, True, True]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_which_tests_are_long(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    assert unsaid(text, long_modules()) == []


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.phrase)
def test_a_page_says_which_part_of_a_file_is_long(part: Part) -> None:
    """And says it no longer, once ``make test`` has it."""
    file, _, test = part.test.partition("::")
    before, phrase, behind = (DOCS / part.page).read_text("utf-8").partition(part.phrase)
    assert phrase, "the page says it in other words: they belong here"
    assert phrase not in before + behind
    said = any(word in behind[:NEAR_CHARS].partition("\n")[0] for word in SAID)
    assert said is is_long((TESTS / file).read_text("utf-8"), test, part.value)
