"""Keys wait once each, and longer after each failure."""

from __future__ import annotations

from architect.daemon.workqueue import WorkQueue


def test_a_key_is_taken_once_and_at_its_earliest_time() -> None:
    queue = WorkQueue()
    queue.add("a", delay_seconds=60)
    assert queue.take(timeout_seconds=0) is None
    queue.add("a")
    queue.add("a", delay_seconds=5)
    assert queue.take(timeout_seconds=0) == "a"
    assert queue.take(timeout_seconds=0) is None


def test_failures_in_a_row_wait_longer() -> None:
    queue = WorkQueue()
    delays = [queue.retry("a") for _ in range(12)]
    assert delays[0] <= 1.0
    assert delays[-1] >= 150.0
    queue.succeeded("a")
    assert queue.retry("a") <= 1.0
    assert queue.retry("b", at_least_seconds=7.0) == 7.0


def test_a_closed_queue_gives_nothing() -> None:
    queue = WorkQueue()
    queue.close()
    queue.add("a")
    assert queue.take(timeout_seconds=60) is None
