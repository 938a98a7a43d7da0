"""Asking an address again and again until somebody else answers: a pod that goes, one that comes.

A question that waits (held packets, a route that is not there yet) does not keep the next from
being asked: the first answer of the newcomer is what counts, whichever question it is to. Runs in
the client; standard library only.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any, Final

from bench.client import is_complete

PATIENCE_SECONDS: Final = 5.0
"""For one question."""

AFTER_SECONDS: Final = 2.0
"""So long questions are asked after the newcomer's first answer: some may still fail."""


class Follower:
    """One address that is asked, in the loop's thread."""

    def __init__(self, *, address: str, port: int, path: str, known: str, pause: float) -> None:
        self._address = address
        self._port = port
        self._request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()
        self._known = known
        self._pause = pause
        self._questions: set[asyncio.Task[None]] = set()
        self.first: dict[str, Any] | None = None
        """The first answer that another host than the known one gave."""
        self.last_known: dict[str, Any] | None = None
        """The last answer of the known host."""
        self.found = threading.Event()
        self.is_over = threading.Event()
        """Every question has its answer, or has failed."""
        self.asked = self.failed = 0
        """Questions, and those that were refused, reset, or not answered in time."""

    async def run(self) -> None:
        """Ask until another host has answered and some time more, or until cancelled."""
        ends_at = float("inf")
        try:
            while time.monotonic() < ends_at:
                question = asyncio.create_task(self._ask())
                self._questions.add(question)
                question.add_done_callback(self._questions.discard)
                await asyncio.sleep(self._pause)
                if self.first is not None:
                    ends_at = min(ends_at, time.monotonic() + AFTER_SECONDS)
            await asyncio.gather(*self._questions)
            self.is_over.set()
        finally:
            for question in list(self._questions):
                question.cancel()

    async def _ask(self) -> None:
        self.asked += 1
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                self._note(await self._answer())
        except (OSError, TimeoutError, ValueError):
            self.failed += 1

    async def _answer(self) -> dict[str, Any]:
        reader, writer = await asyncio.open_connection(self._address, self._port)
        try:
            writer.write(self._request)
            received = bytearray()
            first = 0.0
            while not is_complete(received):
                data = await reader.read(65536)
                first = first or time.time()
                if not data:
                    raise ConnectionResetError("the answer ended early")
                received += data
        finally:
            writer.close()
        body = bytes(received).partition(b"\r\n\r\n")[2]
        return {**json.loads(body), "at": first}

    def _note(self, answer: dict[str, Any]) -> None:
        if answer["host"] == self._known:
            if self.last_known is None or answer["at"] > self.last_known["at"]:
                self.last_known = answer
        elif self.first is None:
            self.first = answer
            self.found.set()


class Followers:
    """The followers of a client, by name."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._all: dict[str, tuple[Follower, Any]] = {}
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def follow(
        self, name: str, address: str, port: int, path: str, known: str, pause_seconds: float
    ) -> dict[str, Any]:
        """Begin to ask *address*, every *pause_seconds*, for another host than *known*."""
        follower = Follower(address=address, port=port, path=path, known=known, pause=pause_seconds)
        self._all[name] = (follower, asyncio.run_coroutine_threadsafe(follower.run(), self._loop))
        return {}

    def followed(self, name: str, seconds: float) -> dict[str, Any]:
        """Wait *seconds* for another host's answer; return it and the known host's last one.

        Either is null if there was none.
        """
        follower, _ = self._all[name]
        follower.found.wait(seconds)
        return {"first": follower.first, "last_known": follower.last_known}

    def counted(self, name: str, seconds: float) -> dict[str, Any]:
        """Return how many questions were asked, and how many failed, once all have ended."""
        follower, _ = self._all[name]
        if not follower.is_over.wait(seconds):
            raise TimeoutError(f"{name}: questions are still asked after {seconds:g} s")
        return {"asked": follower.asked, "failed": follower.failed}

    def unfollow(self) -> dict[str, Any]:
        """Ask nobody any more."""
        while self._all:
            _, (_, task) = self._all.popitem()
            task.cancel()
        return {}
