"""The CRI socket of the node's engine: where it is, one call, and its messages.

No generated code: a few fields of ``runtime.v1`` (kubernetes/cri-api, api.proto) are asked for, and
protobuf's own rule says how to pass over the others, also over those of later versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc

from architect.daemon.host import Host

SOCKETS: Final = (
    Path("/run/containerd/containerd.sock"),
    Path("/run/k3s/containerd/containerd.sock"),
    Path("/run/crio/crio.sock"),
)
"""Of containerd, of k3s's and RKE2's, of CRI-O: where they put it by default."""


def find(host: Host, sockets: Iterable[Path] = SOCKETS) -> Path | None:
    """Return where the engine's socket is for this process; None if it is at none of *sockets*."""
    return next((p for s in sockets if (p := host.path(s)).is_socket()), None)


def call(
    path: Path, method: str, request: bytes, *, timeout_seconds: float, max_answer_bytes: int
) -> bytes:
    """Return the engine's answer. Raises grpc.RpcError."""
    # A channel for each question: there are few, and an engine that was restarted is another.
    options = [("grpc.max_receive_message_length", max_answer_bytes)]
    with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
        ask: Any = channel.unary_unary(method)
        answer: bytes = ask(request, timeout=timeout_seconds)
    return answer


def told(error: Exception) -> str:
    """Return what an error of :func:`call`, or of reading its answer, says."""
    return str(error.details() if isinstance(error, grpc.Call) else error)


def message(number: int, value: bytes) -> bytes:
    """Return a message of one field, of bytes."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a protobuf message that are bytes. Raises ValueError if it is none."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(raw) or shift > 63:
                raise ValueError("the engine's answer is no protobuf message")
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7

    while at < len(raw):
        key = varint()
        match key & 7:
            case 0:
                varint()
                continue
            case 1 | 5 as kind:
                at += 8 if kind == 1 else 4
                continue
            case 2:
                size = varint()
            case _:
                raise ValueError("the engine's answer is no protobuf message")
        if size > len(raw) - at:
            raise ValueError("the engine's answer is cut short")
        yield key >> 3, raw[at : at + size]
        at += size
