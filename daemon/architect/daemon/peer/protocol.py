"""What daemons say to each other, and the limits of it.

Two methods, and no generated code: an answer is bytes of a file, which gRPC passes on as they are
where a protobuf message would copy each chunk twice, and a request is three numbers and a name. The
version is in the service's name: a daemon that does not know it answers UNIMPLEMENTED, by itself.

::

    Describe   request {"id": …}                                → the manifest's bytes
    Read       request {"id", "piece", "offset", "length"}      → stream of chunks

``piece`` is the number of a piece in the manifest. No path goes over the wire.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from architect.checkpoint import manifest
from architect.checkpoint.manifest import MAX_PIECE_BYTES, MAX_PIECES, SEGMENT_BYTES
from architect.core.errors import FormatError

SERVICE: Final = "architect.peer.v1.Checkpoints"
DESCRIBE: Final = "Describe"
READ: Final = "Read"

CHUNK_BYTES: Final = 256 * 1024
"""Of a file in one message. Measured per GiB, both sides: 2.1 s of processor time, and 2.4 s with
1 MiB, which is fetched from the kernel anew for each message. Smaller ones cost the interpreter a
call each."""

MAX_CHUNK_BYTES: Final = 1024**2
"""What a client takes: another version may think otherwise."""

WINDOW_BYTES: Final = 1024**2
"""What one call may have under way: 8 of them fill 10 Gbit/s at 6 ms."""

MAX_REQUEST_BYTES: Final = 4096
MAX_METADATA_BYTES: Final = 8192

MAX_ANSWER_BYTES: Final = manifest.MAX_BYTES + 1024
"""A manifest is the largest message there is."""

CALL_SECONDS: Final = 120.0
"""Longest time for one call, at which the server ends it: a segment at 0.5 MB/s."""

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
class ReadRequest:
    """Asks for a part of a piece."""

    id: str
    piece: int
    """Its number in the manifest."""
    offset: int
    length: int
    """Bytes, at least one and at most a segment."""

    def to_bytes(self) -> bytes:
        """Return the message."""
        return json.dumps(
            {"id": self.id, "piece": self.piece, "offset": self.offset, "length": self.length}
        ).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> ReadRequest:
        """Read the message. Raises FormatError."""
        value = _object(raw, {"id", "piece", "offset", "length"})
        return cls(
            id=_id(value["id"]),
            piece=_integer(value, "piece", 0, MAX_PIECES - 1),
            offset=_integer(value, "offset", 0, MAX_PIECE_BYTES),
            length=_integer(value, "length", 1, SEGMENT_BYTES),
        )


def _object(raw: bytes, keys: set[str]) -> dict[str, Any]:
    if len(raw) > MAX_REQUEST_BYTES:
        raise FormatError(f"request of {len(raw)} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError("request is not JSON") from error
    if not isinstance(value, dict) or value.keys() != keys:
        raise FormatError(f"request has not exactly the keys {sorted(keys)}")
    return value


def _id(value: Any) -> str:
    if not isinstance(value, str) or not manifest.is_id(value):
        raise FormatError(f"{value!r:.100} is not the id of a checkpoint")
    return value


def _integer(value: dict[str, Any], key: str, least: int, most: int) -> int:
    number = value[key]
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise FormatError(f"{key}: {number!r:.50} is no whole number of {least} to {most}")
    return number
