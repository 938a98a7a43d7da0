"""What uploads tell of their speed."""

from __future__ import annotations

import contextlib

import pytest

from architect.core.errors import Unavailable
from architect.daemon.spot.learning import Measure
from architect.daemon.spot.rates import Known
from architect.daemon.vault.meter import SMALL_BYTES, WINDOW_BYTES, Meter

MIB = 1 << 20


class Metered:
    """A meter, a clock that a test moves, and what was told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[tuple[Measure, float, int]] = []
        self.rates: list[float] = []
        self.meter = Meter(
            lambda *sample: self.told.append(sample),
            rate=self.rates.append,
            clock=lambda: self.now,
        )

    def send(self, size: int, seconds: float) -> None:
        with self.meter.sending(size):
            self.now += seconds

    def of(self, measure: Measure) -> list[tuple[float, int]]:
        return [(round(seconds, 6), size) for m, seconds, size in self.told if m is measure]


@pytest.fixture
def metered() -> Metered:
    return Metered()


def test_time_in_which_nothing_is_sent_does_not_count(metered: Metered) -> None:
    metered.send(8 * MIB, 0.25)
    metered.now += 100
    metered.send(16 * MIB, 0.5)
    assert metered.of(Measure.UPLOAD) == [(0.25, 8 * MIB), (0.5, 16 * MIB)]
    assert metered.rates == [32 * MIB, 32 * MIB]


def test_what_is_sent_at_once_shares_the_time(metered: Metered) -> None:
    with metered.meter.sending(8 * MIB):
        metered.now += 0.5
        metered.send(8 * MIB, 0.5)
        assert metered.of(Measure.UPLOAD) == []
        metered.now += 1
    assert metered.of(Measure.UPLOAD) == [(2.0, 16 * MIB)]


def test_a_long_upload_tells_while_it_lasts(metered: Metered) -> None:
    with metered.meter.sending(8 * MIB):
        for _ in range(4):
            metered.send(WINDOW_BYTES // 4, 0.2)
        assert metered.of(Measure.UPLOAD) == [], "not long enough"
        metered.send(8 * MIB, 0.4)
        assert metered.of(Measure.UPLOAD) == [(1.2, WINDOW_BYTES + 8 * MIB)]


def test_what_fails_tells_nothing(metered: Metered) -> None:
    with contextlib.suppress(Unavailable), metered.meter.sending(8 * MIB):
        metered.now += 20
        raise Unavailable("away")
    assert metered.told == []
    metered.send(8 * MIB, 0.1)
    assert metered.of(Measure.UPLOAD) == [(0.1, 8 * MIB)]


def test_a_small_object_is_the_stores_answer(metered: Metered) -> None:
    metered.send(SMALL_BYTES, 0.125)
    metered.send(SMALL_BYTES + 1, 9.0)
    assert metered.of(Measure.OBJECT) == [(0.125, 0)]
    metered.send(8 * MIB, 0.25)
    assert metered.of(Measure.UPLOAD) == [(9.25, 8 * MIB + SMALL_BYTES + 1)]


@pytest.mark.parametrize("measure", [Measure.SEAL, Measure.HASH])
def test_work_is_told_by_the_core(metered: Metered, measure: Measure) -> None:
    work = {Measure.SEAL: metered.meter.sealed, Measure.HASH: metered.meter.hashed}
    other = next(m for m in work if m is not measure)
    for _ in range(WINDOW_BYTES // (8 * MIB)):
        assert metered.of(measure) == []
        work[measure](0.03125, 8 * MIB)
        work[other](9.0, 0)
    assert metered.of(measure) == [(0.25, WINDOW_BYTES)]
    work[measure](1.0, 8 * MIB)
    assert len(metered.of(measure)) == 1
    assert metered.of(other) == []


def test_the_planner_learns_it() -> None:
    known, metered = Known(), Metered()
    metered.meter = Meter(known.take, clock=lambda: metered.now)
    for _ in range(3):
        metered.send(10_000_000, 0.5)
        metered.send(1000, 0.75)
        metered.meter.sealed(1.0, 100_000_000)
        metered.meter.hashed(0.5, 100_000_000)
    assert known.rates().upload_bytes_per_second == pytest.approx(20e6)
    assert known.rates().upload_object_seconds == 0.75
    assert known.rates().seal_bytes_per_second_per_core == pytest.approx(100e6)
    assert known.rates().hash_bytes_per_second_per_core == pytest.approx(200e6)
