"""An address of the loopback that no other process listens or connects at.

A port there that is given back can be taken again: at the usual address it may be another one's.
"""

from __future__ import annotations

import os


def own_host() -> str:
    """Return it, for this process."""
    pid = os.getpid()
    return f"127.{pid >> 16 & 255}.{pid >> 8 & 255}.{pid & 255 | 2}"
