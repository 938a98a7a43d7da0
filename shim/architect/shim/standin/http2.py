"""The gRPC health side: as much of HTTP/2 (RFC 9113) as one ``Health/Check`` needs.

The peer is known to be kubelet, whose only HTTP/2 without TLS is the gRPC probe, so
requests are answered without reading their headers: no HPACK state is kept, and of every
frame only its nine-byte head and a PING's eight bytes are looked at.
"""

from __future__ import annotations

from architect.shim.standin.dialogue import HealthSource, Kind, Progress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113, section 3.4)."""

MAX_FRAME_BYTES = 16384
"""The frame size a peer must keep to unless told otherwise (RFC 9113, section 6.5.2)."""

MAX_OPEN_STREAMS = 16
"""More requests at once than any prober makes."""

# Frame types and flags (RFC 9113, section 6).
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7
END_STREAM = ACK = 0x1
END_HEADERS = 0x4

PROTOCOL_ERROR, FRAME_SIZE_ERROR, ENHANCE_YOUR_CALM = 0x1, 0x6, 0xB
"""Error codes of GOAWAY (RFC 9113, section 7)."""

# HPACK without Huffman and without the dynamic table (RFC 7541): indexed ``:status 200``,
# then ``content-type`` by its static index 31; the trailer's name is spelled out.
_RESPONSE_HEADERS = b"\x88" + b"\x0f\x10" + b"\x10application/grpc"
_RESPONSE_TRAILERS = b"\x00" + b"\x0bgrpc-status" + b"\x010"

# HealthCheckResponse with field 1 as varint, in a gRPC message head (uncompressed, length 2).
_SERVING = b"\x00\x00\x00\x00\x02" + b"\x08\x01"
_NOT_SERVING = b"\x00\x00\x00\x00\x02" + b"\x08\x02"

_HEAD_BYTES = 9


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one HTTP/2 frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


class Http2:
    """Answers gRPC health checks on one HTTP/2 connection."""

    def __init__(self, health: HealthSource) -> None:
        self._health = health
        self._preface_left = PREFACE
        self._buffer = bytearray()
        self._skip_bytes = 0
        self._settled = False
        self._last_stream = 0
        self._open: set[int] = set()
        self.progress = Progress.LISTENING
        self.kind: Kind | None = None

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the connection and return frames.

        Our SETTINGS go out with the end of the preface: grpc-go waits for them before it
        sends its request.
        """
        if self.progress is Progress.FAILED:
            return b""
        output = b""
        if self._preface_left:
            size = min(len(data), len(self._preface_left))
            if data[:size] != self._preface_left[:size]:
                return self._fail(PROTOCOL_ERROR)
            self._preface_left, data = self._preface_left[size:], data[size:]
            if self._preface_left:
                return b""
            output = frame(SETTINGS, 0, 0)
        self._buffer += data
        return output + self._frames()

    def application_is_back(self) -> bytes:
        """Return nothing: a health check never waits for the application."""
        return b""

    def _frames(self) -> bytes:
        output = bytearray()
        offset = 0
        while self.progress is not Progress.FAILED:
            skipped = min(self._skip_bytes, len(self._buffer) - offset)
            offset += skipped
            self._skip_bytes -= skipped
            if len(self._buffer) - offset < _HEAD_BYTES:
                break
            head = bytes(self._buffer[offset : offset + _HEAD_BYTES])
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            stream = int.from_bytes(head[5:], "big") & 0x7FFF_FFFF
            ping = b""
            if kind == PING and size == 8:
                if len(self._buffer) - offset < _HEAD_BYTES + size:
                    break
                ping = bytes(self._buffer[offset + _HEAD_BYTES : offset + _HEAD_BYTES + size])
            offset += _HEAD_BYTES
            self._skip_bytes = size
            output += self._frame(kind, size=size, flags=flags, stream=stream, ping=ping)
        del self._buffer[:offset]
        return bytes(output)

    def _frame(self, kind: int, *, size: int, flags: int, stream: int, ping: bytes) -> bytes:
        if size > MAX_FRAME_BYTES or (kind == PING and not ping):
            return self._fail(FRAME_SIZE_ERROR)
        if not self._settled and (kind != SETTINGS or flags & ACK):
            return self._fail(PROTOCOL_ERROR)
        if kind == SETTINGS:
            self._settled = True
            return b"" if flags & ACK else frame(SETTINGS, ACK, 0)
        if kind == PING:
            return b"" if flags & ACK else frame(PING, ACK, 0, ping)
        if kind in (HEADERS, DATA):
            return self._request(kind, flags=flags, stream=stream)
        if kind == RST_STREAM:
            self._open.discard(stream)
        # GOAWAY is followed by the peer's close; WINDOW_UPDATE, PRIORITY, CONTINUATION and
        # unknown frames change nothing for answers of a few dozen bytes.
        return b""

    def _request(self, kind: int, *, flags: int, stream: int) -> bytes:
        if kind == HEADERS and stream not in self._open:
            if stream % 2 == 0 or stream <= self._last_stream:
                return self._fail(PROTOCOL_ERROR)
            if len(self._open) >= MAX_OPEN_STREAMS:
                return self._fail(ENHANCE_YOUR_CALM)
            self._last_stream = stream
            self._open.add(stream)
        if stream not in self._open or not flags & END_STREAM:
            return b""
        self._open.discard(stream)
        self.kind = Kind.GRPC
        self.progress = Progress.ANSWERED
        return (
            frame(HEADERS, END_HEADERS, stream, _RESPONSE_HEADERS)
            + frame(DATA, 0, stream, _SERVING if self._health().healthy else _NOT_SERVING)
            + frame(HEADERS, END_HEADERS | END_STREAM, stream, _RESPONSE_TRAILERS)
        )

    def _fail(self, code: int) -> bytes:
        self.kind = self.kind or Kind.UNKNOWN
        self.progress = Progress.FAILED
        payload = self._last_stream.to_bytes(4, "big") + code.to_bytes(4, "big")
        return frame(GOAWAY, 0, 0, payload)
