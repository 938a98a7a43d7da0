"""Connections are found in a CRIU image, and a damaged image is said to be one."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from architect.core.errors import FormatError
from architect.shim.packets.connections import read_image
from architect.shim.packets.gate import Listener, SavedConnection
from architect.shim.packets.headers import Flow

MAGICS = struct.pack("=II", 0x54564319, 0x56303138)


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def blob(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def words(address: str) -> list[int]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return [word for (word,) in struct.iter_unpack("=I", socket.inet_pton(family, address))]


def inet(
    *,
    ino: int = 0xAB,
    protocol: int = 6,
    state: int = 1,
    local: tuple[str, int] = ("10.0.0.2", 80),
    remote: tuple[str, int] = ("10.0.0.9", 5000),
    packed: bool = False,
) -> bytes:
    body = number(1, 7) + number(2, ino) + number(3, 2) + number(4, 1)
    body += number(5, protocol) + number(6, state) + number(7, local[1]) + number(8, remote[1])
    for field, address in ((11, local[0]), (12, remote[0])):
        if packed:
            body += blob(field, b"".join(varint(word) for word in words(address)))
        else:
            body += b"".join(number(field, word) for word in words(address))
    return number(1, 2) + number(2, 7) + blob(4, body)


def stream(*, receive_next: int, window: int = 0, scale: int = 0) -> bytes:
    return number(1, 0) + number(2, receive_next) + number(8, scale) + number(16, window)


def write(path: Path, *entries: bytes, payload: bytes = b"") -> None:
    framed = b"".join(struct.pack("=I", len(entry)) + entry for entry in entries)
    path.write_bytes(MAGICS + framed + payload)


def test_connections_and_listeners_are_read(tmp_path: Path) -> None:
    nobody4, nobody6 = ("0.0.0.0", 0), ("::", 0)
    write(
        tmp_path / "files.img",
        number(1, 1) + number(2, 1) + blob(2, b"\x08\x01"),
        inet(),
        inet(ino=0xCD, local=("::ffff:10.0.0.2", 80), remote=("::ffff:10.0.0.8", 1), packed=True),
        inet(state=10, local=("::", 80), remote=nobody6),
        inet(protocol=17, state=7, local=("0.0.0.0", 53), remote=nobody4),
        inet(protocol=17, state=1, local=("10.0.0.2", 40000), remote=("10.0.0.53", 53)),
        inet(ino=0xEE, state=7),
    )
    write(
        tmp_path / "tcp-stream-ab.img",
        stream(receive_next=0xFFFFFFFF, window=64 << 7, scale=7),
        payload=bytes(3),
    )
    write(tmp_path / "tcp-stream-cd.img", stream(receive_next=5))
    found = read_image(tmp_path, shadow_ports={53})
    assert found.connections == {
        Flow("10.0.0.9", 5000, "10.0.0.2", 80): SavedConnection(receive_next=0xFFFFFFFF, window=64),
        Flow("10.0.0.8", 1, "10.0.0.2", 80): SavedConnection(receive_next=5, window=501),
    }
    assert found.listeners == (
        Listener(protocol="tcp", address="::", port=80),
        Listener(protocol="udp", address="0.0.0.0", port=53, wakes=False),
        Listener(protocol="udp", address="10.0.0.2", port=40000, peer=("10.0.0.53", 53)),
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage!", MAGICS + b"\x05", MAGICS + struct.pack("=I", 9) + b"x",
     MAGICS + struct.pack("=I", 1 << 30), MAGICS + struct.pack("=I", 2) + b"\xff\xff"],
)  # fmt: skip
def test_a_damaged_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "files.img").write_bytes(content)
    with pytest.raises(FormatError, match=r"files\.img"):
        read_image(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), cut=st.integers(0, 80))
def test_garbage_is_a_format_error_or_nothing(tmp_path: Path, data: bytes, cut: int) -> None:
    entry = inet()
    for content in (MAGICS + data, MAGICS + struct.pack("=I", len(data)) + data,
                    MAGICS + struct.pack("=I", cut) + entry[:cut]):  # fmt: skip
        (tmp_path / "files.img").write_bytes(content)
        try:
            read_image(tmp_path)
        except FormatError as error:
            assert "files.img" in str(error)
