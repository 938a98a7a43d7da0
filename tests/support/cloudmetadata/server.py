"""What the three have in common: a server of HTTP, and what can be wrong with it."""

from __future__ import annotations

import abc
import contextlib
import email.utils
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hop_limit: int | None = None
    """Of the packets that it goes in."""


class MetadataServer(abc.ABC):
    """One on the loopback. Its faults are attributes, which may be set at any time.

    Use it in a ``with`` block.
    """

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.clock_ahead_seconds = 0.0
        """What its clock shows more than the real one, in answers and in what it announces."""
        self.has_date = True
        self.silent: set[str] = set()
        """Requests (``PUT /path``) whose answer never comes."""
        self.replies: dict[str, Reply] = {}
        """Answers by path, in place of the true ones."""
        self.seconds_per_byte = 0.0
        """Between two bytes of every answer, headers included."""
        self.requests: list[Request] = []
        self.connections = 0
        self.lock = threading.Condition(threading.RLock())
        self._is_closed = threading.Event()
        outer = self

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
            daemon_threads = True

            def get_request(self) -> tuple[Any, Any]:
                outer.connections += 1
                return super().get_request()

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that has gone is its own business."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                outer._serve(self)

            do_GET = do_PUT = do_POST = _any

            def log_message(self, format: str, *args: object) -> None:
                """Tests look at :attr:`MetadataServer.requests`."""

        self._server = Server((address, port), Handler)
        self._thread = threading.Thread(
            target=lambda: self._server.serve_forever(poll_interval=0.02), daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        with self.lock:
            self.lock.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def now(self) -> float:
        """Return the Unix time by its clock."""
        return time.time() + self.clock_ahead_seconds

    def asked(self, method: str, path: str) -> int:
        """Return how often it was asked for that."""
        with self.lock:
            return sum((r.method, r.path) == (method, path) for r in self.requests)

    @abc.abstractmethod
    def answer(self, request: Request) -> Reply:
        """Return the true answer; called without the lock."""

    def wait(self, seconds: float) -> bool:
        """Wait, in an answer; returns whether the server ends meanwhile."""
        return self._is_closed.wait(seconds)

    @property
    def is_closed(self) -> bool:
        return self._is_closed.is_set()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        address = urlsplit(handler.path)
        request = Request(
            method=handler.command,
            path=address.path,
            query={k: v[-1] for k, v in parse_qs(address.query, keep_blank_values=True).items()},
            headers={k.lower(): v for k, v in handler.headers.items()},
            body=handler.rfile.read(int(handler.headers.get("Content-Length") or 0)),
        )
        with self.lock:
            self.requests.append(request)
        handler.close_connection = True
        if f"{request.method} {request.path}" in self.silent:
            self._is_closed.wait()
            return
        reply = self.replies.get(request.path)
        if reply is None:
            reply = self.answer(request)
        self._send(handler, reply)

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        headers = {"Content-Length": str(len(reply.body)), "Connection": "close"}
        if self.has_date:
            headers["Date"] = email.utils.formatdate(self.now(), usegmt=True)
        lines = [f"HTTP/1.1 {reply.status} {handler.responses.get(reply.status, ('?',))[0]}"]
        lines += [f"{name}: {value}" for name, value in {**headers, **reply.headers}.items()]
        data = "\r\n".join([*lines, "", ""]).encode() + reply.body
        with contextlib.suppress(OSError):
            if reply.hop_limit is not None:
                handler.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, reply.hop_limit)
            if not self.seconds_per_byte:
                handler.wfile.write(data)
                return
            for byte in data:
                handler.wfile.write(bytes([byte]))
                if self._is_closed.wait(self.seconds_per_byte):
                    return
