"""Inputs made from other inputs: the same ones for the same random numbers.

What a coverage-guided fuzzer finds out by itself, that a document is JSON or that numbers at the
ends of their ranges are worth trying, is said here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from architect.checkpoint import strict

MAX_BYTES: Final = 1 << 16
"""Of an input; what only larger ones could show is for tests of limits."""

Others = Sequence[bytes]
Mutate = Callable[[Random, bytes, Others], bytes]
"""Makes one input from another, which others of the same kind may lend parts to."""

_BYTES: Final = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x0A, 0x20, 0x22, 0x2F, 0x5B, 0x7B)
_NUMBERS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_TEXTS: Final = (
    *("", "a", "app", "0", "-1", "1e999", "60s", "never", "true", "null", "\0", "\ud800", "ﬀ"),
    *("../..", "/", "a,b", "[]", "{}", '{"app": 1}', "x" * 300, "2030-01-02T03:04:05Z", "²", "٣"),
)
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 65535, 65536, 1 << 31, 1 << 63, 1 << 70, 1.0, 0.5, -0.0),
    *(float("inf"), float("nan"), 1e308, [], {}, [[]], [None], {"": None}, [{}], *_TEXTS),
)


def raw(random_: Random, data: bytes, others: Others) -> bytes:
    """Change some bytes: flip, overwrite, cut, repeat, insert, splice."""
    found = bytearray(data)
    for _ in range(1 << random_.randrange(4)):
        _change(random_, found, others)
    return bytes(found[:MAX_BYTES])


def _change(random_: Random, data: bytearray, others: Others) -> None:
    at = random_.randrange(len(data) + 1)
    length = 1 << random_.randrange(6)
    match random_.randrange(8):
        case 0:
            data[at : at + 1] = bytes([random_.choice(_BYTES)])
        case 1:
            data[at : at + 1] = random_.randbytes(1)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[at : at + length]
        case 4:
            data[at:at] = random_.randbytes(length)
        case 5:
            size = random_.choice((1, 2, 4, 8))
            number = random_.choice(_NUMBERS) & ((1 << 8 * size) - 1)
            data[at : at + size] = number.to_bytes(size, random_.choice(("big", "little")))
        case 6 if data:
            place = min(at, len(data) - 1)
            data[place] ^= 1 << random_.randrange(8)
        case _ if others:
            other = random_.choice(others)
            start = random_.randrange(len(other) + 1)
            data[at:] = other[start:]


def document(random_: Random, data: bytes, others: Others) -> bytes:
    """Change some values of a JSON document; one time in eight, and if it is none, its bytes."""
    if not random_.randrange(8):
        return raw(random_, data, others)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return raw(random_, data, others)
    for _ in range(1 << random_.randrange(3)):
        value = _changed(random_, value, others)
    # As engines and Go write it: whoever looks for a text in it finds it.
    compact = (",", ":") if random_.randrange(4) else None
    return json.dumps(value, separators=compact).encode()[:MAX_BYTES]


def _changed(random_: Random, value: Any, others: Others) -> Any:
    """Return *value* with one of the values in it replaced, taken away, renamed or added."""
    places = list(_places(value))
    if not places:
        return random_.choice(_VALUES)
    holder, key = random_.choice(places)
    match random_.randrange(7):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random_.choice(_TEXTS)] = holder.pop(key)
        case 1:
            holder.append(copy.deepcopy(holder[key]))
        case 2 if others:
            holder[key] = _part(random_, random_.choice(others))
        case 3:
            other, other_key = random_.choice(places)
            holder[key] = copy.deepcopy(other[other_key])
        case 4 if isinstance(holder[key], str):
            text = holder[key]
            at = random_.randrange(len(text) + 1)
            holder[key] = text[:at] + random_.choice(_TEXTS) + text[at + 1 :]
        case 5 if isinstance(holder[key], int):
            holder[key] += random_.choice((-1, 1, 1 << 31, 1 << 63))
        case _:
            holder[key] = copy.deepcopy(random_.choice(_VALUES))
    return value


def canonical(random_: Random, data: bytes, others: Others) -> bytes:
    """As :func:`document`, and three times in four in the one form that strict readers take."""
    changed = document(random_, data, others)
    try:
        value = json.loads(changed)
    except (ValueError, RecursionError):
        return changed
    if not isinstance(value, dict) or not random_.randrange(4):
        return changed
    return strict.canonical(value)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return holder and key of each value below *value*."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict):
            found += [(holder, key) for key in holder]
            waiting += holder.values()
        elif isinstance(holder, list):
            found += [(holder, index) for index in range(len(holder))]
            waiting += holder
    return found


def _part(random_: Random, data: bytes) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    holder, key = random_.choice(_places(value) or [([None], 0)])
    return holder[key]
