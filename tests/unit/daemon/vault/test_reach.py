"""Whether the object store answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from architect.core.errors import Rejected, Unavailable
from architect.daemon.vault.reach import Reach
from support.runtime import eventually


class Store:
    """Answers, or raises; and counts."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = 0
        self.is_wanted = True
        self.reach = Reach(
            self._ask,
            is_wanted=lambda: self.is_wanted,
            idle_seconds=3600,
            hurried_seconds=0.001,
        )

    def _ask(self) -> None:
        # What is set once it was asked counts from the next time on.
        error, self.asked = self.error, self.asked + 1
        if error is not None:
            raise error

    def asked_more(self, times: int) -> None:
        before = self.asked
        eventually(lambda: self.asked >= before + times, what=f"{times} more questions")


@pytest.fixture
def store() -> Iterator[Store]:
    made, stop = Store(), threading.Event()
    thread = threading.Thread(target=made.reach.run, args=(stop,), daemon=True)
    thread.start()
    yield made
    stop.set()
    made.reach.close()
    thread.join(30)
    assert not thread.is_alive()


def test_it_is_taken_to_be_there_until_it_is_known_not_to_be(store: Store) -> None:
    assert store.reach.is_there
    store.error = Unavailable("no route")
    store.reach.hurry(True)
    eventually(lambda: not store.reach.is_there, what="it is away")
    store.error = None
    eventually(lambda: store.reach.is_there, what="it is back")


def test_one_failure_alone_means_nothing_and_is_asked_about_at_once(store: Store) -> None:
    eventually(lambda: store.asked == 1, what="the first question")
    store.error = Unavailable("no route")
    store.reach.hurry(False)
    # Nobody is in a hurry: a failure alone brings the second question.
    eventually(lambda: not store.reach.is_there, what="it is away")
    assert store.asked >= 3


def test_a_store_that_refuses_is_there(store: Store) -> None:
    store.error = Rejected("not you", reason="AccessDenied")
    store.reach.hurry(True)
    store.asked_more(5)
    assert store.reach.is_there


def test_where_it_means_nothing_nobody_is_asked(store: Store) -> None:
    eventually(lambda: store.asked == 1, what="the first question")
    store.is_wanted = False
    store.reach.hurry(True)
    store.error = Unavailable("no route")
    eventually(lambda: not store.reach._wake.is_set(), what="a round")
    before = store.asked
    store.reach.hurry(True)
    eventually(lambda: not store.reach._wake.is_set(), what="another round")
    assert store.asked == before
    assert store.reach.is_there
