"""In an image that moves the old pod's addresses become the new one's; all else stays."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core.errors import Rejected
from architect.shim.packets import protobuf, rebinding
from architect.shim.packets.connections import read_image
from architect.shim.packets.gate import Listener
from architect.shim.packets.protobuf import BYTES, VARINT

MAGICS = struct.pack("=II", 0x54564319, 0x56303138)
TCP, UDP, LISTENING, ESTABLISHED, CLOSED = 6, 17, 10, 1, 7
OLD = frozenset({"10.0.0.2", "fd00::2"})
NEW = frozenset({"10.0.7.9", "fd00:7::9", "fe80::1"})


def words(address: str) -> list[int]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return [word for (word,) in struct.iter_unpack("=I", socket.inet_pton(family, address))]


def inet(
    address: str, *, protocol: int = TCP, state: int = LISTENING, packed: bool = False
) -> bytes:
    def number(field: int, value: int) -> protobuf.Field:
        return field << 3 | VARINT, value

    own: list[protobuf.Field] = [number(11, word) for word in words(address)]
    if packed:
        own = [(11 << 3 | BYTES, protobuf.packed(words(address)))]
    body = protobuf.message(
        [
            *(number(1, 7), number(2, 0xAB), number(3, 2), number(4, 1)),
            *(number(5, protocol), number(6, state), number(7, 80), number(8, 0)),
            *own,
            *(number(12, 0), number(15, 1)),
        ]
    )
    return protobuf.message([number(1, 2), number(2, 7), (4 << 3 | BYTES, body)])


def image(directory: Path, *entries: bytes) -> Path:
    framed = b"".join(struct.pack("=I", len(entry)) + entry for entry in entries)
    (directory / "files.img").write_bytes(MAGICS + framed)
    return directory


def rebind(directory: Path) -> int:
    return rebinding.rebind(directory, rebinding.pairs(OLD, NEW), old=OLD)


@pytest.mark.parametrize("packed", [False, True])
def test_sockets_on_the_pods_addresses_follow_it(tmp_path: Path, packed: bool) -> None:
    image(
        tmp_path,
        inet("10.0.0.2", packed=packed),
        inet("fd00::2", packed=packed),
        inet("::ffff:10.0.0.2", packed=packed),
        inet("0.0.0.0", packed=packed),
        inet("127.0.0.1", packed=packed),
        inet("10.0.0.2", protocol=UDP, state=CLOSED, packed=packed),
    )
    assert rebind(tmp_path) == 4
    found = [(each.protocol, each.address) for each in read_image(tmp_path).listeners]
    assert found == [
        ("tcp", "10.0.7.9"),
        ("tcp", "fd00:7::9"),
        ("tcp", "10.0.7.9"),
        ("tcp", "0.0.0.0"),
        ("tcp", "127.0.0.1"),
        ("udp", "10.0.7.9"),
    ]
    assert isinstance(read_image(tmp_path).listeners[0], Listener)


def test_an_image_without_such_sockets_is_not_touched(tmp_path: Path) -> None:
    image(tmp_path, inet("0.0.0.0"), inet("::1"), inet("10.0.0.2", state=ESTABLISHED))
    before = (tmp_path / "files.img").read_bytes()
    assert rebind(tmp_path) == 0
    assert (tmp_path / "files.img").read_bytes() == before


def test_all_else_in_the_image_stays_as_it_was(tmp_path: Path) -> None:
    other = protobuf.message([(1 << 3, 1), (5 << 3 | 5, b"abcd"), (6 << 3 | 1, b"12345678")])
    image(tmp_path, other, inet("10.0.0.2"), other)
    rebind(tmp_path)
    kept = list(protobuf.entries(tmp_path / "files.img"))
    assert [kept[0], kept[2]] == [other, other]
    assert kept[1] == inet("10.0.7.9")


def test_a_socket_whose_family_the_new_pod_lacks_is_refused_by_address(tmp_path: Path) -> None:
    image(tmp_path, inet("fd00::2"))
    pairs = rebinding.pairs(OLD, frozenset({"10.0.7.9"}))
    with pytest.raises(Rejected, match="fd00::2") as caught:
        rebinding.rebind(tmp_path, pairs, old=OLD)
    assert caught.value.reason == "NoAddress"


def test_an_address_that_both_pods_have_stays() -> None:
    same = frozenset({"10.0.0.2"})
    assert rebinding.pairs(same, same | {"10.0.0.1"}) == {"10.0.0.2": "10.0.0.2"}


@given(
    st.lists(
        st.tuples(st.integers(1, 500).map(lambda n: n << 3 | VARINT), st.integers(0, 2**64 - 1))
        | st.tuples(st.integers(1, 500).map(lambda n: n << 3 | BYTES), st.binary(max_size=40))
    )
)
def test_a_message_reads_as_it_was_written(found: list[protobuf.Field]) -> None:
    assert list(protobuf.fields(protobuf.message(found), Path("image"))) == found
