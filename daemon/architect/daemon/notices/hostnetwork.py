"""Connections that are made in the host's network, by a daemon whose pod has its own.

Metadata services give a pod less than they give its node, or nothing: Amazon's tokens do not get
beyond the machine's own network (hop limit 1), GKE's own server stands in front of Google's, and
AKS can refuse pods. A socket belongs for ever to the network namespace in which it was made, so
that only its making has to be there.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from architect.daemon.notices.metadata import connect_here

log = logging.getLogger(__name__)

CLONE_NEWNET: Final = 0x40000000
"""linux/sched.h"""

_libc = ctypes.CDLL(None, use_errno=True)

HOST: Final = Path("/proc/1/ns/net")
"""The host's, as ``hostPID`` shows it."""


class HostNetwork:
    """Connects from there, or from here where it may not go there, which it says once."""

    def __init__(self, namespace: Path = HOST) -> None:
        self._namespace = namespace
        self._has_said = False

    def connect(self, host: str, port: int, seconds: float) -> socket.socket:
        """See :data:`metadata.Connect`."""
        try:
            there = os.open(self._namespace, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return self._from_here(error, host, port, seconds)
        try:
            with contextlib.ExitStack() as undo:
                with _entered(there):
                    link = undo.enter_context(connect_here(host, port, seconds))
                undo.pop_all()
                return link
        except _NotEntered as error:
            return self._from_here(error, host, port, seconds)
        finally:
            os.close(there)

    def _from_here(self, error: Exception, host: str, port: int, seconds: float) -> socket.socket:
        if not self._has_said:
            self._has_said = True
            log.warning(
                "metadata services are asked from the pod's network, since the host's cannot be "
                "entered: %s", error,
            )  # fmt: skip
        return connect_here(host, port, seconds)


class _NotEntered(Exception):
    """The namespace could not be entered; the thread is where it was."""


@contextlib.contextmanager
def _entered(namespace: int) -> Iterator[None]:
    """Have this thread be in another network namespace; no other thread is.

    A failing return raises what nobody catches: going on in the wrong network is worse than ending.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            _setns(namespace)
        except OSError as error:
            raise _NotEntered(str(error)) from error
        try:
            yield
        finally:
            try:
                _setns(home)
            except OSError as error:
                raise RuntimeError("this thread cannot leave the host's network") from error
    finally:
        os.close(home)


def _setns(namespace: int) -> None:
    """setns(2), which ``os`` has from Python 3.12 on."""
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
