"""What tests of the stand-in run in: a network namespace, and a loop as the keeper's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from architect.shim.standin.server import StandIn
from support.patience import patient

CLONE_NEWNET = 0x40000000
DEADLINE_SECONDS = patient(90.0)


class Namespace:
    """A network namespace with loopback up, kept by a child that waits for its stdin's end."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"up\n"
        self.path = f"/proc/{self.holder.pid}/ns/net"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, open(self.path) as there:
            assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert libc.setns(home.fileno(), CLONE_NEWNET) == 0

    def run(self, *argv: str) -> str:
        return subprocess.run(
            ["nsenter", f"--net={self.path}", *argv],
            check=True,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        ).stdout

    def close(self) -> None:
        self.holder.communicate(timeout=DEADLINE_SECONDS)


class Serving:
    """Runs stand-ins in a thread of their own, as the keeper's loop does."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.standins: dict[int, StandIn] = {}
        self.epoll = select.epoll()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.loop)
        self.thread.start()

    def add(self, standin: StandIn) -> StandIn:
        with self.lock:
            self.standins[standin.fileno()] = standin
            self.epoll.register(standin, select.EPOLLIN)
        return standin

    def loop(self) -> None:
        while not self.stopped.is_set():
            for fd, _ in self.epoll.poll(0.1):
                with self.lock:
                    self.standins[fd].ready()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        with self.lock:
            yield

    def until(self, condition: Callable[[], Any], *, what: str) -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            with self.lock:
                if condition():
                    return
            assert time.monotonic() < end, f"{what}: {[s.counters for s in self.standins.values()]}"
            time.sleep(0.005)

    def close(self) -> None:
        self.stopped.set()
        self.thread.join(DEADLINE_SECONDS)
        for standin in self.standins.values():
            standin.close()
        self.epoll.close()
