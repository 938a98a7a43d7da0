"""The wall clock of a machine that is nobody else's: :mod:`vm` makes such ones."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from faults.errors import FaultError

ALLOWED: Final = "ARCHITECT_OWN_MACHINE"
"""Environment variable, ``1`` where the clock may be set."""
DAY_SECONDS: Final = 86400.0


def may_be_set() -> bool:
    """Whether this machine's clock is ours."""
    return os.environ.get(ALLOWED) == "1"


@contextmanager
def off_by(seconds: float) -> Iterator[None]:
    """Have the clock off by *seconds*. Raises FaultError where it is not ours."""
    if not may_be_set():
        raise FaultError(f"the clock is the whole machine's: {ALLOWED} is not 1")
    _step(seconds)
    try:
        yield
    finally:
        _step(-seconds)


def _step(seconds: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME) + seconds)
