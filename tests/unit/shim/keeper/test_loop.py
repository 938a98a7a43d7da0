"""Tasks, timers and descriptors of the keeper's loop."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from architect.core.errors import NodeError
from architect.shim.keeper.loop import TIMERS_SWEPT, Future, Loop, Task


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def run_until(loop: Loop, future: Future[Any]) -> None:
    for _ in range(10_000):
        if future.is_done:
            return
        loop.run_once(at_most_seconds=0.1)
    raise AssertionError("the task did not end")


def test_a_task_is_resumed_with_the_result_of_what_it_waits_for(loop: Loop) -> None:
    inner: Future[int] = Future()

    def task() -> Task[int]:
        value: int = yield inner
        yield loop.sleep(0.001)
        return value + 1

    outcome = loop.spawn(task(), name="t")
    loop.call_soon(lambda: inner.set_result(41))
    run_until(loop, outcome)
    assert outcome.result() == 42


def test_an_error_is_raised_where_the_task_waits(loop: Loop) -> None:
    inner: Future[int] = Future()
    seen: list[str] = []

    def task() -> Task[None]:
        try:
            yield inner
        except NodeError as error:
            seen.append(error.reason)
            raise

    outcome = loop.spawn(task(), name="t")
    inner.set_error(NodeError("no", reason="Why"))
    run_until(loop, outcome)
    assert seen == ["Why"]
    with pytest.raises(NodeError):
        outcome.result()


def test_a_task_has_changed_state_when_spawn_returns(loop: Loop) -> None:
    state: list[str] = []

    def task() -> Task[None]:
        state.append("begun")
        yield loop.sleep(0)

    loop.spawn(task(), name="t")
    assert state == ["begun"]


def test_a_bounded_wait_fails_with_its_name(loop: Loop) -> None:
    never: Future[int] = Future()
    bounded = loop.within(never, 0.001, what="the disk")
    run_until(loop, bounded)
    with pytest.raises(TimeoutError, match="the disk"):
        bounded.result()


def test_a_bound_that_was_not_needed_leaves_nothing_behind(loop: Loop) -> None:
    for _ in range(10_000):
        done: Future[str] = Future()
        bounded = loop.within(done, 600, what="work")
        done.set_result("x" * 100)
        assert bounded.result() == "x" * 100
    assert len(loop._timers) <= TIMERS_SWEPT


def test_a_cancelled_timer_does_not_fire_and_the_others_do(loop: Loop) -> None:
    fired: list[str] = []
    loop.call_later(0.001, lambda: fired.append("cancelled")).cancel()
    for number in range(2 * TIMERS_SWEPT):
        loop.call_later(600, fired.clear).cancel()
        if number == 7:
            loop.call_later(0.002, lambda: fired.append("kept"))
    while not fired:
        loop.run_once(at_most_seconds=1)
    assert fired == ["kept"]


def test_a_defect_in_one_task_does_not_stop_the_others(loop: Loop) -> None:
    def broken() -> Task[None]:
        yield loop.sleep(0)
        raise KeyError("defect")

    def sound() -> Task[str]:
        yield loop.sleep(0.005)
        return "done"

    first, second = loop.spawn(broken(), name="broken"), loop.spawn(sound(), name="sound")
    run_until(loop, second)
    assert second.result() == "done"
    with pytest.raises(KeyError):
        first.result()


def test_a_descriptor_is_served_until_unwatched(loop: Loop) -> None:
    read, write = os.pipe()
    got: list[bytes] = []
    loop.watch(read, lambda: got.append(os.read(read, 10)))
    os.write(write, b"one")
    loop.run_once(at_most_seconds=1)
    loop.unwatch(read)
    os.write(write, b"two")
    loop.run_once(at_most_seconds=0.01)
    assert got == [b"one"]
    os.close(read)
    os.close(write)


def test_threads_hand_work_to_the_loop(loop: Loop) -> None:
    future: Future[int] = Future()
    thread = threading.Thread(target=lambda: loop.call_from_thread(lambda: future.set_result(7)))
    thread.start()
    run_until(loop, future)
    thread.join()
    assert future.result() == 7
