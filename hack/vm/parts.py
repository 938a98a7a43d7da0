"""A disk with what a cluster is made of: the part of the cache that `lab up` and the chart need.

The machine works on it, too: the lab's state is on a disk that is large enough.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from lab import artefacts, commands, dockerfiles, oci
from lab.cache import Cache
from lab.pruning import Recorder
from vm import guest

SIZE: Final = "16G"
"""Of the file system; the file has holes and takes about 2.3 GB."""
BYTES_PER_INODE: Final = 65536
PACK_SECONDS: Final = 600.0


def disk(cache: Cache, target: Path) -> None:
    """Write the disk to *target*, building what is missing."""
    used = needed(cache)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="parts-") as name:
        shelf = Path(name) / guest.CACHE.name
        shelf.mkdir()
        commands.run(
            ["cp", "--archive", "--reflink=auto", *used, shelf], timeout_seconds=PACK_SECONDS
        )
        for image in dockerfiles.architect(cache):
            plain = Path(name) / "image.tar"
            oci.decompress(image.archive, plain)
            plain.replace(shelf / image.archive.relative_to(cache.root))
        # What those were built from is asked for by name only.
        for key in asked_for(cache) - {path.name for path in used}:
            (shelf / key).mkdir()
        commands.run(
            [
                *("mke2fs", "-q", "-t", "ext4", "-d", name, "-i", str(BYTES_PER_INODE)),
                *("-E", "lazy_itable_init=0,root_owner=0:0", target, SIZE),
            ],
            timeout_seconds=PACK_SECONDS,
        )


def needed(cache: Cache) -> list[Path]:
    """Return the artefacts that a cluster with Architect in it is made of, and no more."""
    parts = artefacts.build(cache)
    images = (*parts.preloaded, *dockerfiles.architect(cache))
    paths = (
        *(parts.node_root, parts.kubernetes, artefacts.helm(cache)),
        *(image.archive for image in images),
    )
    return sorted({cache.root / path.relative_to(cache.root).parts[0] for path in paths})


def asked_for(cache: Cache) -> set[str]:
    """Return the names of all artefacts that :func:`needed` looks for."""
    recorder = Recorder(cache.root)
    needed(recorder)
    return recorder.keys
