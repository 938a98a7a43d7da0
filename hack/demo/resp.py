"""As much of Valkey's protocol (RESP 2) as commands need, so that no client program is needed.

https://valkey.io/topics/protocol/
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import BinaryIO, TypeAlias

from demo.errors import ProtocolError

Reply: TypeAlias = "str | int | list[Reply] | None"


class Session:
    """One connection to a server."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._stream = connection.makefile("rb")

    def call(self, *words: str) -> Reply:
        """Return the reply to one command. Raises ProtocolError if it is an error."""
        return self.pipeline([words])[0]

    def pipeline(self, commands: Sequence[Sequence[str]]) -> list[Reply]:
        """Send all *commands* at once and return their replies."""
        self._socket.sendall(b"".join(encode(words) for words in commands))
        return [read_reply(self._stream) for _ in commands]

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._socket.close()


def encode(words: Sequence[str]) -> bytes:
    """Return a command as an array of bulk strings."""
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


def read_reply(stream: BinaryIO) -> Reply:
    """Return the next reply of *stream*."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("valkey: the server closed the connection")
    kind, text = line[:1], line[1:-2].decode()
    if kind == b"+":
        return text
    if kind == b":":
        return int(text)
    if kind == b"$":
        return None if text == "-1" else stream.read(int(text) + 2)[:-2].decode()
    if kind == b"*":
        return [read_reply(stream) for _ in range(int(text))]
    raise ProtocolError(f"valkey: {text}")
