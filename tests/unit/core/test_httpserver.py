"""What whoever reaches a port of metrics can do to those who probe and scrape: nothing."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from architect.core import httpserver

DEADLINE_SECONDS = 60.0


class Handler(http.server.BaseHTTPRequestHandler):
    timeout = DEADLINE_SECONDS

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Waiting(Handler):
    """Works on each answer until it is told."""

    go = threading.Event()

    def do_GET(self) -> None:
        self.go.wait(DEADLINE_SECONDS)
        super().do_GET()


@contextlib.contextmanager
def serving(handler: type[Handler]) -> Iterator[int]:
    server = httpserver.Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def get(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=DEADLINE_SECONDS) as answer:
        return bytes(answer.read())


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nx: "], ids=["silent", "half"])
def test_connections_that_stay_keep_nobody_out(said: bytes) -> None:
    before = threading.active_count()
    with serving(Handler) as port, contextlib.ExitStack() as stack:
        made = []
        for _ in range(4 * httpserver.MAX_CONNECTIONS):
            made.append(stack.enter_context(connected(port)))
            made[-1].sendall(said)
        assert get(port) == b"ok\n"
        assert made[0].recv(1) == b"", "the oldest is still there"
        deadline = time.monotonic() + DEADLINE_SECONDS
        while threading.active_count() - before > httpserver.MAX_CONNECTIONS + 2:
            assert time.monotonic() < deadline, threading.active_count()
            time.sleep(0.01)
        # The youngest may still ask.
        made[-1].sendall(b"\r\n\r\n" if said else b"GET / HTTP/1.1\r\n\r\n")
        assert made[-1].recv(100).startswith(b"HTTP/1.0 200")


def test_answers_under_work_are_bounded() -> None:
    before = threading.active_count()
    with serving(Waiting) as port, contextlib.ExitStack() as stack:
        try:
            for _ in range(2 * httpserver.MAX_THREADS):
                made = stack.enter_context(connected(port))
                with contextlib.suppress(ConnectionError):  # one too many
                    made.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert made.recv(1) == b"", "the last one is served"
            assert threading.active_count() - before <= httpserver.MAX_THREADS + 2
        finally:
            Waiting.go.set()


def test_a_client_that_is_gone_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    clients = []
    with serving(Handler) as port:
        for _ in range(5):
            made = connected(port)
            clients.append(str(made.getsockname()))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            made.sendall(b"GET / HTTP/1.1\r\n")
            made.close()
        assert get(port) == b"ok\n"
    said = capfd.readouterr().err
    assert [client for client in clients if client in said] == []
