"""A checkpoint's manifest, from another node or out of the object store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from architect.checkpoint import manifest
from architect.checkpoint.manifest import Piece
from architect.core.errors import FormatError
from fuzz import mutations
from support.checkpointdirs import about

MUTATE = mutations.canonical

SHA = "c" * 64


def seeds() -> Iterator[bytes]:
    pieces = [
        Piece(name="app/image/pages-1.img", size=5, mode=0o600, hashes=(SHA,)),
        Piece(name="app/empty", size=0, mode=0o400, hashes=()),
        Piece(
            name="app/layer.tar",
            size=3 * manifest.SEGMENT_BYTES + 1,
            mode=0o600,
            hashes=(SHA,) * 4,
        ),
    ]
    for found in (pieces, pieces[::2]):
        yield manifest.to_bytes(manifest.make(about(), found))


def run(data: bytes) -> None:
    try:
        found = manifest.from_bytes(data)
    except FormatError as error:
        assert len(str(error)) < 2000
        return
    assert manifest.to_bytes(found) == data
    assert manifest.is_id(found.id)
    assert 0 <= found.total_bytes <= manifest.MAX_TOTAL_BYTES
    for piece in found.pieces:
        path = PurePosixPath(piece.name)
        assert not path.is_absolute()
        assert not {"..", ".", ""} & set(piece.name.split("/"))
        assert re.fullmatch(r"[!-~]+", piece.name)
