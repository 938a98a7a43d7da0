"""Clients that talk to tests/support/apps/talker.py without pause, and note whatever goes wrong."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence

from architect.shim.packets.netns import Netns
from support.patience import patient

PATIENCE_SECONDS = patient(60.0)
PORT = 8080
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Client(abc.ABC):
    """One kind of traffic in a thread of its own, from `start` to `stop`."""

    def __init__(self, netns: Netns, address: str, *, seed: int) -> None:
        self.netns = netns
        self.address = address
        self.random = random.Random(seed)
        self.answers = 0
        self.errors: list[str] = []
        self._stopping = threading.Event()
        self._pausing = threading.Event()
        self._resting = threading.Event()
        self._abandoned = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name=f"{type(self).__name__} {address}")

    def start(self) -> None:
        self._thread.start()

    def pause(self) -> None:
        """Ask nothing more until :meth:`resume`; return once nothing is under way."""
        self._pausing.set()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._thread.is_alive() and not self._resting.wait(0.01):
            assert time.monotonic() < deadline, f"{self} does not come to rest"

    def resume(self) -> None:
        """Go on asking."""
        self._pausing.clear()

    def stop(self) -> None:
        """Finish what is under way."""
        self._stopping.set()
        self._thread.join(2 * PATIENCE_SECONDS)
        if self._thread.is_alive():
            self.errors.append("does not come to its end")

    def abandon(self) -> None:
        """Let go of what is under way: its server is gone."""
        self._abandoned.set()
        self._stopping.set()
        while self._thread.is_alive():
            if self._socket is not None:
                with contextlib.suppress(OSError):  # not connected, or closed
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join(0.05)

    def __str__(self) -> str:
        return f"{self._thread.name}: {self.answers} answers, errors {self.errors}"

    def _run(self) -> None:
        try:
            self.talk()
        except (OSError, AssertionError) as error:
            self.errors.append(f"{time.strftime('%T')} after {self.answers}: {error!r}")

    @abc.abstractmethod
    def talk(self) -> None:
        """Ask and check the answers as long as :meth:`goes_on` says so."""

    def goes_on(self, low: float, high: float) -> bool:
        """Pause for a random time, or as long as :meth:`pause` asks; whether to go on."""
        self._stopping.wait(self.random.uniform(low, high))
        while self._pausing.is_set() and not self._stopping.is_set():
            self._resting.set()
            time.sleep(0.005)
        self._resting.clear()
        return not self._stopping.is_set()

    def connect(self) -> socket.socket:
        sock = self.netns.open_socket(family(self.address), socket.SOCK_STREAM)
        self._socket = sock
        sock.settimeout(PATIENCE_SECONDS)
        try:
            sock.connect((self.address, PORT))
        except BaseException:
            sock.close()
            raise
        return sock

    def ask(self, sock: socket.socket, request: bytes, answer: bytes) -> None:
        sock.sendall(request)
        heard = b""
        while not heard.endswith(b"\n"):
            data = sock.recv(65536)
            assert data, "the connection ended"
            heard += data
        assert heard == answer, (heard, answer)
        self.answers += 1


class NewConnections(Client):
    """A connection for each request."""

    def talk(self) -> None:
        while self.goes_on(0.002, 0.05):
            text = b"%d" % self.answers
            with self.connect() as sock:
                self.ask(sock, b"echo " + text + b"\n", text + b"\n")


class KeepAlive(Client):
    """One connection for all requests; pauses are long enough for a sleep to fit in."""

    def talk(self) -> None:
        with self.connect() as sock:
            while self.goes_on(0.05, 0.5):
                text = b"%d" % self.answers
                self.ask(sock, b"echo " + text + b"\n", text + b"\n")


class Uploads(Client):
    """Many segments at once, on one connection."""

    def talk(self) -> None:
        with self.connect() as sock:
            while self.goes_on(0.1, 0.6):
                data = self.random.randbytes(self.random.randint(1, 400_000))
                digest = hashlib.sha256(data).hexdigest().encode()
                self.ask(sock, b"take %d\n" % len(data) + data, digest + b"\n")


class Datagrams(Client):
    """Numbered datagrams; each must come back, in order."""

    def talk(self) -> None:
        with self.netns.open_socket(family(self.address), socket.SOCK_DGRAM) as sock:
            # Answers to what waited for seconds come within milliseconds; they are not the
            # application's to pace.
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
            sock.connect((self.address, PORT))
            sock.setblocking(False)
            sent = 0
            while self.goes_on(0.002, 0.03):
                sock.send(struct.pack("!I", sent))
                sent += 1
                self._hear(sock)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while self.answers < sent and time.monotonic() < deadline:
                if self._abandoned.is_set():
                    return
                time.sleep(0.005)
                self._hear(sock)
            assert self.answers == sent, f"{self.answers} of {sent} came back"

    def _hear(self, sock: socket.socket) -> None:
        while True:
            try:
                (number,) = struct.unpack("!I", sock.recv(16))
            except BlockingIOError:
                return
            assert number == self.answers, f"{number} came back where {self.answers} was due"
            self.answers += 1


KINDS: tuple[Callable[..., Client], ...] = (NewConnections, KeepAlive, Uploads, Datagrams)


def everything(netns: Netns, addresses: Sequence[str], *, seed: int) -> list[Client]:
    """One client of each kind to each address."""
    return [
        kind(netns, address, seed=seed + number)
        for number, address in enumerate(addresses)
        for kind in KINDS
    ]


def tcp_counters(netns: Netns) -> dict[str, int]:
    """What the kernel counted of TCP in a namespace, IPv4 and IPv6 together."""
    names, values = [
        line.split()[1:] for line in netns.read("snmp").splitlines() if line.startswith("Tcp:")
    ]
    return dict(zip(names, map(int, values), strict=True))
