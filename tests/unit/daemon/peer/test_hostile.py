"""What a damaged disk, a server that lies and a caller that wants too much can do."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from architect.checkpoint import manifest
from architect.checkpoint.manifest import SEGMENT_BYTES
from architect.core.errors import (
    FormatError,
    NodeError,
    Retryable,
    Unavailable,
)
from architect.daemon.peer import protocol
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.server import MAX_CALLS_OF_A_NODE, PeerServer
from support.issuer import Issuer
from support.transfers import ID, Eventually, Source, channel_of, large, refused


def test_a_byte_that_was_changed_is_noticed(source: Source) -> None:
    path = source.checkpoints / ID / "app/image/pages-1.img"
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"!")
    source.serve()
    error = refused(source.fetch, FormatError)
    assert "app/image/pages-1.img" in str(error)
    assert "another SHA-256" in str(error)
    assert source.nothing_arrived()


def test_a_piece_that_is_too_short_on_its_node_is_named(source: Source) -> None:
    os.truncate(source.checkpoints / ID / "app/image/pages-1.img", 1000)
    source.serve()
    error = refused(source.fetch, FormatError)
    assert "ends at 1000 instead of" in str(error)
    assert source.nothing_arrived()


def test_a_piece_that_is_gone_on_its_node_is_named(source: Source) -> None:
    (source.checkpoints / ID / "app/layer.tar").unlink()
    (source.checkpoints / ID / "app/layer.tar").symlink_to("/etc/passwd")
    source.serve()
    assert "app/layer.tar" in str(refused(source.fetch, FormatError))


class Cutting(PeerServer):
    """Ends each piece early and says that all is well."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        for data in super()._read(raw, context):
            yield data[:-1]


class Adding(PeerServer):
    """Sends more than was asked for."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        yield from super()._read(raw, context)
        yield b"more"


class Empty(PeerServer):
    """Says that all is well, and sends nothing."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        return iter(())


class Endless(PeerServer):
    """Sends as long as one listens."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        while True:
            yield bytes(protocol.CHUNK_BYTES)


class Lumps(PeerServer):
    """Sends chunks larger than agreed."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        yield b"".join(super()._read(raw, context))


class Lying(PeerServer):
    """Sends a manifest larger than any."""

    def _describe(self, raw: bytes, context: Any) -> bytes:
        return bytes(manifest.MAX_BYTES + 1)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Cutting, "instead of"),
        (Adding, "more than was asked for"),
        (Empty, "instead of"),
        (Endless, "more than was asked for"),
        (Lumps, "more than was asked for"),
        (Lying, "bytes"),
    ],
)
def test_a_server_that_lies_is_caught(source: Source, kind: type[PeerServer], said: str) -> None:
    source.serve(kind)
    assert said in str(refused(source.fetch, FormatError))
    assert source.nothing_arrived()


def test_a_disk_that_is_too_small_is_named_before_anything_is_sent(source: Source) -> None:
    source.serve()
    error = refused(lambda: source.fetch(floor_bytes=1 << 60), NodeError)
    assert error.reason == "DiskFull"
    assert source.sent == 0
    assert source.nothing_arrived()


# What one caller can do to others


def test_requests_that_no_client_of_ours_makes_are_refused(source: Source) -> None:
    source.serve()
    size = max(p.size for p in source.manifest.pieces)
    number = next(n for n, p in enumerate(source.manifest.pieces) if p.size == size)
    good = {"id": ID, "piece": number, "offset": 0, "length": 1}
    with channel_of(source) as channel:
        read = channel.unary_stream(protocol.method(protocol.READ))

        def code(value: Any, *, timeout: float | None = 20.0) -> Any:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            with pytest.raises(grpc.RpcError) as caught:
                list(read(raw, timeout=timeout))
            error: Any = caught.value
            return error.code()

        invalid, outside = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE
        for value in (
            b"", b"[]", b"\xff", b"[" * 4000, {}, {**good, "path": "/etc/passwd"},
            {**good, "id": "../x"}, {**good, "id": 1}, {**good, "piece": -1},
            {**good, "piece": True}, {**good, "piece": "0"}, {**good, "offset": -1},
            {**good, "offset": 1.0}, {**good, "length": 0}, {**good, "length": 1 << 40},
        ):  # fmt: skip
            assert code(value) is invalid, value
        for value in (
            {**good, "piece": 1000}, {**good, "offset": size}, {**good, "length": size + 1},
            {**good, "offset": 1, "length": size},
        ):  # fmt: skip
            assert code(value) is outside, value
        assert code(b"x" * 5000) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code(good, timeout=None) is invalid
        assert code(good, timeout=86400) is invalid
        unknown = channel.unary_unary("/architect.peer.v2.Checkpoints/Describe")
        with pytest.raises(grpc.RpcError) as caught:
            unknown(b"{}", timeout=20)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert source.sent == 0


def test_one_node_cannot_take_all_calls(
    source: Source, issuer: Issuer, eventually: Eventually
) -> None:
    """Calls that nobody reads from stay open; those of another node are answered meanwhile."""
    large(source)
    server = source.serve()
    raw = protocol.ReadRequest(
        id=ID,
        piece=next(n for n, p in enumerate(source.manifest.pieces) if p.size > SEGMENT_BYTES),
        offset=0,
        length=SEGMENT_BYTES,
    ).to_bytes()
    with channel_of(source) as one, channel_of(source) as two:
        calls = [
            channel.unary_stream(protocol.method(protocol.READ))(raw, timeout=60)
            for channel in (one, two)
            for _ in range(MAX_CALLS_OF_A_NODE)
        ]
        eventually(lambda: server._calls["node-b"] == MAX_CALLS_OF_A_NODE)
        source.mine = issuer.credentials("node-c")
        source.readers.add("node-c")
        assert source.fetch() == source.manifest
        for call in calls:
            call.cancel()
        eventually(lambda: not server._calls)


def test_who_is_turned_away_comes_again(source: Source, eventually: Eventually) -> None:
    server = source.serve()
    server._calls["node-b"] = MAX_CALLS_OF_A_NODE
    release = threading.Timer(0.5, server._calls.clear)
    release.start()
    assert source.fetch() == source.manifest
    release.join()


def test_who_is_turned_away_keeps_the_connection(source: Source) -> None:
    """Or each call that comes too soon would end those that are under way."""

    class Busy(PeerServer):
        turned_away = 0

        def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
            if Busy.turned_away < 5:
                Busy.turned_away += 1
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
            return super()._read(raw, context)

    source.serve(Busy)
    dialled = 0

    def address_of(_: str) -> str:
        nonlocal dialled
        dialled += 1
        return source.address

    fetched = source.fetcher(address_of=address_of).fetch(
        "node-a", ID, source.target, is_durable=False
    )
    assert (fetched.breaks, dialled) == (5, 1)


def test_a_port_that_is_taken_is_named(source: Source) -> None:
    source.serve()
    second = PeerServer(
        credentials=lambda: source.credentials, locate=source.locate, may_read=source.may_read
    )
    with pytest.raises(NodeError) as caught:
        second.start(source.address)
    assert caught.value.reason == "CannotListen"
    second.stop()


def test_no_certificate_no_server(source: Source) -> None:
    def none() -> Credentials:
        raise Unavailable("no certificate yet")

    with pytest.raises(Retryable):
        PeerServer(credentials=none, locate=source.locate, may_read=source.may_read).start(
            "127.0.0.1:0"
        )
