"""The table of ``docs/reliability.md``: what is the same as under runc, and what is not.

It is made of what the tests say of themselves (:func:`support.truth.behaviour`); a test holds the
page against it. ``.venv/bin/python -m support.truthtable`` in ``tests`` prints it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from support.truth import SAME, Behaviour

TESTS: Final = Path(__file__).parents[1]
SUITE: Final = "cluster/test_truth_*.py"
HEAD: Final = (
    "| behaviour | managed | across a sleep | shown by |",
    "| --- | --- | --- | --- |",
)

ELSEWHERE: Final = (
    (
        Behaviour(
            what="several containers in a pod, of which some are managed",
            managed=SAME,
            slept="the managed ones sleep and wake as one, the others run on",
        ),
        "cluster/test_whole_pods.py::"
        "test_two_containers_sleep_and_wake_as_one_beside_one_that_goes_on",
    ),
)
"""What other tests show, of managed pods alone. Tests as pytest names them, below ``tests``."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A behaviour and the test that shows it."""

    behaviour: Behaviour
    test: str


def rows() -> list[Row]:
    """Return what the suite shows, in its order, and then what other tests do."""
    found = [
        Row(behaviour=behaviour, test=f"{path.relative_to(TESTS)}::{name}")
        for path in sorted(TESTS.glob(SUITE))
        for name, function in _tests(_module(path), path)
        for behaviour in getattr(function, "behaviours", ())
    ]
    return found + [Row(behaviour=behaviour, test=test) for behaviour, test in ELSEWHERE]


def unsaid() -> list[str]:
    """Return the tests of the suite that do not say what they show."""
    return [
        f"{path.name}::{name}"
        for path in sorted(TESTS.glob(SUITE))
        for name, function in _tests(_module(path), path)
        if not getattr(function, "behaviours", ())
    ]


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        f"| {row.behaviour.what} | {row.behaviour.managed} | {_slept(row.behaviour)} "
        f"| {_shown_by(row.test)} |"
        for row in rows()
    ]
    return "\n".join([*HEAD, *lines])


def _shown_by(test: str) -> str:
    """Return the file of *test* as the page names it, and whether `make test` leaves it out."""
    name = test.partition("::")[0]
    marks = getattr(_module(TESTS / name), "pytestmark", [])
    is_long = any(mark.name == "long" for mark in (marks if isinstance(marks, list) else [marks]))
    return f"`{name}` (long)" if is_long else f"`{name}`"


def _slept(behaviour: Behaviour) -> str:
    if behaviour.slept is None:
        return "–"
    is_decision = behaviour.slept != SAME
    return "as managed" if is_decision and behaviour.slept == behaviour.managed else behaviour.slept


def _module(path: Path) -> ModuleType:
    return importlib.import_module(".".join(path.relative_to(TESTS).with_suffix("").parts))


def _tests(module: ModuleType, path: Path) -> Iterator[tuple[str, object]]:
    # In the order of the file.
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE):
        yield name, getattr(module, name)


if __name__ == "__main__":
    print(table())
