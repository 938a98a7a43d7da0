"""What a container gets from outside of it: a directory of sockets, some of which pass descriptors.

Mounted into the container, as a volume is that a node's agent and a pod share.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Make = Callable[[], Any]


class Outside:
    """A process beside the container: this one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        directory.chmod(0o777)
        self._kept: list[Any] = []
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._datagrams.bind(str(directory / "log"))
        os.mkfifo(directory / "fifo")
        self._fifo = os.open(directory / "fifo", os.O_RDWR)
        self._serve("stream", None)
        self._serve("file", lambda: _File(directory.with_name("file")))
        self._serve("device", lambda: _File(Path("/dev/fuse")))
        self._serve("tun", lambda: _File(Path("/dev/net/tun")))
        self._serve("terminal", _Slave)
        self._serve("pair", self._end_of_pair)

    def _end_of_pair(self) -> socket.socket:
        here, there = socket.socketpair()
        self._kept.append(here)
        return there

    def _serve(self, name: str, make: Make | None) -> None:
        """Listen on the socket *name*; pass what *make* makes to whoever connects."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.directory / name))
        listener.listen()
        self._listeners.append(listener)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                self._kept.append(connection)
                if make is not None:
                    self._kept.append(made := make())
                    with contextlib.suppress(OSError):  # who asked has gone
                        socket.send_fds(connection, [b"x"], [made.fileno()])

        self._threads.append(threading.Thread(target=accept, daemon=True))
        self._threads[-1].start()

    def close(self) -> None:
        """Let go of everything."""
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:  # or one more would be kept behind our back
            thread.join()
        for listener in self._listeners:
            listener.close()
        self._datagrams.close()
        for kept in self._kept:
            kept.close()
        os.close(self._fifo)


class _File:
    """A descriptor of a file of ours."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


class _Slave:
    """The end of a pseudo terminal whose master stays here."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()

    def fileno(self) -> int:
        return self._slave

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)
