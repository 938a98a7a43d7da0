"""Framed JSON over a UNIX stream socket.

A frame is a big-endian 32-bit length and that many bytes of one UTF-8 JSON object. Frames longer
than :data:`MAX_FRAME_BYTES` are refused before they are read. A request carries ``"v": 1`` and an
``"op"``; a response carries ``"ok"`` and, when false, ``"error": {"code", "message", "hint"}``.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from architect.core.errors import (
    ArchitectError,
    FormatError,
    NodeError,
    Rejected,
    Unavailable,
)

PROTOCOL_VERSION: Final = 1
MAX_FRAME_BYTES: Final = 1 << 20
"""Far above the largest real message (the status of 250 pods is about 200 KB)."""

MAX_NAME_CHARS: Final = 512
"""Twice what the longest name of Kubernetes takes, with its namespace."""

_LENGTH = struct.Struct("!I")


def encode(message: dict[str, Any]) -> bytes:
    """Return *message* as one frame. Raises FormatError if it is too long."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise FormatError(f"message of {len(body)} bytes is longer than {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Collects bytes and yields whole messages; a wrong frame raises FormatError for good."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Add *data* and yield each message that it completes."""
        self.add(data)
        while (message := self.take()) is not None:
            yield message

    def add(self, data: bytes) -> None:
        """Add *data* without looking at it."""
        self._buffer += data

    def take(self) -> dict[str, Any] | None:
        """Return the next message; None if it is not complete yet. Raises FormatError."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_FRAME_BYTES:
            raise FormatError(f"frame of {length} bytes is longer than {MAX_FRAME_BYTES}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return _message(body)

    @property
    def held_bytes(self) -> int:
        """How much of a message that is not complete, or not taken yet, is kept."""
        return len(self._buffer)

    @property
    def is_between_frames(self) -> bool:
        """Whether the peer may close now without having cut a message in two."""
        return not self._buffer


def _message(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"frame of {len(body)} bytes is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"frame holds a {type(value).__name__}, not an object")
    return value


KEEPER_HINT: Final = "is the keeper running? see /run/architect/keeper.log"


class Client:
    """A blocking connection to a control socket, with a time-out on every step."""

    def __init__(self, path: Path, *, timeout_seconds: float, hint: str = KEEPER_HINT) -> None:
        """Connect. Raises Unavailable, with *hint* for who reads it."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_seconds)
        self._decoder = Decoder()
        self._pending: list[dict[str, Any]] = []
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise Unavailable(
                f"cannot connect to {path}: {error.strerror or error}",
                hint=hint,
            ) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; closing twice is harmless."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, for a selector."""
        return self._socket.fileno()

    def send(self, op: str, **arguments: Any) -> None:
        """Send a request without waiting for its response. Raises Unavailable."""
        try:
            self._socket.sendall(encode({"v": PROTOCOL_VERSION, "op": op, **arguments}))
        except OSError as error:
            raise Unavailable(f"cannot send {op} to {self._path}: {error}") from error

    def receive(self) -> dict[str, Any]:
        """Return the next message. Raises Unavailable on time-out or when the peer closes."""
        while not self._pending:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise Unavailable(f"no answer from {self._path}: {error}") from error
            if not data:
                raise Unavailable(f"{self._path} closed the connection")
            self._pending.extend(self._decoder.feed(data))
        return self._pending.pop(0)

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return its response.

        Raises Rejected (the request was refused), NodeError (it was tried and failed) or
        Unavailable.
        """
        self.send(op, **arguments)
        response = self.receive()
        if response.get("ok") is True:
            return response
        raise error_of(response)


def error_of(response: dict[str, Any]) -> Rejected | NodeError:
    """Return the exception that a failed response stands for."""
    error = response.get("error")
    if not isinstance(error, dict):
        return NodeError(f"malformed error response: {response!r:.200}", reason="Protocol")
    code, message = str(error.get("code", "")), str(error.get("message", ""))
    hint, reason = str(error.get("hint", "")), str(error.get("reason", ""))
    if code == "rejected":
        return Rejected(message, reason=reason or "Rejected", hint=hint)
    return NodeError(message, reason=reason or "NodeError", hint=hint)


def operation(request: dict[str, Any]) -> str:
    """Take version and name of the operation out of *request*; return the name. Raises Rejected."""
    name, version = request.pop("op", None), request.pop("v", None)
    if version != PROTOCOL_VERSION:
        raise Rejected(
            f"protocol version {version!r:.40} is not {PROTOCOL_VERSION}",
            reason="Protocol",
            hint="both ends are of different versions of Architect",
        )
    if not isinstance(name, str):
        raise Rejected("the request names no operation", reason="Protocol")
    return name


def text(request: Mapping[str, Any], key: str) -> str:
    """Return a name from a request. Raises Rejected."""
    value = request.get(key)
    if not isinstance(value, str) or not value or len(value) > MAX_NAME_CHARS:
        what = repr(value[:80]) if isinstance(value, str) else type(value).__name__
        raise Rejected(f"{key!r} is {what}, not a name", reason="Protocol")
    return value


def failure(error: ArchitectError | OSError) -> dict[str, Any]:
    """Return the response that tells *error*; :func:`error_of` reads it."""
    if isinstance(error, (Rejected, NodeError)):
        code = "rejected" if isinstance(error, Rejected) else "failed"
        reason, message, hint = error.reason, error.message, error.hint
    elif isinstance(error, ArchitectError):
        code, reason = "rejected", type(error).__name__
        message, hint = error.message, error.hint
    else:
        code, reason, message, hint = "failed", "System", str(error), ""
    return {
        "ok": False,
        "error": {"code": code, "reason": reason, "message": message, "hint": hint},
    }
