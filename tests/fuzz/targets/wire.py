"""Frames on a control socket, in whatever pieces they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from architect.core import wire
from architect.core.errors import FormatError
from fuzz import mutations

MUTATE = mutations.raw


def seeds() -> Iterator[bytes]:
    one = wire.encode({"v": 1, "op": "status", "pod": "web"})
    yield one
    yield one + wire.encode({"ok": True, "pods": [{"state": "awake"}] * 3})
    yield one[:-1]
    yield b"\0\0\0\2{}" * 5
    yield b"\0\x10\0\1" + b"[" * 100


def run(data: bytes) -> None:
    whole = _taken(data, len(data) or 1)
    assert _taken(data, 1) == whole
    assert _taken(data, 7) == whole


def _taken(data: bytes, size: int) -> tuple[list[dict[str, Any]], bool]:
    """Return the messages, and whether what followed them was refused."""
    decoder, found = wire.Decoder(), []
    for start in range(0, len(data), size):
        try:
            for message in decoder.feed(data[start : start + size]):
                assert isinstance(message, dict)
                found.append(_comparable(message))
        except FormatError:
            return found, True
    assert decoder.held_bytes <= len(data)
    return found, False


def _comparable(message: dict[str, Any]) -> dict[str, Any]:
    return {"is": repr(message)}  # NaN is not equal to itself
