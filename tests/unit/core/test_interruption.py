"""What a node's annotation says of the end of its machine."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from architect.api import names
from architect.core import interruption
from architect.core.errors import FormatError
from architect.core.interruption import Interruption

ENDS = datetime.datetime(2026, 12, 1, 10, 0, 7, tzinfo=datetime.UTC)
GOOD = {"version": 1, "kind": "interruption", "source": "aws", "uncordon": True}


@pytest.mark.parametrize("ends", [None, ENDS])
@pytest.mark.parametrize("uncordon", [False, True])
def test_it_is_read_as_it_was_written(ends: datetime.datetime | None, uncordon: bool) -> None:
    said = Interruption(kind="maintenance", source="azure", ends=ends, uncordon=uncordon)
    node = {"metadata": {"annotations": {names.INTERRUPTION: said.to_text()}}}
    assert interruption.of_node(node) == said


def test_it_is_written_as_documented() -> None:
    said = Interruption(kind="interruption", source="aws", ends=ENDS, uncordon=True)
    assert json.loads(said.to_text()) == {**GOOD, "ends": "2026-12-01T10:00:07Z"}


@pytest.mark.parametrize("node", [{}, {"metadata": {}}, {"metadata": {"annotations": {"a": "b"}}}])
def test_a_node_without_it_says_nothing(node: dict[str, Any]) -> None:
    assert interruption.of_node(node) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "[" * 100_000,
        json.dumps({**GOOD, "version": 2}),
        json.dumps({k: v for k, v in GOOD.items() if k != "kind"}),
        json.dumps({**GOOD, "ends": "soon"}),
        json.dumps({**GOOD, "ends": "2026-12-01T10:00:07"}),
        json.dumps({**GOOD, "ends": 7}),
    ],
)
def test_what_somebody_else_wrote_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match=names.INTERRUPTION):
        interruption.from_text(text)


def test_what_a_later_version_adds_is_left_out() -> None:
    assert interruption.from_text(json.dumps({**GOOD, "more": 1})).source == "aws"
