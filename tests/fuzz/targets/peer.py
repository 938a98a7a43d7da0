"""Requests and grants of other daemons, which have a certificate and may be stolen."""

from __future__ import annotations

from collections.abc import Iterator

from architect.checkpoint import manifest
from architect.core.errors import FormatError
from architect.daemon.peer.protocol import MAX_PARTS, DescribeRequest, Grant, Part, ReadRequest
from fuzz import mutations

MUTATE = mutations.document


def seeds() -> Iterator[bytes]:
    yield DescribeRequest(id="web-1234").to_bytes()
    parts = (Part(piece=3, offset=1 << 30, length=1 << 20), Part(piece=0, offset=0, length=1))
    yield ReadRequest(id="web-1234", parts=parts).to_bytes()
    yield Grant.make(9466).to_bytes()


def run(data: bytes) -> None:
    for kind in (DescribeRequest, ReadRequest):
        try:
            found = kind.from_bytes(data)
        except FormatError as error:
            assert len(str(error)) < 1000
            continue
        assert manifest.is_id(found.id)
        assert kind.from_bytes(found.to_bytes()) == found
        if isinstance(found, ReadRequest):
            assert 1 <= found.length <= manifest.SEGMENT_BYTES
            assert 1 <= len(found.parts) <= MAX_PARTS
            for part in found.parts:
                assert part.length >= 1
                assert 0 <= part.offset <= manifest.MAX_PIECE_BYTES
    try:
        grant = Grant.from_bytes(data)
    except FormatError as error:
        assert len(str(error)) < 1000
        return
    assert Grant.from_bytes(grant.to_bytes()) == grant
    assert 1 <= grant.port <= 65535
