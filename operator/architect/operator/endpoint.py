"""Metrics and health over HTTP."""

from __future__ import annotations

import errno
import http.server
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from architect.core import httpserver
from architect.operator import metrics
from architect.operator.metrics import Metrics

CLIENT_TIMEOUT_SECONDS: Final = 5.0
"""A prober or scraper sends its request at once."""


class _Server6(httpserver.Server):
    """Listens on IPv6, and where the address is ``::`` on IPv4 too (Linux' bindv6only is 0)."""

    address_family = socket.AF_INET6


class Endpoint:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz`` from a thread of its own.

    *health* and *readiness* return what is wrong, or nothing; they must not block.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        numbers: Metrics,
        health: Callable[[], str],
        readiness: Callable[[], str],
    ) -> None:
        def answer(path: str) -> tuple[HTTPStatus, str, str]:
            if path == "/metrics":
                return HTTPStatus.OK, metrics.CONTENT_TYPE, numbers.render()
            if path in ("/healthz", "/readyz"):
                wrong = health() if path == "/healthz" else readiness()
                status = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
                return status, "text/plain; charset=utf-8", (wrong or "ok") + "\n"
            return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "not found\n"

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = CLIENT_TIMEOUT_SECONDS

            def do_GET(self) -> None:
                status, content_type, text = answer(self.path.partition("?")[0])
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: a probe every few seconds is not news."""

        self._server = _listen(address, Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="endpoint", daemon=True
        )

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(timeout=CLIENT_TIMEOUT_SECONDS)
        self._server.server_close()


def _listen(
    address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]
) -> httpserver.Server:
    """Return the server; ``::`` means every address of a host that has no IPv6, too."""
    host, port = address
    if ":" not in host:
        return httpserver.Server(address, handler)
    try:
        return _Server6(address, handler)
    except OSError as error:
        if host != "::" or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return httpserver.Server(("0.0.0.0", port), handler)
