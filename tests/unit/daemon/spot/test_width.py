"""How many objects at once while the node's end is announced."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.daemon.spot import width
from architect.daemon.spot.inputs import Bounds, Rates
from support.spot import any_rates

GIB = 1 << 30
FAST = Rates(upload_bytes_per_second=math.inf)


@pytest.mark.parametrize(
    ("rates", "cores", "memory_bytes", "expected"),
    [
        (Rates(), 2, 4 * GIB, 5),
        (Rates(), 16, 4 * GIB, 5),
        (FAST, 2, 4 * GIB, 7),
        (FAST, 4, 4 * GIB, 14),
        (FAST, 16, 4 * GIB, 39),
        (FAST, 16, 1 * GIB, 9),
        (FAST, 16, GIB // 8, 3),
        (FAST, 16, 0, 58),
        (FAST, 96, 0, width.MOST),
        (replace(FAST, upload_object_seconds=0.0), 16, 4 * GIB, 16),
        # A slow link: of many objects each would take long.
        (Rates(upload_bytes_per_second=4e6), 16, 4 * GIB, 3),
        # What has no speed is nobody's reason for more.
        (Rates(upload_bytes_per_second=0.0), 16, 4 * GIB, 3),
        (replace(FAST, seal_bytes_per_second_per_core=0.0), 16, 4 * GIB, 3),
    ],
)
def test_what_is_of_use(rates: Rates, cores: int, memory_bytes: int, expected: int) -> None:
    assert width.objects(rates, cores=cores, memory_bytes=memory_bytes) == expected


@given(
    rates=any_rates, cores=st.integers(0, 256), gibibytes=st.integers(0, 64), factor=st.floats(1, 9)
)
def test_it_is_within_its_bounds_and_grows_with_the_link(rates, cores, gibibytes, factor):
    memory = gibibytes * GIB
    found = width.objects(rates, cores=cores, memory_bytes=memory)
    assert Bounds().objects <= found <= width.MOST
    if memory:
        fits = memory / width.MEMORY_PART / width.STREAM_BYTES
        assert found <= max(Bounds().objects, fits)
    faster = replace(rates, upload_bytes_per_second=rates.upload_bytes_per_second * factor)
    assert width.objects(faster, cores=cores, memory_bytes=memory) >= found
