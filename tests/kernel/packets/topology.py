"""A node in miniature: network namespaces for the host, a pod and a client, on one bridge."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from architect.shim.packets.netns import Netns
from support.patience import patient

HOST = {4: "10.77.0.1", 6: "fd77::1"}
POD = {4: "10.77.0.2", 6: "fd77::2"}
CLIENT = {4: "10.77.0.3", 6: "fd77::3"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
DEADLINE_SECONDS = patient(90.0)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)


def until(condition: Callable[[], object], *, what: str) -> None:
    """Wait for a condition that a kernel or a process is about to make true."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_SECONDS} s: {what}"
        time.sleep(0.002)


@dataclass
class Topology:
    """The three namespaces; `prefix` keeps concurrent runs apart."""

    prefix: str = field(default_factory=lambda: f"pkt{os.getpid()}")
    sockets: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = {part: f"{self.prefix}-{part}" for part in ("host", "pod", "client")}
        for name in self.names.values():
            run("ip", "netns", "add", name)
            for key in ("all", "default"):
                # Duplicate address detection would keep addresses unusable for a second.
                run(
                    "ip",
                    "netns",
                    "exec",
                    name,
                    "sysctl",
                    "-qw",
                    f"net.ipv6.conf.{key}.accept_dad=0",
                )
            run("ip", "-n", name, "link", "set", "lo", "up")
        host = self.names["host"]
        run("ip", "-n", host, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", host, "link", "set", "br0", "up")
        self._address("host", "br0", HOST)
        for part, addresses in (("pod", POD), ("client", CLIENT)):
            run(
                "ip",
                "-n",
                host,
                "link",
                "add",
                f"v-{part}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                self.names[part],
            )
            run("ip", "-n", host, "link", "set", f"v-{part}", "master", "br0", "up")
            run("ip", "-n", self.names[part], "link", "set", "eth0", "up")
            self._address(part, "eth0", addresses)
        self.host = Netns.open(f"/run/netns/{host}")
        self.pod = Netns.open(f"/run/netns/{self.names['pod']}")
        self.client = Netns.open(f"/run/netns/{self.names['client']}")

    def _address(self, part: str, link: str, addresses: dict[int, str]) -> None:
        for version, address in addresses.items():
            length = "24" if version == 4 else "64"
            extra = () if version == 4 else ("nodad",)
            run(
                "ip",
                "-n",
                self.names[part],
                "address",
                "add",
                f"{address}/{length}",
                "dev",
                link,
                *extra,
            )

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for netns in (self.host, self.pod, self.client):
            netns.close()
        for name in self.names.values():
            run("ip", "netns", "delete", name)

    def keep(self, sock: socket.socket) -> socket.socket:
        """Close the socket with the topology."""
        self.sockets.append(sock)
        return sock

    def listen(self, version: int = 4, *, port: int, address: str = "") -> socket.socket:
        """A TCP server in the pod."""
        sock = self.keep(self.pod.open_socket(FAMILY[version], socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address or POD[version], port))
        sock.listen(64)
        sock.setblocking(False)
        return sock

    def udp_server(self, version: int = 4, *, port: int) -> socket.socket:
        sock = self.keep(self.pod.open_socket(FAMILY[version], socket.SOCK_DGRAM))
        sock.bind((POD[version], port))
        sock.setblocking(False)
        return sock

    def connect(
        self, version: int = 4, *, port: int, source: Netns | None = None, to: str = ""
    ) -> socket.socket:
        """Begin to connect to the pod; it is done when `connected` says so."""
        netns = source if source is not None else self.client
        sock = self.keep(netns.open_socket(FAMILY[version], socket.SOCK_STREAM))
        sock.setblocking(False)
        sock.connect_ex((to or POD[version], port))
        return sock

    def udp(self, version: int = 4, *, source: Netns | None = None) -> socket.socket:
        netns = source if source is not None else self.client
        return self.keep(netns.open_socket(FAMILY[version], socket.SOCK_DGRAM))


def connected(sock: socket.socket) -> bool:
    """Whether a connect has ended well; a refused one raises."""
    _, writable, _ = select.select((), (sock,), (), 0)
    if not writable:
        return False
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
    return True


def accepted(server: socket.socket) -> socket.socket:
    """The next connection of a server."""
    found: list[socket.socket] = []

    def take() -> bool:
        try:
            sock, _ = server.accept()
        except BlockingIOError:
            return False
        sock.setblocking(False)
        found.append(sock)
        return True

    until(take, what="a connection to accept")
    return found[0]


def received(sock: socket.socket, size: int = 65536) -> bytes | None:
    """What can be read now; None if nothing."""
    try:
        return sock.recv(size)
    except BlockingIOError:
        return None
