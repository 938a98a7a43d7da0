"""Addresses and ports of the loopback that can be given back and taken again.

At the usual address a port that was the kernel's choice may be another one's then: whoever connects
has one of the same range.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path
from typing import Final

CHOSEN: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The ports that the kernel gives to whoever asks for none."""
LOWEST: Final = 10_000


def own_host() -> str:
    """Return it, for this process."""
    pid = os.getpid()
    return f"127.{pid >> 16 & 255}.{pid >> 8 & 255}.{pid & 255 | 2}"


def lasting_port() -> int:
    """Return a port of all addresses at which nobody listens, and that the kernel gives to nobody.

    Between this and its use another program that names it may take it, which none does by chance.
    """
    beyond, _ = map(int, CHOSEN.read_text().split())
    while True:
        port = random.SystemRandom().randrange(min(LOWEST, beyond // 2), beyond)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
