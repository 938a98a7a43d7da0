"""Whose turn it is to be frozen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from architect.daemon.moves.turns import Turns

SECONDS = 60.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Row:
    """Pods that come one after the other, have their turns, and are done at once."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._threads: list[threading.Thread] = []
        self.had: list[str] = []
        self.gave_up: list[str] = []

    def comes(self, uid: str, *, is_wanted: Callable[[], bool] = lambda: True) -> None:
        def have() -> None:
            with self._turns.of(uid, is_wanted=is_wanted) as has_turn:
                (self.had if has_turn else self.gave_up).append(uid)

        before = self._turns.waiting
        self._threads.append(threading.Thread(target=have, daemon=True))
        self._threads[-1].start()
        until(lambda: self._turns.waiting > before)

    def ends(self) -> list[str]:
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        return self.had


def served(turns: Turns, uids: Sequence[str], *, then: Callable[[], None]) -> list[str]:
    """Return in which order pods that came in the order *uids* had their turns."""
    row = Row(turns)
    with turns.of("first") as has_turn:
        assert has_turn
        for uid in uids:
            row.comes(uid)
        then()
    return row.ends()


def test_who_comes_first_is_served_first() -> None:
    turns = Turns(1)
    assert served(turns, ["c", "a", "b"], then=lambda: None) == ["c", "a", "b"]
    assert not turns.are_wanted


def test_an_order_that_comes_later_counts_for_who_waits_already() -> None:
    turns = Turns(1)
    order = ["b", "unknown", "a"]
    assert served(turns, ["c", "a", "d", "b"], then=lambda: turns.prefer(order)) == [
        *("b", "a"),
        *("c", "d"),
    ]
    # It is over once another one is given.
    assert served(turns, ["d", "b"], then=lambda: turns.prefer(())) == ["d", "b"]


def test_no_more_at_once_than_may_be_or_than_is_asked_for() -> None:
    turns = Turns(2)
    row = Row(turns)
    with turns.of("a"), turns.of("b"):
        row.comes("c")
        turns.prefer([], at_once=7)
        assert row.had == []
        turns.prefer([], at_once=1)
    assert row.ends() == ["c"]
    with turns.of("a"):
        row.comes("b")
        assert row.had == ["c"]
        turns.prefer([])
        until(lambda: row.had == ["c", "b"])


def test_a_pod_has_one_turn_at_a_time_and_who_waits_for_it_stops_nobody() -> None:
    turns = Turns(2)
    row = Row(turns)
    with turns.of("a"):
        row.comes("a")
        with turns.of("b"):
            assert row.had == []
        assert row.had == []
    assert row.ends() == ["a"]


def test_who_does_not_want_it_any_more_goes_without_a_turn() -> None:
    turns = Turns(1)
    row = Row(turns)
    unwanted: set[str] = set()
    with turns.of("first"):
        row.comes("a", is_wanted=lambda: "a" not in unwanted)
        row.comes("b", is_wanted=lambda: "b" not in unwanted)
        unwanted.add("a")
        turns.look_again()
        until(lambda: row.gave_up == ["a"])
        assert row.had == []
    assert row.ends() == ["b"]
    assert not turns.are_wanted


def test_a_turn_ends_with_an_error_too() -> None:
    turns = Turns(1)
    try:
        with turns.of("a"):
            raise OSError
    except OSError:
        pass
    with turns.of("a") as has_turn:
        assert has_turn
