"""What another version wrote is read as far as it is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from architect.core import fields
from architect.core.errors import FormatError


@dataclass(frozen=True, kw_only=True)
class Note:
    name: str
    size: int
    later: str = ""
    more: list[str] = field(default_factory=list)


def test_what_came_later_is_left_out_and_what_came_before_has_its_default() -> None:
    value = {"version": 1, "name": "a", "size": 2, "fromTheNext": True}
    assert fields.read(Note, value, "note") == Note(name="a", size=2)
    assert fields.read(Note, {**value, "later": "x"}, "note").later == "x"


def test_what_every_version_writes_must_be_there() -> None:
    with pytest.raises(FormatError, match=r"note\.json: size is missing"):
        fields.read(Note, {"name": "a"}, "note.json")
