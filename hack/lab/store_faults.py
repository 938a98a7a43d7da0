"""What can be wrong with the way to the object store, and with the store itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lab import addresses, links, object_store
from lab.control_plane import ControlPlane
from lab.machine import Machine

FAULTS: Final = ("refuses", "is silent", "answers 503")
"""Nobody listens; packets to it are lost; it says with each answer that it cannot."""

_TABLE: Final = "lab_store"
_UNAVAILABLE: Final = """\
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = b"<Error><Code>SlowDown</Code><Message>not now</Message></Error>"
        self.close_connection = True
        self.send_response(503)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("", PORT), Handler).serve_forever()
"""


@contextmanager
def limited(
    machine: Machine,
    bytes_per_second: float,
    *,
    address: str = addresses.CONTROL_PLANE_V4,
    port: int = object_store.PORT,
) -> Iterator[None]:
    """Let no more go from *machine* to the object store, all connections together.

    Everything else that it sends, and all that it receives, is as fast as ever: who waits for the
    API server or a neighbour waits no longer than without it.
    """
    with links.limited(machine, bytes_per_second, links.to(address, port)):
        yield


@contextmanager
def failing(plane: ControlPlane, fault: str) -> Iterator[None]:
    """Have the object store fail for the ``with`` block, in one of the ways of :data:`FAULTS`."""
    if fault == "is silent":
        with _silent(plane.machine):
            yield
        return
    plane.object_store.stop()
    try:
        if fault == "answers 503":
            script = f"PORT = {object_store.PORT}\n{_UNAVAILABLE}"
            plane.machine.start_service("no-store", ["/usr/bin/python3", "-c", script])
        yield
    finally:
        if fault == "answers 503":
            plane.machine.service("no-store").forget()
        plane.object_store.start()


@contextmanager
def _silent(machine: Machine) -> Iterator[None]:
    rules = f"""\
table inet {_TABLE} {{
  chain input {{
    type filter hook input priority -300
    tcp dport {object_store.PORT} drop
  }}
}}
"""
    # The machine's own: Debian 12's ends with SIGSEGV over tables that a newer one has made.
    machine.exec(["nft", "-f", "-"], input=rules)
    try:
        yield
    finally:
        machine.exec(["nft", "delete", "table", "inet", _TABLE])
