"""The networks of pods that move: each has addresses of its own, and a peer at its cable's end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from architect.shim.packets.netns import Netns
from support.runtime import DEADLINE_SECONDS

OUTSIDE: Final = "10.99.0.1"
"""What every peer has, and every pod reaches by its default route."""
NO_DAD: Final = Path("/proc/sys/net/ipv6/conf/default/accept_dad")
"""Detection of duplicates would keep addresses unusable for a second."""


class PodNetwork:
    """The network namespace of a pod, and another one with a cable to it."""

    def __init__(self, number: int, *, families: Sequence[int] = (4, 6)) -> None:
        """Make both, with addresses in which *number* stands, of the IP versions *families*."""
        self._stack = contextlib.ExitStack()
        self.ipv4, self.ipv6 = f"10.{number}.0.2", f"fd00:{number}::2"
        self.link_local = f"fe80::{number}:2"
        """A pod has one of these, whatever its families are."""
        self._pod, self._peer = (self._stack.enter_context(Netns.fresh()) for _ in range(2))
        for netns in (self._pod, self._peer):
            with netns.entered():
                NO_DAD.write_text("0")
                _ip("link", "set", "lo", "up")
        with self._peer.entered():
            cable = ("link", "add", "eth0", "type", "veth", "peer", "name", "eth0")
            _ip(*cable, "netns", str(self.path))
            _ip("address", "add", f"{OUTSIDE}/32", "dev", "lo")
        for netns, last in ((self._pod, 2), (self._peer, 1)):
            with netns.entered():
                _ip("link", "set", "eth0", "addrgenmode", "none")
                _ip("link", "set", "eth0", "up")
                _address(f"fe80::{number}:{last}/64")
                if 4 in families:
                    _address(f"10.{number}.0.{last}/24")
                if 6 in families:
                    _address(f"fd00:{number}::{last}/64")
        with self._pod.entered():
            if 4 in families:
                _ip("route", "add", "default", "via", f"10.{number}.0.1")

    @property
    def path(self) -> Path:
        """The pod's namespace, as a runtime is told of it."""
        return Path(f"/proc/{os.getpid()}/fd/{self._pod.fileno()}")

    def socket(self, kind: int, *, family: int = socket.AF_INET) -> socket.socket:
        """Return a socket of the peer's, which ends with this."""
        made = self._stack.enter_context(self._peer.open_socket(family, kind))
        made.settimeout(DEADLINE_SECONDS)
        return made

    def ask(self, kind: int, host: str, port: int) -> bytes:
        """Return what the pod answers to the peer at an address of its own."""
        with self._peer.entered():
            if host.startswith("fe80:"):
                host += "%eth0"
            family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
        asks = self.socket(kind, family=family)
        asks.connect(address)
        if kind == socket.SOCK_DGRAM:
            asks.send(b"?")
        return asks.recv(100)

    def close(self) -> None:
        """Let both go."""
        self._stack.close()


def _address(text: str) -> None:
    _ip("address", "add", text, "dev", "eth0", *(["nodad"] if ":" in text else []))


def _ip(*words: str) -> None:
    """Run ``ip`` where this thread is."""
    subprocess.run(["ip", *words], check=True)
