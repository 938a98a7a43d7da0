"""What goes over a data connection: what was granted, in sealed records.

::

    connection   = ticket, of TICKET_BYTES, from who gets; then records, from who gives
    record       = kind (1 byte), length (3 bytes, big-endian), ciphertext, tag (16 bytes)
    kind         = 0: the next bytes of one part; 1: why no more come, as text

AES-256-GCM with the key that was granted; the nonce is the number of the record, from 0, and the
record's first four bytes are authenticated with it. A key is for one connection and one direction,
so no nonce meets a key twice, and no record can be left out, repeated or moved. The connection ends
after the last byte that was granted, which who gets has counted.

Why not within the gRPC call, and its TLS: that costs more than twice the processor time, in records
of 16 KiB and messages that are copied. See decision 25 in ``docs/decisions``.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from architect.core.errors import Unavailable

RECORD_BYTES: Final = 1024**2
"""Of a piece in one record. There is one buffer for its text and its ciphertext on either side, so
that it stays in a core's cache on its way; of smaller ones, threads take turns more often."""

MAX_RECORD_BYTES: Final = 1024**2
"""What is taken: another version may think otherwise."""

MAX_PROBLEM_BYTES: Final = 2000

_HEAD: Final = struct.Struct("!I")
_KIND_SHIFT: Final = 24
_TAG_BYTES: Final = 16
_NONCE_BYTES: Final = 12

_TIMEVAL: Final = struct.Struct("@ll")
"""Of Linux: seconds and microseconds (socket(7), SO_RCVTIMEO)."""


class Kind(enum.IntEnum):
    """What a record holds."""

    DATA = 0
    PROBLEM = 1


def block(connection: socket.socket, seconds: float) -> None:
    """Let each call on *connection* wait in the kernel, for *seconds* at most.

    With a time-out of Python's own each call is two, of which the first says that there is
    something, however little: a record took a dozen calls and turns of the interpreter's lock.
    What waited in vain fails as on a socket that never waits; here that is a TimeoutError.
    """
    value = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
    connection.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, value)


class _Numbered:
    """A key and how often it was used."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._number = 0

    def _nonce(self) -> bytes:
        value = self._number.to_bytes(_NONCE_BYTES, "big")
        self._number += 1
        return value


class Writer(_Numbered):
    """Sends records. For one thread."""

    def __init__(self, connection: socket.socket, key: bytes, *, most: int = RECORD_BYTES) -> None:
        """Prepare for records of at most *most* bytes of plain text."""
        super().__init__(key)
        self._connection = connection
        self._buffer = memoryview(bytearray(_HEAD.size + most + _TAG_BYTES))

    @property
    def room(self) -> memoryview:
        """Where a text may lie that is sent: it is encrypted where it is, and gone with that."""
        return self._buffer[_HEAD.size : -_TAG_BYTES]

    def send(self, kind: Kind, plain: bytes | memoryview) -> None:
        """Send one record; *plain* lies outside of :attr:`room`, or at its beginning.

        Raises OSError.
        """
        head, end = self._buffer[: _HEAD.size], _HEAD.size + len(plain) + _TAG_BYTES
        _HEAD.pack_into(head, 0, kind << _KIND_SHIFT | len(plain))
        self._cipher.encrypt_into(self._nonce(), plain, head, self._buffer[_HEAD.size : end])
        with _telling("nothing was taken any more"):
            self._connection.sendall(self._buffer[:end])


class Reader(_Numbered):
    """Receives records. For one thread."""

    def __init__(self, connection: socket.socket, key: bytes) -> None:
        super().__init__(key)
        self._connection = connection
        self._head = memoryview(bytearray(_HEAD.size))
        self._sealed = memoryview(b"")

    def receive(self) -> tuple[Kind, memoryview]:
        """Return the next record, whose bytes are good until the next call.

        Raises OSError, and Unavailable for what the other side has not sent so: neither a daemon
        that lies nor a damaged disk looks like that, but a connection that somebody or something
        changes. Another attempt has another key.
        """
        self._fill(self._head)
        (word,) = _HEAD.unpack(self._head)
        kind, length = word >> _KIND_SHIFT, word & ((1 << _KIND_SHIFT) - 1)
        if kind > max(Kind) or not 0 < length <= MAX_RECORD_BYTES:
            raise Unavailable(f"no record begins with {word:#010x}")
        if len(self._sealed) < length + _TAG_BYTES:
            self._sealed = memoryview(bytearray(length + _TAG_BYTES))
        sealed = self._sealed[: length + _TAG_BYTES]
        plain = sealed[:length]
        self._fill(sealed)
        try:
            # Where it lies: nobody sees what was there if the tag says that it is not to be.
            self._cipher.decrypt_into(self._nonce(), sealed, self._head, plain)
        except InvalidTag:
            raise Unavailable("a record was changed on its way") from None
        return Kind(kind), plain

    def _fill(self, view: memoryview) -> None:
        while view:
            with _telling("nothing came any more"):
                received = self._connection.recv_into(view, 0, socket.MSG_WAITALL)
            if not received:
                raise ConnectionResetError("the connection ended before its last byte")
            view = view[received:]


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise TimeoutError(errno.ETIMEDOUT, what) from None
