"""A server of metrics and health that nobody who reaches it can exhaust.

Its port answers without credentials, one thread for each connection. A prober or scraper asks at
once and is answered within milliseconds, so of too many connections the oldest makes place: whoever
says nothing, or a byte now and then, keeps nobody out and costs a bounded number of threads.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import sys
import threading
from typing import Any, Final

MAX_CONNECTIONS: Final = 64
"""Beyond them the oldest is ended. Many more than probers and scrapers have at once."""
MAX_THREADS: Final = 2 * MAX_CONNECTIONS
"""With those that were ended and are still at work on an answer; beyond them none is begun."""


class Server(http.server.ThreadingHTTPServer):
    """One thread for each connection, and a bounded number of both."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self._places = threading.Lock()
        self._open: dict[socket.socket, bool] = {}
        """In the order in which they came; whether it was told to end."""
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        with self._places:
            is_taken = len(self._open) < MAX_THREADS
            if is_taken:
                self._open[request] = False
                self._make_place()
        if not is_taken:
            super().shutdown_request(request)
            return
        super().process_request(request, client_address)

    def _make_place(self) -> None:
        waiting = [each for each, is_ended in self._open.items() if not is_ended]
        for oldest in waiting[:-MAX_CONNECTIONS]:
            self._open[oldest] = True
            # Whoever closes it waits for us, so it is no other's descriptor yet.
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._places:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away, or was ended; tell of all else."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
