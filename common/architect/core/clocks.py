"""The clock for what is decided by the time that has passed: the wall clock may be set at any time.

What people read is told in the wall clock's time all the same.
"""

from __future__ import annotations

import time


def boot_seconds() -> float:
    """Return the seconds since the machine was booted, those in which it was suspended included.

    The same in every process of a machine, and not set by anybody. A reboot begins it anew.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
