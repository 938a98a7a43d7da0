"""Sockets in another network namespace, from which the cluster's Services are reached.

A socket stays in the namespace in which it was made, whoever uses it later. So a thread of its own
enters the namespace, connects and ends: the rest of this process stays where it is.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Final, TypeVar

TIMEOUT_SECONDS: Final = 60.0
CLONE_NEWNET: Final = 0x40000000  # <linux/sched.h>

_T = TypeVar("_T")


def tcp(
    namespace: str | Path | None,
    address: str,
    port: int,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> socket.socket:
    """Return a connection made inside *namespace*; None: the one we are in. Raises OSError.

    *timeout_seconds* is for the connection, and for each answer afterwards.
    """

    def connect() -> socket.socket:
        return socket.create_connection((address, port), timeout=timeout_seconds)

    return connect() if namespace is None else _inside(namespace, connect)


def udp(namespace: str | Path, address: str, port: int) -> socket.socket:
    """Return a connected UDP socket made inside *namespace*. Raises OSError."""

    def connect() -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.settimeout(TIMEOUT_SECONDS)
        made.connect((address, port))
        return made

    return _inside(namespace, connect)


def _inside(namespace: str | Path, work: Callable[[], _T]) -> _T:
    def enter_and_work() -> _T:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(namespace) as there:
            if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(namespace))
        return work()

    with futures.ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(enter_and_work).result()
