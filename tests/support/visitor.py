"""A client that visits many servers all the time and remembers what each of them has told it.

    python3 visitor.py PAUSE NAME=HOST:PORT…

It asks each server of ``apps/memory.py`` every PAUSE seconds, each time on a connection of its own.
A line of its standard input, whatever it says, is answered by one of JSON, about each server::

    {"answered": int, "failed": int, "identities": {identity: highest count}, "went_back": [text],
     "silent_seconds": float, "silent_now": float}

*went_back*: a server that has counted further before. *silent_seconds*: the longest time without
an answer. It ends with its standard input.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

ANSWER_SECONDS = 3.0


@dataclass
class Server:
    """One that is visited, and what it told."""

    host: str
    port: int
    answered: int = 0
    failed: int = 0
    identities: dict[str, int] = field(default_factory=dict)
    went_back: list[str] = field(default_factory=list)
    silent_seconds: float = 0.0
    last: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def visit(self) -> None:
        try:
            identity, count = ask(self.host, self.port)
        except (OSError, ValueError, KeyError):
            with self.lock:
                self.failed += 1
            return
        now = time.monotonic()
        with self.lock:
            before = self.identities.get(identity, 0)
            if count <= before:
                self.went_back.append(f"{identity} counts {count} after {before}")
            self.identities[identity] = max(before, count)
            self.silent_seconds = max(self.silent_seconds, now - self.last)
            self.answered, self.last = self.answered + 1, now

    def told(self) -> dict[str, object]:
        with self.lock:
            return {
                "answered": self.answered,
                "failed": self.failed,
                "identities": dict(self.identities),
                "went_back": list(self.went_back),
                "silent_seconds": round(self.silent_seconds, 3),
                "silent_now": round(time.monotonic() - self.last, 3),
            }


def ask(host: str, port: int) -> tuple[str, int]:
    """Return who answers, and how far it has counted."""
    with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as stream:
        stream.settimeout(ANSWER_SECONDS)
        stream.sendall(b"GET / HTTP/1.1\r\nHost: visitor\r\nConnection: close\r\n\r\n")
        data = b""
        while more := stream.recv(65536):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ValueError(head[:80])
    told = json.loads(body)
    return str(told["identity"]), int(told["count"])


def visit_for_ever(server: Server, pause: float) -> None:
    while True:
        server.visit()
        time.sleep(pause)


def main() -> None:
    pause = float(sys.argv[1])
    servers: dict[str, Server] = {}
    for word in sys.argv[2:]:
        name, _, address = word.partition("=")
        host, _, port = address.rpartition(":")
        servers[name] = Server(host=host, port=int(port))
    for server in servers.values():
        threading.Thread(target=visit_for_ever, args=(server, pause), daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps({name: server.told() for name, server in servers.items()}), flush=True)


if __name__ == "__main__":
    main()
