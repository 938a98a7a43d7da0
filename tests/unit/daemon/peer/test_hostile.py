"""What a damaged disk, a server that lies and a caller that wants too much can do."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
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
    Rejected,
    Retryable,
    Unavailable,
)
from architect.daemon.peer import client, protocol
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.outlet import Outlet
from architect.daemon.peer.protocol import MAX_PARTS, Grant
from architect.daemon.peer.records import MAX_RECORD_BYTES, RECORD_BYTES, Kind, Writer
from architect.daemon.peer.server import MAX_CALLS_OF_A_NODE, PeerServer
from support.issuer import Issuer
from support.loopback import own_host
from support.transfers import ID, Eventually, Source, channel_of, large, refused


def test_a_byte_that_was_changed_is_noticed(source: Source) -> None:
    path = source.checkpoints / ID / "app/image/pages-1.img"
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"!")
    source.serve()
    error = refused(source.fetch, FormatError)
    assert "app/image/pages-1.img" in str(error)
    assert "another hash" in str(error)
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


class Giving(Outlet):
    """Gives each part in records as :meth:`chunks` makes them."""

    def _send(self, connection: socket.socket, offer: Any) -> None:
        writer = Writer(connection, offer.grant.key, most=MAX_RECORD_BYTES)
        for part in offer.parts:
            data = (offer.directory / part.name).read_bytes()
            for chunk in self.chunks(data[part.offset : part.offset + part.length]):
                writer.send(Kind.DATA, chunk)

    def chunks(self, data: bytes) -> Iterator[bytes]:
        raise NotImplementedError


class Cutting(Giving):
    """Ends each part early and says that all is well."""

    def chunks(self, data: bytes) -> Iterator[bytes]:
        if data[:-1]:
            yield data[:-1][:MAX_RECORD_BYTES]


class Adding(Giving):
    """Sends more than was asked for."""

    def chunks(self, data: bytes) -> Iterator[bytes]:
        more = b"more"
        length = MAX_RECORD_BYTES - len(more)
        for start in range(0, len(data), length):
            yield data[start : start + length] + more


class Empty(Giving):
    """Says that all is well, and sends nothing."""

    def chunks(self, data: bytes) -> Iterator[bytes]:
        return iter(())


class Endless(Giving):
    """Sends as long as one listens."""

    def chunks(self, data: bytes) -> Iterator[bytes]:
        while True:
            yield bytes(MAX_RECORD_BYTES)


class Lumps(Outlet):
    """Sends records larger than agreed."""

    def _send(self, connection: socket.socket, offer: Any) -> None:
        Writer(connection, offer.grant.key, most=MAX_RECORD_BYTES + 1).send(
            Kind.DATA, bytes(MAX_RECORD_BYTES + 1)
        )


class Unencrypted(Outlet):
    """Sends what is on its disk, as it is."""

    def _send(self, connection: socket.socket, offer: Any) -> None:
        data = (offer.directory / offer.parts[0].name).read_bytes()[:RECORD_BYTES]
        connection.sendall(struct.pack("!I", len(data)) + data + bytes(16))


class Lying(PeerServer):
    """Sends a manifest larger than any."""

    def _describe(self, raw: bytes, context: Any) -> bytes:
        return bytes(manifest.MAX_BYTES + 1)


@pytest.mark.parametrize("kind", [Adding, Endless])
def test_a_server_that_sends_more_is_caught(source: Source, kind: type[Outlet]) -> None:
    source.serve(outlet=kind)
    assert "more than was asked for" in str(refused(source.fetch, FormatError))
    assert source.nothing_arrived()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Cutting, "ended before its last byte"),
        (Empty, "ended before its last byte"),
        (Lumps, "no record begins with"),
        (Unencrypted, "changed on its way"),
    ],
)
def test_bytes_that_are_not_what_was_granted_never_arrive(
    source: Source,
    kind: type[Outlet],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody may sit between the two: it is tried again, as after a connection that broke."""

    class Once(kind):  # type: ignore[misc, valid-type]
        def _send(self, connection: socket.socket, offer: Any) -> None:
            source.readers.clear()
            super()._send(connection, offer)

    monkeypatch.setattr(client, "STREAMS", 1)
    caplog.set_level(logging.INFO)
    source.serve(outlet=Once)
    assert refused(source.fetch, Rejected).reason == "NotAllowed"
    assert said in caplog.text
    assert source.nothing_arrived()


def test_a_server_with_a_manifest_larger_than_any_is_caught(source: Source) -> None:
    source.serve(Lying)
    assert "bytes" in str(refused(source.fetch, FormatError))
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
    good = {"id": ID, "parts": [[number, 0, 1]]}
    with channel_of(source) as channel:
        read = channel.unary_unary(protocol.method(protocol.READ))

        def code(value: Any, *, timeout: float | None = 20.0) -> Any:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            with pytest.raises(grpc.RpcError) as caught:
                read(raw, timeout=timeout)
            error: Any = caught.value
            return error.code()

        invalid, outside = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE
        for value in (
            b"", b"[]", b"\xff", b"[" * 4000, {}, {**good, "path": "/etc/passwd"},
            {**good, "id": "../x"}, {**good, "id": 1}, {"id": ID, "parts": {}},
            {"id": ID, "parts": []}, {"id": ID, "parts": [[0, 0, 1]] * (MAX_PARTS + 1)},
            {"id": ID, "parts": [[0, 0, SEGMENT_BYTES], [0, 0, 1]]},
        ):  # fmt: skip
            assert code(value) is invalid, value
        odd: tuple[Any, ...] = (
            {}, [], [0], [0, 0, 1, 1], [-1, 0, 1], [True, 0, 1], ["0", 0, 1], [0, -1, 1],
            [0, 1.0, 1], [0, 0, 0], [0, 0, 1 << 40], "abc",
        )  # fmt: skip
        for part in odd:
            assert code({"id": ID, "parts": [part]}) is invalid, part
            assert code({"id": ID, "parts": [[number, 0, 1], part]}) is invalid, part
        for part in ([1000, 0, 1], [number, size, 1], [number, 0, size + 1], [number, 1, size]):
            assert code({"id": ID, "parts": [[number, 0, 1], part]}) is outside, part
        assert code(b"x" * 20_000) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code(good, timeout=None) is invalid
        assert code(good, timeout=86400) is invalid
        unknown = channel.unary_unary("/architect.peer.v2.Checkpoints/Describe")
        with pytest.raises(grpc.RpcError) as caught:
            unknown(b"{}", timeout=20)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert source.sent == 0


def test_one_node_cannot_take_all(source: Source, issuer: Issuer, eventually: Eventually) -> None:
    """Bytes that nobody reads stay on their way; another node gets its own meanwhile."""
    large(source)
    server = source.serve()
    number = next(n for n, p in enumerate(source.manifest.pieces) if p.size > SEGMENT_BYTES)
    whole = protocol.Part(piece=number, offset=0, length=SEGMENT_BYTES)
    raw = protocol.ReadRequest(id=ID, parts=(whole,)).to_bytes()
    with channel_of(source) as channel, contextlib.ExitStack() as connections:
        read = channel.unary_unary(protocol.method(protocol.READ))
        for _ in range(MAX_CALLS_OF_A_NODE):
            grant = Grant.from_bytes(read(raw, timeout=20))
            connection = socket.create_connection(("127.0.0.1", grant.port), 20)
            connections.enter_context(connection).sendall(grant.ticket)
        with pytest.raises(grpc.RpcError) as caught:
            read(raw, timeout=20)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        source.mine = issuer.credentials("node-c")
        source.readers.add("node-c")
        assert source.fetch() == source.manifest
        assert server.is_serving
    eventually(lambda: not server.is_serving)


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

        def _read(self, raw: bytes, context: Any) -> bytes:
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
        second.start(source.address, data_address="127.0.0.1:0")
    assert caught.value.reason == "CannotListen"
    second.stop()


def test_a_port_for_bytes_that_is_taken_is_named_and_tried_again(source: Source) -> None:
    first, second = (
        PeerServer(
            credentials=lambda: source.credentials, locate=source.locate, may_read=source.may_read
        )
        for _ in range(2)
    )
    host = own_host()
    first.start(f"{host}:0", data_address=f"{host}:0")
    taken = f"{host}:{first.outlet.port}"
    with pytest.raises(NodeError, match="--peer-data-address") as caught:
        second.start(f"{host}:0", data_address=taken)
    assert caught.value.reason == "CannotListen"
    first.stop(grace_seconds=0)
    second.start(f"{host}:0", data_address=taken)
    source.address = f"{host}:{second.port}"
    assert source.fetch() == source.manifest
    second.stop(grace_seconds=0)


def test_no_certificate_no_server(source: Source) -> None:
    def none() -> Credentials:
        raise Unavailable("no certificate yet")

    with pytest.raises(Retryable):
        PeerServer(credentials=none, locate=source.locate, may_read=source.may_read).start(
            "127.0.0.1:0", data_address="127.0.0.1:0"
        )
