"""A client that never stops asking and forgets nothing that went wrong.

    python3 load.py KIND HOST PORT RATE

KIND is ``new`` (each HTTP request on a connection of its own, at RATE a second, whether or not
earlier ones were answered), ``kept`` (one connection, one request after the other, never faster
than RATE) or ``udp`` (numbered datagrams at RATE to the echo of ``memory.py``). It ends when its
standard input does, waits for what is still unanswered, and prints one JSON object::

    {"sent": int, "answered": int, "errors": [text], "identities": [text], "slowest_seconds": float}
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

ANSWER_SECONDS = 60.0
"""How long one answer may take; longer than any wake, shorter than a test."""
MAX_ERRORS = 20


class Tally:
    """What was asked and what came of it; used by many threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sent = self.answered = 0
        self.errors: list[str] = []
        self.identities: set[str] = set()
        self.slowest = 0.0

    def began(self) -> None:
        with self.lock:
            self.sent += 1

    def ended(self, identity: str, seconds: float) -> None:
        with self.lock:
            self.answered += 1
            self.identities.add(identity)
            self.slowest = max(self.slowest, seconds)

    def failed(self, what: object) -> None:
        with self.lock:
            at = time.strftime("%H:%M:%S")
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(f"{at} request {self.sent}: {what!r}")

    def to_json(self) -> str:
        with self.lock:
            return json.dumps(
                {
                    "sent": self.sent,
                    "answered": self.answered,
                    "errors": self.errors,
                    "identities": sorted(self.identities),
                    "slowest_seconds": round(self.slowest, 3),
                }
            )


def ask(stream: socket.socket, pending: bytes, *, closing: bool) -> tuple[str, bytes]:
    """Send one request and return the answer's identity, and what came after the answer."""
    connection = "close" if closing else "keep-alive"
    stream.sendall(f"GET / HTTP/1.1\r\nHost: load\r\nConnection: {connection}\r\n\r\n".encode())
    data = pending
    while b"\r\n\r\n" not in data:
        data += more(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    if " 200 " not in status:
        raise ConnectionError(f"answered {status!r}")
    fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    length = int(fields["content-length"])
    while len(body) < length:
        body += more(stream)
    return str(json.loads(body[:length])["identity"]), body[length:]


def more(stream: socket.socket) -> bytes:
    data = stream.recv(65536)
    if not data:
        raise ConnectionError("the connection ended before the answer was complete")
    return data


def new(tally: Tally, host: str, port: int, pace: float, stop: threading.Event) -> None:
    def one() -> None:
        started = time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as stream:
                identity, _ = ask(stream, b"", closing=True)
        except (OSError, ValueError, KeyError) as error:
            tally.failed(error)
        else:
            tally.ended(identity, time.monotonic() - started)

    threads: list[threading.Thread] = []
    while not stop.wait(pace):
        tally.began()
        thread = threading.Thread(target=one)
        thread.start()
        threads = [t for t in threads if t.is_alive()] + [thread]
    for thread in threads:
        thread.join()


def kept(tally: Tally, host: str, port: int, pace: float, stop: threading.Event) -> None:
    pending = b""
    try:
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as stream:
            while not stop.wait(pace):
                tally.began()
                started = time.monotonic()
                identity, pending = ask(stream, pending, closing=False)
                tally.ended(identity, time.monotonic() - started)
    except (OSError, ValueError, KeyError) as error:
        tally.failed(error)


def udp(tally: Tally, host: str, port: int, pace: float, stop: threading.Event) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sent: dict[int, float] = {}
    highest = -1
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        sock.connect((host, port))

        def send() -> None:
            while not stop.wait(pace):
                number = tally.sent
                with tally.lock:
                    sent[number] = time.monotonic()
                try:
                    sock.send(str(number).encode())
                except OSError as error:
                    tally.failed(error)
                tally.began()

        sender = threading.Thread(target=send)
        sender.start()
        patience = ANSWER_SECONDS
        while sender.is_alive() or (sent and patience > 0):
            try:
                identity, _, word = sock.recv(2048).decode().partition(" ")
            except TimeoutError:
                if not sender.is_alive():
                    patience -= 0.2
                continue
            except OSError as error:
                tally.failed(error)
                continue
            number = int(word)
            with tally.lock:
                began = sent.pop(number, None)
            if began is None:
                tally.failed(f"datagram {number} was answered twice")
                continue
            if number < highest:
                tally.failed(f"datagram {number} was answered after {highest}")
            highest = max(highest, number)
            tally.ended(identity, time.monotonic() - began)
        sender.join()
    for number in sorted(sent):
        tally.failed(f"datagram {number} was not answered")


def main() -> None:
    kind, host, port, rate = sys.argv[1:5]
    stop, tally = threading.Event(), Tally()
    work = {"new": new, "kept": kept, "udp": udp}[kind]
    worker = threading.Thread(target=work, args=(tally, host, int(port), 1 / float(rate), stop))
    worker.start()
    sys.stdin.read()
    stop.set()
    worker.join()
    print(tally.to_json())


if __name__ == "__main__":
    main()
