"""What somebody says to the stand-in on a probe port: HTTP/1, HTTP/2, TLS, or anything.

In one piece and byte by byte it has the same meaning, and only so much of it is kept.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import Iterator
from typing import Final

from architect.shim.standin import http2
from architect.shim.standin.dialogue import INPUT_LIMIT_BYTES, Health, Kind, Progress
from architect.shim.standin.sniff import Sniffer
from architect.shim.standin.tls import HANDSHAKE_LIMIT_BYTES, Certificate
from fuzz import mutations, scratch
from support import selfsigned

MUTATE = mutations.raw

PIECES: Final = 500
"""In so many a long input comes, and a short one byte by byte."""


def seeds() -> Iterator[bytes]:
    yield b"GET /ready HTTP/1.1\r\nHost: 10.0.0.2:80\r\nUser-Agent: kube-probe/1.36\r\n\r\n"
    yield b"GET /hook HTTP/1.1\r\nUser-Agent: kube-lifecycle/1.36\r\n\r\n"
    yield b"HEAD / HTTP/1.0\r\n\r\n"
    yield b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    settings = http2.frame(http2.SETTINGS, 0, 0)
    ask = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, b"\x83") + http2.frame(
        http2.DATA, http2.END_STREAM, 1, bytes(5)
    )
    yield http2.PREFACE + settings + ask
    yield http2.PREFACE + settings + http2.frame(http2.PING, 0, 0, b"12345678") + ask
    yield _client_hello()
    yield b"GET / HTTP/1.1\r\nX: " + b"y" * 3 * INPUT_LIMIT_BYTES


def run(data: bytes) -> None:
    whole = _said(data, len(data) or 1)
    if not data.startswith(b"\x16"):  # TLS answers with random bytes
        assert _said(data, max(1, len(data) // PIECES)) == whole
    _said(data, max(5, len(data) // PIECES))


def _said(data: bytes, size: int) -> tuple[bytes, Progress, Kind | None]:
    """Return what was answered, with a certificate at hand and a healthy application."""
    sniffer = Sniffer(lambda: Health(healthy=True, reason="asleep"), certificate=_certificate())
    answer = b""
    for start in range(0, len(data), size):
        answer += sniffer.receive(data[start : start + size])
    answer += sniffer.application_is_back()
    assert len(answer) <= len(data) * 20 + HANDSHAKE_LIMIT_BYTES
    chosen = sniffer._chosen
    kept = getattr(chosen, "_head", b"") or getattr(chosen, "_buffer", b"")
    assert len(kept) <= INPUT_LIMIT_BYTES + len(data[:size]) + 4
    return answer, sniffer.progress, sniffer.kind


@functools.cache
def _certificate() -> Certificate:
    return Certificate(selfsigned.write(scratch.directory("standin") / "pair.pem"))


def _client_hello() -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
