"""The soak waits for its cycles, and not for ever."""

from __future__ import annotations

import threading

from architect.api.keeper import Event
from faults.soak import Count, until_over


def test_it_is_over_with_the_last_cycle() -> None:
    count = Count(wanted=2)
    woke = {"event": Event.WOKE.value, "duration_seconds": 0.1}
    timers = [threading.Timer(at, count.note, [woke]) for at in (0.05, 0.1)]
    for timer in timers:
        timer.start()
    until_over(count, still_seconds=30.0)
    assert (count.cycles, count.failures) == (2, [])


def test_it_is_over_and_has_failed_once_nothing_happens_any_more() -> None:
    count = Count(wanted=2)
    count.note({"event": Event.WOKE.value, "duration_seconds": 0.1})
    until_over(count, still_seconds=0.05)
    assert count.is_over.is_set()
    assert count.failures == ["no cycle in 0.05 s, after 1"]
