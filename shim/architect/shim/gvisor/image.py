"""What gVisor says of itself in the image of a sandbox.

``checkpoint.img`` begins with eight bytes that name the format, the length of a JSON object as
eight bytes in network order, and the object: texts by name.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final, NamedTuple

from architect.core.errors import FormatError

STATE: Final = "checkpoint.img"
_HEAD: Final = struct.Struct("!8sQ")
_MAGIC: Final = b"gVisorSF"
_MAX_BYTES: Final = 16 << 20
"""gVisor's own limit."""


class Metadata(NamedTuple):
    """Of one image."""

    version: str
    """Of the runsc that wrote it: no other restores it."""
    containers: int
    """How many the sandbox had, its root among them."""


def read(image: Path) -> Metadata:
    """Return what the image in directory *image* says. Raises FormatError, OSError."""
    file = image / STATE
    with file.open("rb") as stream:
        head = stream.read(_HEAD.size)
        magic, length = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0)
        if magic != _MAGIC or length > _MAX_BYTES:
            raise FormatError(f"{file} is not an image of gVisor")
        raw = stream.read(length)
    try:
        found = json.loads(raw)
        return Metadata(
            version=str(found["runsc_version"]), containers=int(found["container_count"])
        )
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise FormatError(f"{file}: its metadata cannot be read: {error!r:.200}") from error
