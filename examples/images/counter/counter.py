"""A web application whose state is in its memory only.

    counter.py MEBIBYTES [PORT]

HTTP/1.1 with keep-alive on PORT (default 8080), IPv4 and IPv6: ``/`` counts a visit, ``/state``
tells the count, the process's random identity and the SHA-256 of all its memory without counting,
``/healthz`` is for probes. UDP on the same port answers each datagram with the identity in front.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import socket
import socketserver
import sys
import threading
import uuid


class State:
    """What a restart would lose."""

    def __init__(self, mebibytes: int) -> None:
        self.identity = uuid.uuid4().hex
        self.visits = 0
        self.lock = threading.Lock()
        self.memory = bytearray()
        for _ in range(mebibytes):
            # Random, so that no page can be left out, shared or compressed away.
            self.memory += os.urandom(1 << 20)

    def visit(self) -> dict[str, object]:
        """Count a visit."""
        with self.lock:
            self.visits += 1
            return {"visits": self.visits, "identity": self.identity}

    def describe(self) -> dict[str, object]:
        """Return everything there is to compare."""
        with self.lock:
            return {
                "visits": self.visits,
                "identity": self.identity,
                "digest": hashlib.sha256(self.memory).hexdigest(),
            }


class Server(http.server.ThreadingHTTPServer):
    """HTTP on both families."""

    address_family = socket.AF_INET6
    request_queue_size = 512
    daemon_threads = True

    def __init__(self, port: int, state: State) -> None:
        self.state = state
        super().__init__(("::", port), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Answer with one line of JSON."""
        if self.path == "/":
            self._answer(200, self.server.state.visit())
        elif self.path == "/state":
            self._answer(200, self.server.state.describe())
        elif self.path == "/healthz":
            self._answer(200, {"ok": True})
        else:
            self._answer(404, {"error": f"nothing at {self.path}"})

    def _answer(self, status: int, value: dict[str, object]) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet: a line per probe tells nothing."""


class EchoServer(socketserver.UDPServer):
    """UDP on both families."""

    address_family = socket.AF_INET6
    max_packet_size = 65536

    def __init__(self, port: int, state: State) -> None:
        self.state = state
        super().__init__(("::", port), Echo)


class Echo(socketserver.BaseRequestHandler):
    """One datagram."""

    server: EchoServer

    def handle(self) -> None:
        """Send it back behind the identity."""
        data, answers = self.request
        answers.sendto(self.server.state.identity.encode() + b" " + data, self.client_address)


def end(*_: object) -> None:
    """Leave at once when told to."""
    os._exit(0)


def main() -> None:
    """Serve until SIGTERM."""
    mebibytes = int(sys.argv[1])
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
    signal.signal(signal.SIGTERM, end)
    state = State(mebibytes)
    threading.Thread(target=EchoServer(port, state).serve_forever, daemon=True).start()
    print(f"serving {mebibytes} MiB on port {port} as {state.identity}", flush=True)
    Server(port, state).serve_forever()


if __name__ == "__main__":
    main()
