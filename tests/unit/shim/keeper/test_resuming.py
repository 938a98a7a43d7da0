"""Since when a pod sleeps is known by the machine's clock, whoever sets the other one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api.keeper import PodState
from architect.core import clocks
from architect.shim.keeper import resuming
from architect.shim.keeper.podstate import Remembered

DAY = 86400.0


@given(jump=st.floats(min_value=-DAY, max_value=DAY), slept=st.floats(min_value=0, max_value=9000))
def test_the_next_keeper_knows_it_as_well(jump: float, slept: float) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(clocks, "boot_seconds", lambda: 10000.0)
        patched.setattr(time, "time", lambda: 1e9 + jump)
        saved = Remembered(phase=PodState.ASLEEP, since=1e9 - slept, since_boot=10000.0 - slept)
        assert resuming._since_boot(saved) == 10000.0 - slept


@pytest.mark.parametrize("since_boot", [None, 10001.0])
def test_what_is_of_an_earlier_version_or_run_is_told_by_the_wall_clock(
    since_boot: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "boot_seconds", lambda: 10000.0)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    saved = Remembered(phase=PodState.ASLEEP, since=1e9 - 60, since_boot=since_boot)
    assert resuming._since_boot(saved) == 9940.0
    later = Remembered(phase=PodState.ASLEEP, since=1e9 + DAY, since_boot=since_boot)
    assert resuming._since_boot(later) == 10000.0
