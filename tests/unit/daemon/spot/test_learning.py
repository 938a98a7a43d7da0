"""Rates from what was measured."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.daemon.spot.inputs import Rates
from architect.daemon.spot.learning import KEPT, LEAST_BYTES, Learnt, Measure

GB = 10**9
seconds = st.floats(1e-3, 1e3)
rates_only = st.sampled_from([m for m in Measure if m.is_rate])


def dumped(*rates: float) -> Learnt:
    """Return what is known after dumps of a GB at these rates, the last one the newest."""
    learnt = Learnt()
    for rate in rates:
        learnt = learnt.with_sample(Measure.DUMP, seconds=GB / rate, size_bytes=GB)
    return learnt


def dump_rate(learnt: Learnt) -> float:
    return learnt.rates().dump_bytes_per_second_per_core


def test_before_anything_was_measured_the_defaults_hold() -> None:
    found, default = Learnt().rates(), Rates()
    for name in vars(default):
        assert getattr(found, name) == pytest.approx(getattr(default, name))


def test_every_rate_but_the_disks_is_learnt() -> None:
    unlearnt = vars(Rates()).keys() - {measure.value for measure in Measure}
    assert unlearnt == {"disk_bytes_per_second"}
    for measure in Measure:
        learnt = Learnt()
        for _ in range(KEPT):
            learnt = learnt.with_sample(measure, seconds=4.0, size_bytes=GB)
        expected = GB / 4 if measure.is_rate else 4.0
        assert getattr(learnt.rates(), measure.value) == pytest.approx(expected)
        others = [m for m in Measure if m is not measure]
        for other in others:
            assert getattr(learnt.rates(), other.value) == pytest.approx(
                getattr(Rates(), other.value)
            )


def test_of_the_first_sample_and_the_default_the_slower_is_believed() -> None:
    assert dump_rate(dumped(5 * GB)) == pytest.approx(900e6)
    assert dump_rate(dumped(100e6)) == pytest.approx(100e6)


def test_a_node_that_became_slow_is_believed_at_the_third_sample() -> None:
    fast = [2.0 * GB] * KEPT
    assert dump_rate(dumped(*fast)) == pytest.approx(2 * GB)
    assert dump_rate(dumped(*fast, 100e6, 100e6)) == pytest.approx(2 * GB)
    assert dump_rate(dumped(*fast, 100e6, 100e6, 100e6)) == pytest.approx(100e6)


def test_a_node_that_became_fast_is_believed_once_that_lasts() -> None:
    slow = [100e6] * KEPT
    assert dump_rate(dumped(*slow, *[2.0 * GB] * 12)) == pytest.approx(100e6)
    assert dump_rate(dumped(*slow, *[2.0 * GB] * 24)) == pytest.approx(2 * GB)


def test_half_slow_and_half_fast_is_slow() -> None:
    assert dump_rate(dumped(*[100e6, 2.0 * GB] * 16)) == pytest.approx(100e6)


def test_fixed_seconds_are_learnt_at_their_slow_end() -> None:
    learnt = Learnt()
    for taken in [0.2, 0.2, 0.2, 0.5] * 8:
        learnt = learnt.with_sample(Measure.CAPTURE_FIXED, seconds=taken)
    assert learnt.rates().capture_fixed_seconds == 0.5


@pytest.mark.parametrize("taken", [0.0, -1.0, math.nan, math.inf])
def test_what_cannot_be_is_not_learnt(taken: float) -> None:
    assert Learnt().with_sample(Measure.DUMP, seconds=taken, size_bytes=GB) == Learnt()
    if taken != 0:
        assert Learnt().with_sample(Measure.OBJECT, seconds=taken) == Learnt()


def test_what_is_small_tells_no_rate() -> None:
    assert Learnt().with_sample(Measure.SEAL, seconds=9.0, size_bytes=LEAST_BYTES - 1) == Learnt()
    assert Learnt().with_sample(Measure.SEAL, seconds=9.0) == Learnt()


@given(taken=st.lists(seconds, max_size=80), measure=st.sampled_from(list(Measure)))
def test_what_is_believed_was_measured_or_is_the_default(taken, measure):
    learnt = Learnt()
    for sample in taken:
        learnt = learnt.with_sample(measure, seconds=sample, size_bytes=GB)
    found = getattr(learnt.rates(), measure.value)
    known = [GB / s if measure.is_rate else s for s in taken[-KEPT:]]
    assert any(found == pytest.approx(value) for value in (*known, getattr(Rates(), measure.value)))
    assert len(learnt.samples.get(measure, ())) == min(len(taken), KEPT)


@given(
    taken=st.lists(seconds, min_size=1, max_size=40), place=st.integers(0, 39), measure=rates_only
)
def test_a_slower_sample_never_makes_a_faster_rate(taken, place, measure):
    slower = [s * 3 if n == place else s for n, s in enumerate(taken)]
    rates = []
    for samples in (taken, slower):
        learnt = Learnt()
        for sample in samples:
            learnt = learnt.with_sample(measure, seconds=sample, size_bytes=GB)
        rates.append(getattr(learnt.rates(), measure.value))
    assert rates[1] <= rates[0]
