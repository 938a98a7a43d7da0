"""The soak's clients: one process that asks many applications, each in two ways.

    python3 soakclient.py

The first line of its standard input is a JSON list of ``[name, address, port]``. Each is asked over
a new connection for each request, and over one that is kept, with random pauses in which it may
fall asleep. When the input ends it waits for what is unanswered and writes one JSON object:
``{"requests", "errors": [text], "error_count", "milliseconds": [float], "identities": {name: n}}``.
Every five seconds until then it writes ``{"requests", "error_count"}``. Standard library only.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from typing import Any

ANSWER_SECONDS = 60.0
"""Longer than any wake may take."""
LEAST_PAUSE, MOST_PAUSE = 0.05, 1.6
REPORT_SECONDS = 5.0
MAX_TEXTS = 50


class Tally:
    """What was asked and what came of it; used by many threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests = 0
        self.error_count = 0
        self.errors: list[str] = []
        self.milliseconds: list[float] = []
        self.identities: dict[str, set[str]] = {}

    def answered(self, name: str, identity: str, seconds: float) -> None:
        """Note an answer."""
        with self.lock:
            self.requests += 1
            self.milliseconds.append(round(seconds * 1000, 2))
            self.identities.setdefault(name, set()).add(identity)

    def failed(self, name: str, error: Exception) -> None:
        """Note a request without one."""
        with self.lock:
            self.requests += 1
            self.error_count += 1
            if len(self.errors) < MAX_TEXTS:
                self.errors.append(f"{time.strftime('%T')} {name}: {error!r}")

    def report(self, *, is_whole: bool) -> None:
        """Write a line."""
        with self.lock:
            value: dict[str, Any] = {"requests": self.requests, "error_count": self.error_count}
            if is_whole:
                value["errors"] = self.errors
                value["milliseconds"] = self.milliseconds
                value["identities"] = {name: len(found) for name, found in self.identities.items()}
        print(json.dumps(value), flush=True)


def ask(stream: socket.socket, *, is_last: bool) -> str:
    """Send one request and return the identity in its answer."""
    connection = "close" if is_last else "keep-alive"
    stream.sendall(f"GET / HTTP/1.1\r\nHost: soak\r\nConnection: {connection}\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += more(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    if " 200 " not in status:
        raise ConnectionError(f"answered {status!r}")
    fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    while len(body) < int(fields["content-length"]):
        body += more(stream)
    return str(json.loads(body)["identity"])


def more(stream: socket.socket) -> bytes:
    """Return what comes next."""
    data = stream.recv(65536)
    if not data:
        raise ConnectionError("the connection ended before the answer was complete")
    return data


def pause(stop: threading.Event, chance: random.Random) -> bool:
    """Wait for a random time; whether to go on."""
    return not stop.wait(chance.uniform(LEAST_PAUSE, MOST_PAUSE))


def new(tally: Tally, name: str, address: str, port: int, stop: threading.Event) -> None:
    """Ask over a new connection for each request."""
    chance = random.Random(name)
    while pause(stop, chance):
        began = time.monotonic()
        try:
            with socket.create_connection((address, port), timeout=ANSWER_SECONDS) as stream:
                identity = ask(stream, is_last=True)
        except (OSError, ValueError, KeyError) as error:
            tally.failed(name, error)
        else:
            tally.answered(name, identity, time.monotonic() - began)


def kept(tally: Tally, name: str, address: str, port: int, stop: threading.Event) -> None:
    """Ask over one connection; another one after an error."""
    chance = random.Random(f"kept {name}")
    while not stop.is_set():
        try:
            with socket.create_connection((address, port), timeout=ANSWER_SECONDS) as stream:
                while pause(stop, chance):
                    began = time.monotonic()
                    identity = ask(stream, is_last=False)
                    tally.answered(name, identity, time.monotonic() - began)
        except (OSError, ValueError, KeyError) as error:
            tally.failed(name, error)


def main() -> None:
    """Ask until standard input ends."""
    targets = json.loads(sys.stdin.readline())
    stop, tally = threading.Event(), Tally()
    threads = [
        threading.Thread(target=way, args=(tally, name, address, port, stop))
        for name, address, port in targets
        for way in (new, kept)
    ]
    for thread in threads:
        thread.start()

    def report() -> None:
        while not stop.wait(REPORT_SECONDS):
            tally.report(is_whole=False)

    reporter = threading.Thread(target=report)
    reporter.start()
    sys.stdin.read()
    stop.set()
    for thread in (*threads, reporter):
        thread.join()
    tally.report(is_whole=True)


if __name__ == "__main__":
    main()
