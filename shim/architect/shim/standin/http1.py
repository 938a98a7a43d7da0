"""The HTTP/1.1 side: one request, one answer by health, and lifecycle hooks sent onwards.

Kubelet reads a status between 200 and 399 as success and anything else as failure
(pkg/probe/http), so a sleeping application's answer is a plain 200 or 503.

Kubelet sends ``httpGet`` lifecycle hooks from the same process as its probes. A hook is
work for the application: answered by us it would be lost, and kubelet takes any status for
success (pkg/kubelet/lifecycle). So a hook waits until the application is back and is then
redirected to the same address, where the application hears it; kubelet's client follows
redirects that stay on the host.
"""

from __future__ import annotations

import re

from architect.shim.standin.dialogue import INPUT_LIMIT_BYTES, HealthSource, Kind, Progress

HOOK_AGENT = b"kube-lifecycle/"
"""Start of the User-Agent of lifecycle hooks; probes say ``kube-probe/`` (pkg/probe/http)."""

REASON_LIMIT_BYTES = 256

_REQUEST_LINE = re.compile(rb"([A-Z][!-~]{0,31}) ([!-~]+) HTTP/1\.[01]")
_HEAD_END = b"\r\n\r\n"


class Http1:
    """Answers one HTTP/1 request."""

    def __init__(self, health: HealthSource) -> None:
        self._health = health
        self._head = bytearray()
        self._target = b""
        self.progress = Progress.LISTENING
        self.kind: Kind | None = None

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the request; the answer follows the end of its head.

        A request's body is not waited for and whatever follows the head is ignored.
        """
        if self.progress is not Progress.LISTENING:
            return b""
        self._head += data
        end = self._head.find(_HEAD_END)
        if end > INPUT_LIMIT_BYTES or (end < 0 and len(self._head) > INPUT_LIMIT_BYTES):
            return self._fail(b"431 Request Header Fields Too Large")
        if end < 0:
            return b""
        lines = bytes(self._head[:end]).split(b"\r\n")
        self._head.clear()
        return self._answer(lines)

    def application_is_back(self) -> bytes:
        """Return the redirect that makes a waiting hook ask the application."""
        if self.progress is not Progress.WAITING:
            return b""
        self.progress = Progress.ANSWERED
        return _response(b"307 Temporary Redirect", headers=b"Location: " + self._target + b"\r\n")

    def _answer(self, lines: list[bytes]) -> bytes:
        request = _REQUEST_LINE.fullmatch(lines[0])
        if request is None:
            return self._fail(b"400 Bad Request")
        method, self._target = request.groups()
        health = self._health()
        if _header(lines[1:], b"user-agent").startswith(HOOK_AGENT):
            self.kind = Kind.HOOK
            # Without an application to come back, only a broken connection is a failed hook.
            self.progress = Progress.WAITING if health.healthy else Progress.FAILED
            return b""
        self.kind = Kind.HTTP
        self.progress = Progress.ANSWERED
        status = b"200 OK" if health.healthy else b"503 Service Unavailable"
        body = health.reason.encode(errors="replace")[:REASON_LIMIT_BYTES] + b"\n"
        return _response(status, body=body, with_body=method != b"HEAD")

    def _fail(self, status: bytes) -> bytes:
        self._head.clear()
        self.kind = Kind.UNKNOWN
        self.progress = Progress.FAILED
        return _response(status)


def _header(lines: list[bytes], name: bytes) -> bytes:
    for line in lines:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def _response(
    status: bytes, *, body: bytes = b"", with_body: bool = True, headers: bytes = b""
) -> bytes:
    return (
        b"HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
        b"Connection: close\r\n%s\r\n%s" % (status, len(body), headers, body if with_body else b"")
    )
