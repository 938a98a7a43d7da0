"""A peer of a container's: a network namespace with a cable to that of the container."""

from __future__ import annotations

import socket
import subprocess

from architect.shim.packets.netns import Netns
from support.runtime import DEADLINE_SECONDS


class Neighbour:
    """Another network namespace, with a cable to that of a container."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._name = f"arch-test-{pid}"

    def __enter__(self) -> Neighbour:
        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True)

        inside = ["nsenter", f"--net=/proc/{self._pid}/ns/net"]
        ip("netns", "add", self._name)
        ip("-n", self._name, "link", "add", "a0", "type", "veth", "peer", "b0")
        ip("-n", self._name, "link", "set", "b0", "netns", str(self._pid))
        ip("-n", self._name, "addr", "add", "10.9.0.1/24", "dev", "a0")
        ip("-n", self._name, "link", "set", "a0", "up")
        subprocess.run([*inside, "ip", "addr", "add", "10.9.0.2/24", "dev", "b0"], check=True)
        subprocess.run([*inside, "ip", "link", "set", "b0", "up"], check=True)
        return self

    def connect(self) -> socket.socket:
        """Return a connection from there to the container."""
        with Netns.open(f"/run/netns/{self._name}") as netns:
            made = netns.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(DEADLINE_SECONDS)
        made.connect(("10.9.0.2", 7000))
        return made

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self._name], check=True)
