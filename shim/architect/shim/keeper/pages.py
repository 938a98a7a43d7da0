"""Whether the memory in an image is all there, before anything is made of it.

CRIU counts the pages that it writes, and does not count them when it reads: at the end of a file
that was cut it reads nothing, again and again, and neither restores nor fails.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from architect.core.errors import FormatError, NodeError
from architect.shim.packets import protobuf

PAGE_BYTES: Final = 4096
"""As CRIU counts them (PAGE_SIZE of x86-64; of arm64 kernels with small pages)."""
_SERVICE_MAGIC: Final = 0x55105940
"""IMG_SERVICE_MAGIC (CRIU's magic.h): of images that are about the dump."""
_HEAD: Final = struct.Struct("=III")
"""Both magics and the size of the only entry."""
_DUMP: Final = 1 << 3 | protobuf.BYTES
"""Field ``dump`` of stats_entry (CRIU's stats.proto)."""
_WRITTEN: Final = (7 << 3, 14 << 3)
"""Fields ``pages_written`` and ``shpages_written`` of dump_stats_entry."""


def check(image: Path) -> None:
    """Raise NodeError if *image* has fewer pages than CRIU has written.

    An image without CRIU's count is believed.
    """
    try:
        written = _written(image / "stats-dump")
    except (FileNotFoundError, FormatError):
        return
    found = sum(file.stat().st_size for file in image.glob("pages-*.img"))
    if found < written * PAGE_BYTES:
        raise NodeError(
            f"the image has {found} bytes of memory and should have {written * PAGE_BYTES}",
            reason="ImageCut",
            hint="did the disk of /var/lib/architect lose them?",
        )


def _written(stats: Path) -> int:
    data = stats.read_bytes()
    if len(data) < _HEAD.size or _HEAD.unpack_from(data)[0] != _SERVICE_MAGIC:
        raise FormatError(f"{stats}: not what CRIU counts")
    (_, _, size) = _HEAD.unpack_from(data)
    entry = dict(protobuf.fields(data[_HEAD.size : _HEAD.size + size], stats))
    dump = entry.get(_DUMP)
    if not isinstance(dump, bytes):
        raise FormatError(f"{stats}: it is not about a dump")
    counts = dict(protobuf.fields(dump, stats))
    return sum(int(counts.get(key, 0)) for key in _WRITTEN)
