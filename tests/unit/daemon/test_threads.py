"""The daemon's loops end together: asked to, or by a defect in one of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from architect.daemon.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    before = threading.excepthook
    made = Threads()
    made.guard()
    yield made
    made.stop.set()
    made.join()
    threading.excepthook = before


def test_a_defect_in_one_ends_all(threads: Threads) -> None:
    def breaks(_: threading.Event) -> None:
        raise ValueError("a defect")

    threads.start({"waits": threading.Event.wait, "breaks": breaks})
    threads.wait()
    assert threads.have_failed
    assert threads.stop.is_set()


def test_they_go_on_after_they_were_asked_to_end_until_they_are_stopped(threads: Threads) -> None:
    ended = threading.Event()

    def waits(stop: threading.Event) -> None:
        stop.wait()
        ended.set()

    threads.start({"waits": waits})
    threads.ask_to_end()
    threads.wait()
    assert not ended.is_set()
    threads.stop.set()
    threads.join()
    assert ended.is_set()
    assert not threads.have_failed
