"""Sealed records: what arrives is what was sent, in its order, or nothing."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architect.core.errors import Unavailable
from architect.daemon.peer import records
from architect.daemon.peer.records import MAX_RECORD_BYTES, RECORD_BYTES, Kind, Reader, Writer

KEY = secrets.token_bytes(32)
HEAD, TAG = 4, 16


def sealed(*texts: bytes, kind: Kind = Kind.DATA, key: bytes = KEY) -> list[bytes]:
    """Return the records as they go over the wire."""
    one, other = socket.socketpair()
    with one, other:
        writer = Writer(one, key, most=max(map(len, texts)))
        found = []
        for text in texts:
            # More than a socket holds is read meanwhile.
            thread = threading.Thread(target=writer.send, args=(kind, text))
            thread.start()
            wanted = HEAD + len(text) + TAG
            found.append(other.recv(wanted, socket.MSG_WAITALL))
            thread.join()
            assert len(found[-1]) == wanted
        return found


def opened(raw: bytes, *, count: int, key: bytes = KEY) -> list[tuple[Kind, bytes]]:
    """Return the first *count* records of what came over a wire that ends then."""
    one, other = socket.socketpair()
    with other:
        with one:
            sender = threading.Thread(target=one.sendall, args=(raw,))
            sender.start()
            sender.join(20)
        reader = Reader(other, key)
        return [(kind, bytes(data)) for kind, data in (reader.receive() for _ in range(count))]


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=2000), min_size=1, max_size=5))
def test_records_arrive_as_they_were(texts: list[bytes]) -> None:
    raw = b"".join(sealed(*texts))
    assert opened(raw, count=len(texts)) == [(Kind.DATA, text) for text in texts]


def test_the_largest_record_arrives() -> None:
    text = secrets.token_bytes(RECORD_BYTES)
    one, other = socket.socketpair()
    with one, other:
        thread = threading.Thread(target=lambda: Writer(one, KEY).send(Kind.DATA, text))
        thread.start()
        kind, data = Reader(other, KEY).receive()
        thread.join()
        assert (kind, bytes(data)) == (Kind.DATA, text)


def test_what_lies_in_the_writers_room_arrives_as_what_lies_elsewhere() -> None:
    texts = [b"first", b"a longer one", b"last"]
    one, other = socket.socketpair()
    with one, other:
        writer, reader = Writer(one, KEY, most=20), Reader(other, KEY)
        assert len(writer.room) == 20
        for text in texts:
            room = writer.room[: len(text)]
            room[:] = text
            writer.send(Kind.DATA, room)
            assert bytes(room) != text  # where it lay there is what was sent
            _, data = reader.receive()
            assert bytes(data) == text


def test_a_problem_is_no_data() -> None:
    (record,) = sealed(b"damaged", kind=Kind.PROBLEM)
    assert opened(record, count=1) == [(Kind.PROBLEM, b"damaged")]


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


RECORDS = sealed(b"first", b"other", b"third")


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        pytest.param(lambda r: flip(r[0], 0), 1, id="kind"),
        pytest.param(lambda r: flip(r[0], HEAD), 1, id="ciphertext"),
        pytest.param(lambda r: flip(r[0], len(r[0]) - 1), 1, id="tag"),
        pytest.param(lambda r: r[1] + r[0], 1, id="order"),
        pytest.param(lambda r: r[0] + r[0], 2, id="repeated"),
        pytest.param(lambda r: r[0] + r[2], 2, id="left out"),
        pytest.param(lambda r: sealed(b"first", key=bytes(32))[0], 1, id="another key"),
        pytest.param(lambda r: b"\x02\0\0\5" + r[0][4:], 1, id="unknown kind"),
        pytest.param(lambda r: b"\0\0\0\0" + r[0][4:], 1, id="empty"),
        pytest.param(
            lambda r: (MAX_RECORD_BYTES + 1).to_bytes(4, "big") + r[0][4:], 1, id="too large"
        ),
    ],
)  # fmt: skip
def test_what_was_changed_on_its_way_is_not_taken(
    changed: Callable[[list[bytes]], bytes], count: int
) -> None:
    with pytest.raises(Unavailable):
        opened(changed(RECORDS), count=count)


@pytest.mark.parametrize("length", [0, 1, HEAD, HEAD + 3, len(RECORDS[0]) - 1])
def test_a_connection_that_ends_early_is_no_record(length: int) -> None:
    with pytest.raises(ConnectionResetError):
        opened(RECORDS[0][:length], count=1)


def test_who_sends_nothing_more_is_waited_for_so_long() -> None:
    one, other = socket.socketpair()
    with one, other:
        records.block(other, 0.2)
        one.sendall(sealed(b"a text")[0][:-1])
        with pytest.raises(TimeoutError, match="nothing came any more"):
            Reader(other, KEY).receive()


def test_who_takes_nothing_more_is_waited_for_so_long() -> None:
    one, other = socket.socketpair()
    with one, other:
        records.block(one, 0.2)
        writer = Writer(one, KEY)
        with pytest.raises(TimeoutError, match="nothing was taken any more"):
            while True:
                writer.send(Kind.DATA, bytes(RECORD_BYTES))


def test_a_record_is_taken_however_slowly_it_comes() -> None:
    one, other = socket.socketpair()
    with one, other:
        records.block(other, 20)
        (raw,) = sealed(b"a text")

        def trickle() -> None:
            for place in range(len(raw)):
                one.sendall(raw[place : place + 1])

        thread = threading.Thread(target=trickle)
        thread.start()
        kind, data = Reader(other, KEY).receive()
        thread.join()
        assert (kind, bytes(data)) == (Kind.DATA, b"a text")
