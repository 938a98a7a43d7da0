"""Network namespaces: name one, open sockets in it, read its files.

A socket belongs for ever to the namespace in which it was made; only its making needs the
namespace. Entering changes the calling thread alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

#: linux/sched.h
CLONE_NEWNET: Final = 0x40000000


class NetnsIdentity(NamedTuple):
    """What tells one network namespace from another on this host (nsfs inode)."""

    device: int
    inode: int


def _setns(fd: int) -> None:
    _call("setns", fd, CLONE_NEWNET)


def _call(name: str, *arguments: int) -> None:
    """setns(2) or unshare(2); `os` has them from Python 3.12 on."""
    native = getattr(os, name, None)
    if native is not None:
        native(*arguments)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Netns:
    """An open network namespace; it lives as long as this holds it, also without processes."""

    def __init__(self, fd: int) -> None:
        """Take over `fd`, which is closed by `close`."""
        self._fd = fd
        status = os.fstat(fd)
        self.identity = NetnsIdentity(status.st_dev, status.st_ino)

    @classmethod
    def open(cls, path: str) -> Netns:
        """The namespace at a path such as /run/netns/NAME or /proc/PID/ns/net."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def of_process(cls, pid: int) -> Netns:
        """The namespace in which process `pid` is now."""
        return cls.open(f"/proc/{pid}/ns/net")

    @classmethod
    def own(cls) -> Netns:
        """The namespace of the calling thread."""
        return cls.open("/proc/thread-self/ns/net")

    @classmethod
    def fresh(cls) -> Netns:
        """A new namespace, which ends with `close`. OSError."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("unshare", CLONE_NEWNET)
            try:
                return cls.own()
            finally:
                _setns(home)
        finally:
            os.close(home)

    def fileno(self) -> int:
        """The descriptor, for a poller or for a child."""
        return self._fd

    def close(self) -> None:
        """Let the namespace go; calling twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Netns:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the namespace inside the block.

        A failing return raises: going on in a stranger's namespace is worse than ending.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self._fd)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def open_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A new socket that belongs to the namespace."""
        with self.entered():
            return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)

    def netlink(self, protocol: int) -> socket.socket:
        """A bound netlink socket of the namespace."""
        made = self.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        try:
            made.bind((0, 0))
        except OSError:
            made.close()
            raise
        return made

    def read(self, name: str) -> str:
        """The text of /proc/net/`name` as this namespace shows it."""
        # thread-self: /proc/net follows the group leader, which may be elsewhere.
        with self.entered(), open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:
            return file.read()
