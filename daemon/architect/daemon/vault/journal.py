"""A file of JSON lines that one daemon adds to, and the one that comes after it reads.

Mode 0600. Lines are not synchronised, so that they cost nothing: what a power cut takes away is
done once more. The first says what the rest is about; a line that was cut in the middle ends what
is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from architect.core import files

MAX_BYTES: Final = 64 * 1024**2
"""A line has 120 bytes: enough for the most shards that an envelope lists."""


def begin(path: Path, head: Mapping[str, Any]) -> None:
    """Begin it anew. Raises OSError."""
    files.make_private(path.parent)
    path.unlink(missing_ok=True)
    append(path, head)


def append(path: Path, value: Mapping[str, Any]) -> None:
    """Add a line. Raises OSError."""
    line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def read(path: Path) -> list[Mapping[str, Any]]:
    """Return its whole lines; none if it is not there or cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(fd, "rb") as file:
            raw = file.read(MAX_BYTES)
    except OSError:
        return []
    found: list[Mapping[str, Any]] = []
    for line in raw.split(b"\n")[:-1]:
        try:
            value = json.loads(line)
        except ValueError:
            break
        if not isinstance(value, dict):
            break
        found.append(value)
    return found
