"""As much of PostgreSQL's protocol 3.0 as queries need, so that no client program is needed.

https://www.postgresql.org/docs/17/protocol-message-formats.html and RFC 7677 (SCRAM-SHA-256).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import struct
from dataclasses import dataclass

from demo.errors import ProtocolError

PROTOCOL = 196608  # 3.0
AUTH_OK, AUTH_SASL, AUTH_CONTINUE, AUTH_FINAL = 0, 10, 11, 12
MECHANISM = "SCRAM-SHA-256"


class Session:
    """One connection to a server, logged in."""

    def __init__(self, connection: socket.socket, *, user: str, password: str) -> None:
        self._socket = connection
        self._stream = connection.makefile("rb")
        body = b"".join(f"{word}\0".encode() for word in ("user", user, "database", user)) + b"\0"
        self._socket.sendall(struct.pack("!II", len(body) + 8, PROTOCOL) + body)
        scram = Scram(password=password, nonce=base64.b64encode(os.urandom(18)).decode())
        while True:
            kind, data = self._receive()
            if kind == b"R":
                self._authenticate(scram, data)
            elif kind == b"Z":
                return

    def query(self, text: str) -> list[tuple[str, ...]]:
        """Run *text* and return the rows, values as text and NULL as the empty one."""
        self._send(b"Q", text.encode() + b"\0")
        rows: list[tuple[str, ...]] = []
        failed: ProtocolError | None = None
        while True:
            try:
                kind, data = self._receive()
            except ProtocolError as error:
                failed = error
                continue
            if kind == b"D":
                rows.append(read_row(data))
            elif kind == b"Z":
                if failed is not None:
                    raise failed
                return rows

    def value(self, text: str) -> str:
        """Return the one value that *text* asks for."""
        return self.query(text)[0][0]

    def close(self) -> None:
        """Say good-bye."""
        self._send(b"X", b"")
        self._stream.close()
        self._socket.close()

    def _authenticate(self, scram: Scram, data: bytes) -> None:
        (code,) = struct.unpack("!I", data[:4])
        if code == AUTH_SASL:
            if MECHANISM.encode() not in data[4:].split(b"\0"):
                raise ProtocolError(f"postgresql: no {MECHANISM} among {data[4:]!r}")
            first = scram.first.encode()
            self._send(b"p", MECHANISM.encode() + b"\0" + struct.pack("!I", len(first)) + first)
        elif code == AUTH_CONTINUE:
            self._send(b"p", scram.answer(data[4:].decode()).encode())
        elif code not in (AUTH_OK, AUTH_FINAL):
            raise ProtocolError(f"postgresql: asks for authentication {code}, not {MECHANISM}")

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(kind + struct.pack("!I", len(body) + 4) + body)

    def _receive(self) -> tuple[bytes, bytes]:
        head = self._stream.read(5)
        if len(head) < 5:
            raise ConnectionResetError("postgresql: the server closed the connection")
        data = self._stream.read(struct.unpack("!I", head[1:])[0] - 4)
        if head[:1] == b"E":
            raise ProtocolError("postgresql: " + read_error(data))
        return head[:1], data


@dataclass(frozen=True, kw_only=True)
class Scram:
    """The client's side of one authentication."""

    password: str
    nonce: str

    @property
    def first(self) -> str:
        """The first message: no channel binding, the user's name is in the start-up packet."""
        return "n,," + self._bare

    @property
    def _bare(self) -> str:
        return f"n=,r={self.nonce}"

    def answer(self, challenge: str) -> str:
        """Return the final message, with the proof that we know the password."""
        fields = dict(field.split("=", 1) for field in challenge.split(","))
        if not fields["r"].startswith(self.nonce):
            raise ProtocolError("postgresql: the server's nonce is not an answer to ours")
        salted = hashlib.pbkdf2_hmac(
            "sha256", self.password.encode(), base64.b64decode(fields["s"]), int(fields["i"])
        )
        key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={fields['r']}"
        signed = f"{self._bare},{challenge},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}"


def read_row(data: bytes) -> tuple[str, ...]:
    """Return the values of a DataRow message."""
    (count,) = struct.unpack_from("!H", data)
    at, values = 2, []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", data, at)
        at += 4
        values.append(data[at : at + length].decode() if length > 0 else "")
        at += max(length, 0)
    return tuple(values)


def read_error(data: bytes) -> str:
    """Return severity, code and text of an ErrorResponse message."""
    fields = {part[:1]: part[1:].decode(errors="replace") for part in data.split(b"\0") if part}
    return " ".join(fields[key] for key in (b"S", b"C", b"M") if key in fields)
