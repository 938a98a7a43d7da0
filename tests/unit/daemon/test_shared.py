"""Shared reads: as fresh as one's own, and as few as there must be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from architect.core.errors import Unavailable
from architect.daemon import shared
from architect.daemon.shared import SharedReads

Eventually = Callable[..., None]


class Source:
    """Counts; each read stands still while the gate is shut."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = 0
        self.begun_at: list[float] = []
        self.error: Exception | None = None

    def read(self) -> int:
        self.begun_at.append(time.monotonic())
        self.begun += 1
        number = self.begun
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
def source() -> Source:
    return Source()


def waiting(reads: SharedReads[int]) -> int:
    with reads._lock:
        return sum(slot.users for slot in reads._slots.values())


def test_who_asks_alone_reads_anew_and_does_not_wait(source: Source) -> None:
    reads = SharedReads[int](apart_seconds=3600)
    assert [reads.read("a", source.read) for _ in range(3)] == [1, 2, 3]
    assert reads._slots == {}


def test_who_asks_during_a_read_gets_the_next_one_and_all_the_same(
    source: Source, eventually: Eventually
) -> None:
    reads = SharedReads[int](apart_seconds=0)
    source.gate.clear()
    with ThreadPoolExecutor(21) as pool:
        first = pool.submit(reads.read, "a", source.read)
        eventually(lambda: source.begun == 1)
        others = [pool.submit(reads.read, "a", source.read) for _ in range(20)]
        eventually(lambda: waiting(reads) == 21)
        source.gate.set()
        assert first.result(20) == 1
        assert {other.result(20) for other in others} == {2}
    assert source.begun == 2


def test_keys_do_not_wait_for_each_other(source: Source, eventually: Eventually) -> None:
    reads = SharedReads[int](apart_seconds=0)
    source.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(reads.read, "a", source.read)
        eventually(lambda: source.begun == 1)
        assert reads.read("b", lambda: 7) == 7
        source.gate.set()
        assert first.result(20) == 1


def test_reads_that_follow_each_other_keep_their_distance(
    source: Source, eventually: Eventually
) -> None:
    reads = SharedReads[int](apart_seconds=0.2)
    source.gate.clear()
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(reads.read, "a", source.read)
        eventually(lambda: source.begun == 1)
        second = pool.submit(reads.read, "a", source.read)
        eventually(lambda: waiting(reads) == 2)
        source.gate.set()
        assert (first.result(20), second.result(20)) == (1, 2)
    assert time.monotonic() - begun >= 0.2


def test_reads_that_take_long_are_farther_from_each_other(
    source: Source, eventually: Eventually
) -> None:
    reads = SharedReads[int](apart_seconds=0)
    source.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(reads.read, "a", source.read)
        eventually(lambda: source.begun == 1)
        second = pool.submit(reads.read, "a", source.read)
        eventually(lambda: waiting(reads) == 2)
        time.sleep(0.1)
        ends_at = time.monotonic()
        source.gate.set()
        assert (first.result(20), second.result(20)) == (1, 2)
    began_at, again_at = source.begun_at
    rest = min(shared.REST * (ends_at - began_at), shared.REST_SECONDS)
    assert again_at - ends_at >= rest


def test_an_error_is_everybodys_and_the_next_read_begins_anew(
    source: Source, eventually: Eventually
) -> None:
    reads = SharedReads[int](apart_seconds=0)
    source.gate.clear()
    source.error = Unavailable("the API is away")
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(reads.read, "a", source.read)]
        eventually(lambda: source.begun == 1)
        asked += [pool.submit(reads.read, "a", source.read) for _ in range(5)]
        eventually(lambda: waiting(reads) == 6)
        source.gate.set()
        for one in asked:
            with pytest.raises(Unavailable, match="the API is away"):
                one.result(20)
    assert source.begun == 2
    source.error = None
    assert reads.read("a", source.read) == 3


def test_after_a_bug_nobody_waits_for_ever(source: Source, eventually: Eventually) -> None:
    reads = SharedReads[int](apart_seconds=0)
    source.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(reads.read, "a", source.read)
        eventually(lambda: source.begun == 1)
        source.error = ZeroDivisionError()
        others = [pool.submit(reads.read, "a", source.read) for _ in range(2)]
        eventually(lambda: waiting(reads) == 3)
        source.gate.set()
        kinds = {type(one.exception(20)) for one in (first, *others)}
    assert kinds <= {ZeroDivisionError, CancelledError}
