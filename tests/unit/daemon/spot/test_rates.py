"""What all threads of a daemon learn together."""

from __future__ import annotations

import threading

import pytest

from architect.daemon.spot.inputs import Rates
from architect.daemon.spot.learning import KEPT, Learnt, Measure
from architect.daemon.spot.rates import Known

MB = 10**6


def test_nothing_measured_is_the_defaults() -> None:
    assert vars(Known().rates()) == pytest.approx(vars(Rates()))


def test_what_was_measured_is_planned_with() -> None:
    known = Known()
    for _ in range(3):
        known.take(Measure.UPLOAD, 2.0, 100 * MB)
        known.take(Measure.OBJECT, 0.5)
    assert known.rates().upload_bytes_per_second == pytest.approx(50 * MB)
    assert known.rates().upload_object_seconds == 0.5


def test_it_goes_on_from_what_is_known() -> None:
    learnt = Learnt().with_sample(Measure.OBJECT, seconds=3.0)
    assert Known(learnt).rates() == learnt.rates()


def test_no_sample_of_any_thread_is_lost() -> None:
    known, threads = Known(), 4
    start = threading.Barrier(threads)

    def measure() -> None:
        start.wait()
        for _ in range(KEPT // threads):
            known.take(Measure.OBJECT, 0.7)

    running = [threading.Thread(target=measure) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert known._learnt.samples[Measure.OBJECT] == (0.7,) * KEPT
