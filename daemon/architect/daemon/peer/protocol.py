"""What daemons say to each other, and the limits of it.

Two methods, and no generated code: a request is a name and some numbers. The version is in the
service's name: a daemon that does not know it answers UNIMPLEMENTED, by itself.

::

    Describe   request {"id": …}                                        → the manifest's bytes
    Read       request {"id", "parts": [[piece, offset, length], …]}    → {"port", "ticket", "key"}

``piece`` is the number of a piece in the manifest. No path goes over the wire. The bytes themselves
come over a connection of their own, to ``port``, for whoever shows the ``ticket`` first, encrypted
with ``key``: see :mod:`architect.daemon.peer.records`.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from architect.checkpoint import manifest
from architect.checkpoint.manifest import MAX_PIECE_BYTES, MAX_PIECES, SEGMENT_BYTES
from architect.core.errors import FormatError

SERVICE: Final = "architect.peer.v1.Checkpoints"
DESCRIBE: Final = "Describe"
READ: Final = "Read"

MAX_PARTS: Final = 256
"""Of one request: small files, mostly."""

MAX_REQUEST_BYTES: Final = 16 * 1024
MAX_METADATA_BYTES: Final = 8192

MAX_ANSWER_BYTES: Final = manifest.MAX_BYTES + 1024
"""A manifest is the largest message there is."""

CALL_SECONDS: Final = 120.0
"""Longest time for a call, and for the bytes that it grants: a segment at 0.5 MB/s."""

TICKET_BYTES: Final = 16
KEY_BYTES: Final = 32
"""AES-256."""

KEEPALIVE_SECONDS: Final = 4.0
"""Between two pings, and for the answer to one: a dead machine is noticed after 8 s at most. A
thousand daemons ping nobody: connections live as long as a transfer."""


def method(name: str) -> str:
    """Return a method as HTTP/2 names it."""
    return f"/{SERVICE}/{name}"


@dataclass(frozen=True, kw_only=True)
class DescribeRequest:
    """Asks for a checkpoint's manifest."""

    id: str

    def to_bytes(self) -> bytes:
        """Return the message."""
        return json.dumps({"id": self.id}).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> DescribeRequest:
        """Read the message. Raises FormatError."""
        return cls(id=_id(_object(raw, {"id"})["id"]))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a piece."""

    piece: int
    """Its number in the manifest."""
    offset: int
    length: int
    """Bytes, at least one."""


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """Asks for parts of pieces, which come in this order."""

    id: str
    parts: tuple[Part, ...]
    """At least one; together at most a segment."""

    @property
    def length(self) -> int:
        """Bytes of all parts."""
        return sum(part.length for part in self.parts)

    def to_bytes(self) -> bytes:
        """Return the message."""
        parts = [[part.piece, part.offset, part.length] for part in self.parts]
        return json.dumps({"id": self.id, "parts": parts}).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> ReadRequest:
        """Read the message. Raises FormatError."""
        value = _object(raw, {"id", "parts"})
        parts = value["parts"]
        if not isinstance(parts, list) or not 0 < len(parts) <= MAX_PARTS:
            raise FormatError(f"parts: no list of 1 to {MAX_PARTS}")
        request = cls(id=_id(value["id"]), parts=tuple(_part(part) for part in parts))
        if request.length > SEGMENT_BYTES:
            raise FormatError(f"parts: {request.length} bytes, of at most {SEGMENT_BYTES}")
        return request


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Lets whoever has it get what was asked for, once."""

    port: int
    """Where, at the address that granted it."""
    ticket: bytes
    """Sent in the clear: who sees it gets what it cannot read."""
    key: bytes = field(repr=False)

    @classmethod
    def make(cls, port: int) -> Grant:
        """Return a new one, unlike any other."""
        return cls(
            port=port,
            ticket=secrets.token_bytes(TICKET_BYTES),
            key=secrets.token_bytes(KEY_BYTES),
        )

    def to_bytes(self) -> bytes:
        """Return the message."""
        return json.dumps(
            {"port": self.port, "ticket": self.ticket.hex(), "key": self.key.hex()}
        ).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Grant:
        """Read the message. Raises FormatError."""
        value = _object(raw, {"port", "ticket", "key"})
        return cls(
            port=_integer(value, "port", 1, 65535),
            ticket=_secret(value, "ticket", TICKET_BYTES),
            key=_secret(value, "key", KEY_BYTES),
        )


def _object(raw: bytes, keys: set[str]) -> dict[str, Any]:
    if len(raw) > MAX_REQUEST_BYTES:
        raise FormatError(f"message of {len(raw)} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError("message is not JSON") from error
    if not isinstance(value, dict) or value.keys() != keys:
        raise FormatError(f"message has not exactly the keys {sorted(keys)}")
    return value


def _id(value: Any) -> str:
    if not isinstance(value, str) or not manifest.is_id(value):
        raise FormatError(f"{value!r:.100} is not the id of a checkpoint")
    return value


def _part(value: Any) -> Part:
    if not isinstance(value, list) or len(value) != 3:
        raise FormatError("a part is not a piece, an offset and a length")
    named = dict(zip(("piece", "offset", "length"), value, strict=True))
    return Part(
        piece=_integer(named, "piece", 0, MAX_PIECES - 1),
        offset=_integer(named, "offset", 0, MAX_PIECE_BYTES),
        length=_integer(named, "length", 1, SEGMENT_BYTES),
    )


def _integer(value: dict[str, Any], key: str, least: int, most: int) -> int:
    number = value[key]
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise FormatError(f"{key}: {number!r:.50} is no whole number of {least} to {most}")
    return number


def _secret(value: dict[str, Any], key: str, length: int) -> bytes:
    text = value[key]
    # Not what fromhex() takes besides: blanks.
    if not isinstance(text, str) or len(text) != 2 * length or not text.isalnum():
        raise FormatError(f"{key} is not {length} bytes in hexadecimal digits")
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise FormatError(f"{key} is not {length} bytes in hexadecimal digits") from error
