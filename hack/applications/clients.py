"""Clients: what they ask a server for, and how they know that nothing was lost."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from applications import load
from applications.subject import Subject
from demo.errors import ProofFailed
from demo.network import TIMEOUT_SECONDS
from demo.story import State


class Client(ABC):
    """All that one application is asked for during its trial."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def fill(self) -> None:
        """Give it its data."""
        return

    @abstractmethod
    def load(self) -> AbstractContextManager[object]:
        """Have clients at work during a ``with`` block. Raises ProofFailed if one failed."""

    @abstractmethod
    def first(self) -> float:
        """Ask once, by a new connection, and return how many seconds that took."""

    def observe(self) -> State:
        """Return what must be the same before and after."""
        return {}

    @abstractmethod
    def check(self) -> str:
        """Return what was done, as text. Raises ProofFailed unless all of it is there."""

    def close(self) -> None:
        """End what is open."""
        return


def lost(subject: Subject, what: str, *, expected: object, seen: object) -> ProofFailed:
    """Return the error for a server that has something else than its clients know."""
    return ProofFailed(f"{subject.name}: {what}: {seen!r} instead of {expected!r}")


def timed(work: Callable[[], None]) -> float:
    """Return how many seconds *work* takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


class Http:
    """One connection to a server of HTTP."""

    def __init__(self, subject: Subject, port: int = 8080) -> None:
        self._connection = http.client.HTTPConnection(
            subject.address, port, timeout=TIMEOUT_SECONDS
        )
        self._connection.sock = subject.connect(port)

    def get(self, path: str) -> tuple[bytes, http.client.HTTPMessage]:
        """Return an answer's body and head. Raises ProofFailed unless its status is 200."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise ProofFailed(f"GET {path}: status {answer.status}: {body[:200]!r}")
        return body, answer.headers

    def json(self, path: str) -> Any:
        """Return an answer that is JSON."""
        return json.loads(self.get(path)[0])

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class Counting(Client):
    """Asks a server of which each process counts its requests, as ``programs/counting.py`` says.

    A request that was lost, or given to it twice, is in the sum; a process that is another one than
    before has another identity.
    """

    def __init__(self, subject: Subject, *, processes: int = 1, looks: bool = True) -> None:
        super().__init__(subject)
        self._processes, self._looks = processes, looks
        self._lock = threading.Lock()
        self._asked = 0
        self._counts: dict[str, int] = {}

    def load(self) -> AbstractContextManager[object]:
        return load.steady(self.subject.name, [self._kept, self._new])

    def first(self) -> float:
        return timed(self._once)

    def _once(self) -> None:
        with Http(self.subject) as connection:
            self.ask(connection)

    def observe(self) -> State:
        with Http(self.subject) as connection:
            said = connection.json("/state") if self._looks else {}
        return {"state": said.get("state")}

    def check(self) -> str:
        with self._lock:
            asked, counts = self._asked, dict(self._counts)
        if sum(counts.values()) != asked:
            raise lost(self.subject, "requests", expected=asked, seen=counts)
        if not 1 <= len(counts) <= self._processes:
            raise lost(self.subject, "processes", expected=self._processes, seen=counts)
        return f"{asked} requests"

    def ask(self, connection: Http) -> None:
        """Send one request that counts."""
        said = connection.json("/count")
        with self._lock:
            self._asked += 1
            identity = str(said["identity"])
            self._counts[identity] = max(self._counts.get(identity, 0), int(said["count"]))

    @contextlib.contextmanager
    def _kept(self) -> Iterator[Callable[[], None]]:
        with Http(self.subject) as connection:
            yield lambda: self.ask(connection)

    @contextlib.contextmanager
    def _new(self) -> Iterator[Callable[[], None]]:
        yield self._once


class Status(Client):
    """Asks nginx for a file, and its status page how many requests all of its workers had."""

    PAGE: Final = "/index.html"
    """What Debian's package has."""

    def __init__(self, subject: Subject, *, workers: int) -> None:
        super().__init__(subject)
        self._workers = workers
        self._lock = threading.Lock()
        self._asked = 0
        self._seen: set[str] = set()
        self._page: bytes | None = None

    def load(self) -> AbstractContextManager[object]:
        return load.steady(self.subject.name, [self._kept, self._new])

    def first(self) -> float:
        return timed(self._once)

    def _once(self) -> None:
        with Http(self.subject) as connection:
            self._ask(connection)

    def observe(self) -> State:
        self._asked += 1
        with Http(self.subject) as connection:
            text = connection.get("/status")[0].decode()
        # "server accepts handled requests", and their numbers in the next line.
        accepted, handled, requests = (int(word) for word in text.split("\n")[2].split())
        return {"dropped": accepted - handled, "requests missing": self._asked - requests}

    def check(self) -> str:
        seen = self.observe()
        if set(seen.values()) != {0}:
            raise lost(self.subject, "requests", expected=0, seen=seen)
        if not 1 <= len(self._seen) <= self._workers:
            raise lost(self.subject, "workers", expected=self._workers, seen=self._seen)
        return f"{self._asked} requests"

    def _ask(self, connection: Http) -> None:
        body, head = connection.get(self.PAGE)
        with self._lock:
            self._asked += 1
            self._seen.add(str(head["X-Worker"]))
            self._page = self._page or body
        if body != self._page:
            raise lost(self.subject, "page", expected=self._page, seen=body)

    @contextlib.contextmanager
    def _kept(self) -> Iterator[Callable[[], None]]:
        with Http(self.subject) as connection:
            yield lambda: self._ask(connection)

    @contextlib.contextmanager
    def _new(self) -> Iterator[Callable[[], None]]:
        yield self._once


class Crowd(Counting):
    """Holds very many connections, each of which the server knows by a number."""

    def __init__(self, subject: Subject, *, connections: int) -> None:
        super().__init__(subject)
        self._number = connections
        self._open: list[Http] = []
        self._asked_each = 0
        self._numbers: list[int] = []

    def fill(self) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._open = [Http(self.subject) for _ in range(self._number)]
        self._numbers = [number for number, _ in self._ask_all()]

    def observe(self) -> State:
        """Ask on every connection: each must be the one that it was."""
        said = self._ask_all()
        return {
            "numbers": [number for number, _ in said] == self._numbers,
            "requests": {asked for _, asked in said} == {self._asked_each},
            "connections": len(set(self._numbers)),
        }

    def check(self) -> str:
        if set(self.observe().values()) != {True, self._number}:
            raise lost(self.subject, "connections", expected=self._number, seen=self.observe())
        return f"{super().check()}, {self._asked_each} on each of {self._number} connections"

    def close(self) -> None:
        for one in self._open:
            one.__exit__()

    def _ask_all(self) -> list[tuple[int, int]]:
        self._asked_each += 1
        found = [one.json("/mine") for one in self._open]
        return [(int(number), int(asked)) for number, asked in found]
