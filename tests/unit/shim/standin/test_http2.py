from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.shim.standin import http2
from architect.shim.standin.dialogue import Health, Kind, Progress
from architect.shim.standin.http2 import PREFACE, Http2, frame

ASLEEP = Health(healthy=True, reason="asleep")
BROKEN = Health(healthy=False, reason="the restore failed")
WINDOW_UPDATE = frame(0x8, 0, 0, b"\0\0\xff\xff")
SETTINGS = frame(http2.SETTINGS, 0, 0, b"\0\4\0\0\xff\xff")
OPENING = PREFACE + SETTINGS
# A header block is never looked at, so that of a client may be anything.
REQUEST = frame(http2.HEADERS, http2.END_HEADERS, 1, b"\x83\x86anything") + frame(
    http2.DATA, http2.END_STREAM, 1, b"\0\0\0\0\0"
)


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    while data:
        end = 9 + int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:end]))
        assert len(data) >= end
        data = data[end:]
    return found


def opened(health: Health = ASLEEP) -> Http2:
    dialogue = Http2(lambda: health)
    dialogue.receive(OPENING)
    return dialogue


def test_settings_are_sent_as_soon_as_the_preface_is_there() -> None:
    dialogue = Http2(lambda: ASLEEP)
    assert dialogue.receive(PREFACE[:-1]) == b""
    assert dialogue.receive(PREFACE[-1:]) == frame(http2.SETTINGS, 0, 0)
    assert dialogue.receive(SETTINGS) == frame(http2.SETTINGS, http2.ACK, 0)
    assert dialogue.receive(frame(http2.SETTINGS, http2.ACK, 0)) == b""


@pytest.mark.parametrize(("health", "status"), [(ASLEEP, 1), (BROKEN, 2)])
def test_a_check_is_answered_with_the_serving_status_and_grpc_status_0(
    health: Health, status: int
) -> None:
    dialogue = opened(health)
    headers, data, trailers = frames(dialogue.receive(WINDOW_UPDATE + REQUEST))
    assert headers == (http2.HEADERS, http2.END_HEADERS, 1, b"\x88\x0f\x10\x10application/grpc")
    assert data == (http2.DATA, 0, 1, b"\0\0\0\0\x02\x08" + bytes([status]))
    assert trailers[1:] == (http2.END_HEADERS | http2.END_STREAM, 1, b"\0\x0bgrpc-status\x010")
    assert (dialogue.progress, dialogue.kind) == (Progress.ANSWERED, Kind.GRPC)


def test_later_checks_on_the_connection_are_answered_too() -> None:
    dialogue = opened()
    first = dialogue.receive(REQUEST)
    second = dialogue.receive(REQUEST.replace(b"\0\0\0\1", b"\0\0\0\3"))
    assert [stream for _, _, stream, _ in frames(first + second)] == [1, 1, 1, 3, 3, 3]


def test_a_request_that_ends_with_its_headers_is_answered() -> None:
    ended = frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, b"x")
    assert len(frames(opened().receive(ended))) == 3


def test_a_request_that_was_taken_back_is_not_answered() -> None:
    dialogue = opened()
    dialogue.receive(frame(http2.HEADERS, http2.END_HEADERS, 1, b"x"))
    dialogue.receive(frame(http2.RST_STREAM, 0, 1, b"\0\0\0\x08"))
    assert dialogue.receive(frame(http2.DATA, http2.END_STREAM, 1)) == b""


def test_a_ping_is_echoed_and_its_acknowledgement_is_not() -> None:
    dialogue = opened()
    assert dialogue.receive(frame(http2.PING, 0, 0, b"12345678")) == frame(
        http2.PING, http2.ACK, 0, b"12345678"
    )
    assert dialogue.receive(frame(http2.PING, http2.ACK, 0, b"12345678")) == b""


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(http2.PING, 0, 0, b"1"), http2.FRAME_SIZE_ERROR),
        (b"\xff\xff\xff\0\0\0\0\0\0", http2.FRAME_SIZE_ERROR),
        (frame(http2.HEADERS, 0, 2, b"x"), http2.PROTOCOL_ERROR),
        (frame(http2.HEADERS, 0, 0, b"x"), http2.PROTOCOL_ERROR),
        (REQUEST + REQUEST, http2.PROTOCOL_ERROR),
        (
            b"".join(frame(http2.HEADERS, 0, 1 + 2 * n) for n in range(17)),
            http2.ENHANCE_YOUR_CALM,
        ),
    ],
)
def test_a_broken_rule_ends_the_connection_with_goaway(data: bytes, code: int) -> None:
    dialogue = opened()
    last = frames(dialogue.receive(data))[-1]
    assert (last[0], last[3][4:]) == (http2.GOAWAY, code.to_bytes(4, "big"))
    assert dialogue.progress is Progress.FAILED
    assert dialogue.receive(REQUEST) == b""


def test_the_first_frame_must_be_settings() -> None:
    dialogue = Http2(lambda: ASLEEP)
    dialogue.receive(PREFACE + WINDOW_UPDATE)
    assert (dialogue.progress, dialogue.kind) == (Progress.FAILED, Kind.UNKNOWN)


def test_health_checks_do_not_wait_for_the_application() -> None:
    assert opened().application_is_back() == b""


@given(st.integers(min_value=1, max_value=80))
def test_how_a_connection_is_cut_into_pieces_does_not_matter(size: int) -> None:
    words = OPENING + WINDOW_UPDATE + frame(http2.PING, 0, 0, b"12345678") + REQUEST
    cut = Http2(lambda: ASLEEP)
    answer = b"".join(cut.receive(words[at : at + size]) for at in range(0, len(words), size))
    assert answer == Http2(lambda: ASLEEP).receive(words)


ANY_FRAME = st.builds(
    frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, 9),
    st.binary(max_size=40),
)


@given(st.lists(st.one_of(ANY_FRAME, st.binary(max_size=30)), max_size=30))
def test_garbage_raises_nothing_and_is_answered_in_whole_frames(pieces: list[bytes]) -> None:
    dialogue = opened()
    frames(b"".join(dialogue.receive(piece) for piece in pieces))


@given(st.binary(max_size=100))
def test_garbage_instead_of_the_preface_raises_nothing(data: bytes) -> None:
    dialogue = Http2(lambda: ASLEEP)
    dialogue.receive(data)
    assert dialogue.progress is not Progress.ANSWERED
