"""Whose shard is sent next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architect.daemon.vault.streams import TURNS, Streams
from support.patience import patient

SECONDS = patient(60)


class Sending:
    """Uploads whose shards are under way until they are told to arrive."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self.changed = threading.Condition()
        self.begun: list[tuple[str, int]] = []
        self.arrived: set[tuple[str, int]] = set()
        self.failing: set[tuple[str, int]] = set()
        self.is_open = False
        self.threads: dict[str, threading.Thread] = {}
        self.errors: dict[str, BaseException] = {}

    def upload(self, id: str, shards: int) -> None:
        """Begin an upload, and wait until it is known there."""

        def run() -> None:
            try:
                self.streams.run(id, lambda number: self._send(id, number), range(shards))
            except ValueError as error:
                self.errors[id] = error

        thread = self.threads[id] = threading.Thread(target=run)
        thread.start()
        self.until(lambda: not thread.is_alive() or self._is_known(id))

    def _is_known(self, id: str) -> bool:
        with self.streams._changed:
            return any(row.id == id for row in self.streams._rows)

    def _send(self, id: str, number: int) -> None:
        with self.changed:
            self.begun.append((id, number))
            self.changed.notify_all()
            assert self.changed.wait_for(
                lambda: self.is_open or (id, number) in self.arrived, SECONDS
            )
        if (id, number) in self.failing:
            raise ValueError(f"{id} {number}")

    def arrive(self, id: str, number: int) -> None:
        with self.changed:
            self.arrived.add((id, number))
            self.changed.notify_all()

    def next_after(self, id: str, number: int) -> tuple[str, int]:
        """Return which shard is begun once this one has arrived."""
        before = len(self.begun)
        self.arrive(id, number)
        self.until(lambda: len(self.begun) > before)
        return self.begun[before]

    def end(self) -> None:
        with self.changed:
            self.is_open = True
            self.changed.notify_all()
        for thread in self.threads.values():
            thread.join(SECONDS)
            assert not thread.is_alive()

    @staticmethod
    def until(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_so_many_are_under_way_and_no_more() -> None:
    sending = Sending(Streams(2))
    sending.upload("a", 5)
    sending.until(lambda: len(sending.begun) == 2)
    sending.upload("b", 5)
    assert sending.streams._running == 2
    assert sending.begun == [("a", 0), ("a", 1)]
    sending.end()
    assert len(sending.begun) == 10


def test_without_an_order_uploads_take_turns() -> None:
    sending = Sending(Streams(1))
    sending.upload("large", 100)
    sending.until(lambda: sending.begun == [("large", 0)])
    sending.upload("small", 2)
    assert sending.next_after("large", 0) == ("large", 1)
    assert sending.next_after("large", 1) == ("small", 0)
    assert sending.next_after("small", 0) == ("large", 2)
    assert sending.next_after("large", 2) == ("small", 1)
    assert sending.next_after("small", 1) == ("large", 3)
    sending.threads["small"].join(SECONDS)
    assert not sending.threads["small"].is_alive(), "it does not wait for the large one"
    sending.end()


def test_without_an_order_who_came_first_is_whole_first() -> None:
    sending = Sending(Streams(1))
    for number in range(TURNS + 1):
        sending.upload(str(number), 4)
    sending.end()
    assert len(sending.begun) == 4 * (TURNS + 1)
    last_one = sending.begun.index((str(TURNS), 0))
    assert ("0", 3) in sending.begun[:last_one], "it waits until one of the others has nothing left"
    assert ("1", 3) not in sending.begun[:last_one], "and no longer"


def test_the_first_one_has_every_stream_that_it_can_use() -> None:
    sending = Sending(Streams(3))
    sending.upload("other", 20)
    sending.until(lambda: len(sending.begun) == 3)
    sending.streams.prefer(["first", "second"])
    sending.upload("second", 4)
    sending.upload("first", 4)
    # What is under way ends; then all are the first one's, also when one of its own gets free.
    assert [sending.next_after("other", n) for n in range(3)] == [("first", n) for n in range(3)]
    assert sending.next_after("first", 1) == ("first", 3)
    assert sending.next_after("first", 0) == ("second", 0)
    assert sending.next_after("first", 2) == ("second", 1)
    assert sending.next_after("second", 0) == ("second", 2)
    sending.end()


def test_the_order_may_change_at_any_time() -> None:
    sending = Sending(Streams(1))
    sending.streams.prefer(["a", "b", "c"])
    for id in ("a", "b", "c", "d"):
        sending.upload(id, 10)
    sending.until(lambda: sending.begun == [("a", 0)])
    assert sending.next_after("a", 0) == ("a", 1)
    sending.streams.prefer(["c", "b"])
    assert sending.next_after("a", 1) == ("c", 0)
    sending.streams.prefer(["d"])
    assert sending.next_after("c", 0) == ("d", 0)
    sending.streams.prefer([])
    # By turns again: b has had none since it came.
    assert sending.next_after("d", 0) == ("b", 0)
    sending.end()


def test_there_may_be_more_and_fewer_at_any_time() -> None:
    sending = Sending(Streams(1))
    sending.upload("a", 20)
    sending.until(lambda: len(sending.begun) == 1)
    sending.streams.widen(4)
    sending.until(lambda: len(sending.begun) == 4)
    sending.streams.widen(1)
    for number in range(3):
        sending.arrive("a", number)
    sending.until(lambda: sending.streams._running == 1)
    assert sending.begun == [("a", n) for n in range(4)]
    assert sending.next_after("a", 3) == ("a", 4)
    sending.end()


def test_a_failure_ends_its_upload_and_no_other() -> None:
    sending = Sending(Streams(2))
    sending.failing.add(("bad", 0))
    sending.upload("bad", 10)
    sending.until(lambda: len(sending.begun) == 2)
    sending.upload("good", 3)
    sending.arrive("bad", 0)
    sending.until(lambda: ("good", 0) in sending.begun)
    assert sending.threads["bad"].is_alive(), "one of its shards is under way"
    sending.arrive("bad", 1)
    sending.threads["bad"].join(SECONDS)
    assert str(sending.errors["bad"]) == "bad 0"
    sending.end()
    assert sorted(n for id, n in sending.begun if id == "good") == [0, 1, 2]
    assert len([n for id, n in sending.begun if id == "bad"]) == 2
    assert "good" not in sending.errors


def test_nothing_to_send_is_sent_at_once() -> None:
    streams = Streams(1)
    streams.run("a", lambda _: pytest.fail("nothing is to be done"), [])
    assert (streams._running, streams._rows) == (0, [])


@settings(max_examples=50, deadline=None)
@given(
    shards=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    changes=st.lists(
        st.tuples(st.integers(0, 6), st.permutations([str(n) for n in range(6)])), max_size=6
    ),
    failing=st.sets(st.integers(0, 5)),
)
def test_all_are_sent_once_whatever_is_said_meanwhile(shards, changes, failing):
    """No wakeup is lost, nobody starves, and nothing stays behind."""
    streams, sent, lock = Streams(2), [], threading.Lock()

    def upload(id: str, number_of_shards: int) -> None:
        def send(number: int) -> None:
            with lock:
                sent.append((id, number))
            if int(id) in failing and number == 3:
                raise ValueError(id)

        try:
            streams.run(id, send, range(number_of_shards))
        except ValueError:
            assert int(id) in failing

    threads = [
        threading.Thread(target=upload, args=(str(id), number), daemon=True)
        for id, number in enumerate(shards)
    ]
    for thread in threads:
        thread.start()
    for at_once, order in changes:
        streams.widen(at_once)
        streams.prefer(order[:4])
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert len(sent) == len(set(sent))
    for id, number in enumerate(shards):
        if id not in failing or number <= 3:
            assert {(str(id), n) for n in range(number)} <= set(sent)
    Sending.until(lambda: streams._running == 0)
    assert streams._rows == []
