"""What a sandbox of gVisor, which a container may have taken over, says in its image."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

from architect.core.errors import FormatError
from architect.shim.gvisor import image
from fuzz import mutations, scratch

MUTATE = mutations.raw


def seeds() -> Iterator[bytes]:
    for found in (
        {"runsc_version": "release-20260905.0", "container_count": "2"},
        {"runsc_version": "release-20260905.0", "container_count": float("inf")},
        [["runsc_version"]],
        None,
    ):
        text = json.dumps(found).encode() if found is not None else b"[" * 100_000
        yield struct.pack("!8sQ", b"gVisorSF", len(text)) + text


def run(data: bytes) -> None:
    directory = scratch.directory("gvisor")
    (directory / image.STATE).write_bytes(data)
    try:
        found = image.read(directory)
    except FormatError as error:
        assert len(str(error)) < 1000
        return
    assert isinstance(found.version, str)
    assert isinstance(found.containers, int)
