"""Which process has a socket: how kubelet's connections are known from others.

Kubelet is the process that listens on its API port in the host's network namespace, whatever its
binary is called (k3s and others have it inside a bigger one).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .sockdiag import SockDiag

#: Kubelet's default `port` (KubeletConfiguration).
KUBELET_PORT: Final = 10250

#: A scan of all processes takes 5 to 50 ms on a busy node; without kubelet it is not repeated
#: for every packet.
_SCAN_INTERVAL_SECONDS: Final = 1.0


@dataclass(frozen=True)
class _Holder:
    """A descriptor that was seen to be a socket."""

    path: str
    pid: str
    link: str


class Kubelet:
    """Answers whether a socket is kubelet's; finds kubelet again after its restart."""

    def __init__(
        self,
        diag: SockDiag,
        *,
        port: int = KUBELET_PORT,
        proc: str = "/proc",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`diag` and `proc` are those of the host's namespaces."""
        self._diag = diag
        self._port = port
        self._proc = proc
        self._clock = clock
        self._holder: _Holder | None = None
        self._scanned: float | None = None
        self._last_descriptor = ""

    @property
    def pid(self) -> int | None:
        """Kubelet's process id; None if nothing listens on its port. OSError."""
        holder = self._find()
        return int(holder.pid) if holder is not None else None

    def owns(self, inode: int) -> bool:
        """Whether kubelet has a descriptor of the socket. OSError."""
        holder = self._find()
        if holder is None or inode == 0:
            return False
        link = f"socket:[{inode}]"
        folder = f"{self._proc}/{holder.pid}/fd"
        # Free numbers are used again, lowest first: the next probe has often the last one's.
        if self._last_descriptor and _link(f"{folder}/{self._last_descriptor}") == link:
            return True
        for name in _names(folder):
            if _link(f"{folder}/{name}") == link:
                self._last_descriptor = name
                return True
        return False

    def _find(self) -> _Holder | None:
        """The descriptor of kubelet's listening socket, checked to be so still."""
        holder = self._holder
        if holder is not None and _link(holder.path) == holder.link:
            return holder
        now = self._clock()
        if self._scanned is not None and now - self._scanned < _SCAN_INTERVAL_SECONDS:
            return None
        self._scanned = now
        links = {f"socket:[{found.inode}]" for found in self._diag.listeners_on(self._port)}
        self._holder = self._scan(links - {"socket:[0]"}) if links else None
        return self._holder

    def _scan(self, links: set[str]) -> _Holder | None:
        for pid in _names(self._proc):
            if not pid.isdigit():
                continue
            for name in _names(f"{self._proc}/{pid}/fd"):
                path = f"{self._proc}/{pid}/fd/{name}"
                link = _link(path)
                if link in links:
                    return _Holder(path, pid, link)
        return None


def _names(folder: str) -> list[str]:
    """What a folder of /proc lists; nothing if its process has gone."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _link(path: str) -> str:
    """Where a link of /proc points; empty if it has gone."""
    try:
        return os.readlink(path)
    except OSError:
        return ""
