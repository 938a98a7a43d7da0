"""Who gets bytes: whoever shows a ticket, once and in time. Others get none, and hold up nobody."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.core.errors import NodeError
from architect.daemon.peer import outlet as outlets
from architect.daemon.peer import protocol
from architect.daemon.peer.outlet import MAX_WAITING, FilePart, Outlet
from architect.daemon.peer.protocol import Grant
from architect.daemon.peer.records import Kind, Reader

Eventually = Callable[..., None]


class Desk:
    """An outlet, and a file of it."""

    def __init__(self, directory: Path) -> None:
        self.data = os.urandom(100_000)
        self.path = directory / "pages.img"
        self.path.write_bytes(self.data)
        self.sent = 0
        self.outlet = Outlet(sent=self._count)
        self.outlet.start("127.0.0.1", 0)

    def _count(self, size: int) -> None:
        self.sent += size

    def grant(self, *parts: tuple[int, int]) -> Grant:
        """Return a grant of parts, by offset and length; without any, of the whole file."""
        return self.outlet.grant(
            "node-b",
            self.path.parent,
            tuple(
                FilePart(name=self.path.name, offset=offset, length=length)
                for offset, length in parts or ((0, len(self.data)),)
            ),
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.outlet.port), 20)

    def get(self, grant: Grant) -> bytes:
        with self.connect() as connection:
            connection.sendall(grant.ticket)
            reader, data = Reader(connection, grant.key), b""
            while True:
                try:
                    kind, found = reader.receive()
                except ConnectionResetError:
                    return data
                assert kind is Kind.DATA
                data += found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.outlet.stop(grace_seconds=0)


def ended(connection: socket.socket) -> bool:
    """Whether the other side ends it without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_ticket_gets_its_part(desk: Desk, eventually: Eventually) -> None:
    assert desk.get(desk.grant((7, 1234))) == desk.data[7:1241]
    assert desk.get(desk.grant((50, 7), (0, 1), (99_999, 1))) == (
        desk.data[50:57] + desk.data[:1] + desk.data[-1:]
    )
    assert desk.get(desk.grant()) == desk.data
    eventually(lambda: not desk.outlet.is_busy)
    assert desk.sent == 101_243


def test_a_ticket_that_comes_in_pieces_is_one(desk: Desk) -> None:
    grant = desk.grant((0, 10))
    with desk.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in grant.ticket:
            connection.sendall(bytes([byte]))
        _, data = Reader(connection, grant.key).receive()
        assert bytes(data) == desk.data[:10]


def test_a_ticket_is_good_once(desk: Desk) -> None:
    grant = desk.grant()
    assert desk.get(grant) == desk.data
    with desk.connect() as connection:
        connection.sendall(grant.ticket)
        assert ended(connection)


def test_who_has_no_ticket_gets_nothing(desk: Desk) -> None:
    desk.grant()
    for shown in (bytes(protocol.TICKET_BYTES), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 9):
        with desk.connect() as connection:
            connection.sendall(shown)
            assert ended(connection)
    assert desk.sent == 0


def test_what_nobody_comes_for_is_given_up(
    desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlets, "TICKET_SECONDS", 0.0)
    grants = [desk.grant() for _ in range(3)]
    with desk.connect() as silent:
        eventually(lambda: not desk.outlet.is_busy)
        assert ended(silent)
    with desk.connect() as connection:
        connection.sendall(grants[0].ticket)
        assert ended(connection)
    for grant in grants:
        assert grant.ticket not in desk.outlet._offers


def test_connections_that_show_nothing_hold_up_nobody(desk: Desk) -> None:
    silent = [desk.connect() for _ in range(MAX_WAITING + 20)]
    try:
        assert desk.get(desk.grant()) == desk.data
        assert ended(silent[0])  # the oldest had to go
    finally:
        for connection in silent:
            connection.close()
    assert threading.active_count() < MAX_WAITING


def test_a_node_without_room_for_a_thread_gives_again_later(
    desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant, start = desk.grant(), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "peer-give":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched, desk.connect() as connection:
        patched.setattr(threading.Thread, "start", refuse)
        connection.sendall(grant.ticket)
        assert ended(connection)
        eventually(lambda: not desk.outlet.is_busy)
    assert desk.get(desk.grant()) == desk.data


def test_a_file_that_got_shorter_is_said(desk: Desk) -> None:
    grant = desk.grant()
    os.truncate(desk.path, 100)
    with desk.connect() as connection:
        connection.sendall(grant.ticket)
        reader = Reader(connection, grant.key)
        assert bytes(reader.receive()[1]) == desk.data[:100]
        kind, text = reader.receive()
        assert kind is Kind.PROBLEM
        assert bytes(text) == b"pages.img ends at 100 instead of 100000"


def test_a_file_that_is_a_link_is_not_followed(desk: Desk) -> None:
    grant = desk.grant((0, 1))
    desk.path.unlink()
    desk.path.symlink_to("/etc/passwd")
    with desk.connect() as connection:
        connection.sendall(grant.ticket)
        kind, text = Reader(connection, grant.key).receive()
        assert (kind, bytes(text)) == (
            Kind.PROBLEM, b"pages.img: Too many levels of symbolic links"
        )  # fmt: skip


def test_the_end_does_not_wait_for_who_takes_nothing(desk: Desk) -> None:
    os.truncate(desk.path, 1 << 30)
    grant = desk.grant((0, 1 << 30))
    with desk.connect() as connection:
        connection.sendall(grant.ticket)
        Reader(connection, grant.key).receive()
        assert desk.outlet.is_busy
        desk.outlet.stop(grace_seconds=0)
        assert not desk.outlet.is_busy


def test_a_grant_does_not_tell_its_key() -> None:
    grant = Grant.make(9466)
    assert grant.key.hex() not in repr(grant)
    assert repr(grant.key) not in repr(grant)


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "127.0.0.1", "::1"])
def test_it_listens_where_it_is_told(host: str, tmp_path: Path) -> None:
    outlet = Outlet()
    outlet.start(host, 0)
    try:
        for where in {"::": ["127.0.0.1", "::1"], "0.0.0.0": ["127.0.0.1"]}.get(host, [host]):
            socket.create_connection((where, outlet.port), 20).close()
    finally:
        outlet.stop()


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(NodeError, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        Outlet().start("192.0.2.1", 0)
