"""How much the daemon sends at once, and in which order."""

from __future__ import annotations

from typing import Any, cast

import pytest

from architect.checkpoint import envelope
from architect.core.errors import Rejected
from architect.daemon.heap import Heap
from architect.daemon.metrics import Metrics
from architect.daemon.spot import width
from architect.daemon.spot.inputs import Rates
from architect.daemon.spot.learning import Measure
from architect.daemon.spot.rates import Known
from architect.daemon.vault.service import Vault

MB = 10**6
CORES = 16
FIRST = width.objects(Rates(), cores=CORES, memory_bytes=0)
"""How many at a notice, before anything was measured."""


class Made:
    """A vault that opens no store, and how many streams it has."""

    def __init__(self, *, streams: int = 3) -> None:
        self.known = Known()
        self.requests: Any = None
        self.store: Any = None
        self.vault = Vault(
            bucket="b",
            prefix="",
            open_store=self._open,
            cluster_key=cast(Any, None),
            credentials=cast(Any, None),
            metrics=Metrics(),
            heap=Heap(),
            floor_bytes=0,
            known=self.known,
            streams=streams,
            at_notice=self._at_notice,
        )

    def _open(self, requests: Any) -> Any:
        self.requests = requests
        return self.store

    @staticmethod
    def _at_notice(rates: Rates) -> int:
        return width.objects(rates, cores=CORES, memory_bytes=0)

    @property
    def at_once(self) -> int:
        return self.vault._streams.at_once

    def sends(self, rate: float) -> None:
        """Let the link carry so much for a while, and have it be seen."""
        self.known.take(Measure.UPLOAD, 1.0, int(rate))
        self.vault._widen(rate)


@pytest.fixture
def made() -> Made:
    return Made()


def test_there_are_more_while_the_end_is_near(made: Made) -> None:
    assert made.at_once == 3
    assert made.vault.objects_at_notice() == FIRST
    made.vault.hurry(is_needed=True)
    assert made.at_once == FIRST > 3
    made.vault.hurry(is_needed=False)
    assert made.at_once == 3


def test_a_link_that_is_faster_than_was_known_gets_more(made: Made) -> None:
    made.sends(1000 * MB)
    assert made.at_once == 3, "there is no hurry"
    made.vault.hurry(is_needed=True)
    assert made.at_once == FIRST, "what was seen once is not believed"
    seen = []
    for rate in (150 * MB, 400 * MB, 300 * MB, 1200 * MB):
        made.sends(rate)
        seen.append(made.at_once)
    assert seen == sorted(seen)
    assert seen[1] == seen[2]
    assert FIRST < seen[0] < seen[1] < seen[3] <= width.MOST
    # A plan made anew takes nothing away.
    made.vault.hurry(is_needed=True)
    assert made.at_once == seen[3]


def test_who_wants_more_has_them_always() -> None:
    made = Made(streams=20)
    assert made.vault.objects_at_notice() == 20
    made.vault.hurry(is_needed=True)
    assert made.at_once == 20


def test_requests_are_as_many_as_streams_and_one_for_all_else(made: Made) -> None:
    made.vault._parts()
    assert made.requests() == 4
    made.vault.hurry(is_needed=True)
    assert made.requests() == FIRST + 1


def test_the_order_is_that_of_the_streams_before_and_after_the_store_is_opened(made: Made) -> None:
    made.vault.prefer(["b", "a"])
    uploader, _ = made.vault._parts()
    assert uploader._streams is made.vault._streams
    assert made.vault._streams._rank == {"b": 0, "a": 1}


def test_the_store_is_asked_for_what_no_checkpoint_is(made: Made) -> None:
    asked: list[tuple[str, int]] = []

    class Bucket:
        def get(self, key: str, *, most_bytes: int, timeout_seconds: float) -> bytes:
            assert 0 < timeout_seconds < 10
            asked.append((key, most_bytes))
            raise Rejected("there is no such object", reason="NotFound")

    made.store = Bucket()
    with pytest.raises(Rejected):
        made.vault.look()
    ((key, most_bytes),) = asked
    assert envelope.place_of(key) is None
    assert most_bytes == 1
