"""HTTP of a metadata service, or of whatever answers at its address, on a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from architect.core.errors import ArchitectError, FormatError, Unavailable
from architect.daemon.notices.clock import Clock
from architect.daemon.notices.metadata import MAX_BODY_BYTES, Service
from fuzz import mutations

MUTATE = mutations.raw


def seeds() -> Iterator[bytes]:
    head = b"HTTP/1.1 200 OK\r\nDate: Mon, 19 Sep 2016 18:29:47 GMT\r\n"
    yield head + b"Content-Length: 4\r\nMetadata-Flavor: Google\r\n\r\nTRUE"
    yield head + b"Transfer-Encoding: chunked\r\n\r\n4\r\nTRUE\r\n0\r\n\r\n"
    yield head + b"Content-Length: 70000\r\n\r\n" + b"x" * 70000
    yield b"HTTP/1.0 404 Not Found\r\nContent-Type: text/html\r\n\r\n<html>"
    yield b"HTTP/1.1 301 Moved\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"
    yield b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"Content-Length: 0\r\n\r\n"


def run(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        try:
            theirs.send(data)
        except BlockingIOError:
            return
        theirs.shutdown(socket.SHUT_WR)
        service = Service("http://169.254.169.254", clock=Clock(), connect=lambda *_: ours)
        try:
            answer = service.ask("/latest/meta-data", headers={"X-Token": "t"})
        except (FormatError, Unavailable) as error:
            assert len(str(error)) < 1000
            return
    assert len(answer.body) <= MAX_BODY_BYTES
    if not answer.is_success:
        assert isinstance(answer.problem, ArchitectError)
