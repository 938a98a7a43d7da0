"""A server with a thread for each connection, and what else is asked for in its process.

    python3 threaded.py PORT [KIND [ARGUMENT]]

KIND is one of the functions of ``odd.py``: it sets something up and returns what ``/state`` tells.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import counting
import odd


class Handler(BaseHTTPRequestHandler):
    """Answers GET and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer as counting.py says."""
        body = counting.answer(self.path, state)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Takes many connections at once."""

    daemon_threads = True
    request_queue_size = 512


port, *rest = sys.argv[1:]
state = odd.KINDS[rest[0]](*rest[1:]) if rest else lambda: ""
Server(("", int(port)), Handler).serve_forever()
