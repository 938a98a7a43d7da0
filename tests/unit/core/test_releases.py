from __future__ import annotations

import pytest

from architect.core import releases


@pytest.mark.parametrize(
    ("text", "found"),
    [("4.2.1", (4, 2)), ("4.2", (4, 2)), ("v10.0-rc1", (10, 0)), ("4", None), ("", None)],
)
def test_a_release_is_major_and_minor(text: str, found: tuple[int, int] | None) -> None:
    assert releases.of(text) == found


def test_what_is_not_known_equals_nothing() -> None:
    assert releases.are_equal("4.2.1", "4.2.9")
    assert not releases.are_equal("4.2.1", "4.3.1")
    assert not releases.are_equal("", "")
