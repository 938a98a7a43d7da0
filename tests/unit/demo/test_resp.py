"""Valkey's protocol as the demonstration reads and writes it."""

from __future__ import annotations

import io

import pytest

from demo import resp
from demo.errors import ProtocolError


def test_a_command_is_an_array_of_bulk_strings_measured_in_bytes() -> None:
    assert resp.encode(("SET", "k", "é")) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\xc3\xa9\r\n"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (b"+OK\r\n", "OK"),
        (b":20000\r\n", 20000),
        (b"$-1\r\n", None),
        (b"$4\r\na\r\nb\r\n", "a\r\nb"),
        (b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", ["a", [1]]),
    ],
)
def test_replies_are_read_as_values(said: bytes, meant: resp.Reply) -> None:
    assert resp.read_reply(io.BytesIO(said)) == meant


def test_an_error_reply_is_raised_with_its_text() -> None:
    with pytest.raises(ProtocolError, match="ERR unknown command"):
        resp.read_reply(io.BytesIO(b"-ERR unknown command\r\n"))


def test_a_server_that_hangs_up_is_noticed() -> None:
    with pytest.raises(ConnectionResetError):
        resp.read_reply(io.BytesIO(b""))
