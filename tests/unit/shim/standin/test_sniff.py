from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.shim.standin.dialogue import Health, Kind, Progress
from architect.shim.standin.http2 import PREFACE, SETTINGS, frame
from architect.shim.standin.sniff import Sniffer
from architect.shim.standin.tls import ALERT_INTERNAL_ERROR

ASLEEP = Health(healthy=True, reason="asleep")
HTTP = b"GET / HTTP/1.1\r\n\r\n"


def sniffer() -> Sniffer:
    return Sniffer(lambda: ASLEEP, certificate=None)


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"PATCH", b"PRI"])
def test_http_is_told_from_the_http2_preface_byte_by_byte(method: bytes) -> None:
    request = method + b" /x HTTP/1.1\r\n\r\n"
    dialogue = sniffer()
    answer = b"".join(dialogue.receive(request[at : at + 1]) for at in range(len(request)))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert dialogue.kind is Kind.HTTP


def test_the_http2_preface_is_recognised_byte_by_byte() -> None:
    dialogue = sniffer()
    answers = [dialogue.receive(PREFACE[at : at + 1]) for at in range(len(PREFACE))]
    assert answers[:-1] == [b""] * (len(PREFACE) - 1)
    assert answers[-1] == frame(SETTINGS, 0, 0)


def test_a_client_hello_without_a_certificate_gets_an_alert_and_is_reported() -> None:
    reports: list[None] = []
    dialogue = Sniffer(
        lambda: ASLEEP, certificate=None, on_missing_certificate=lambda: reports.append(None)
    )
    assert dialogue.receive(b"\x16\x03\x01\x02\x00\x01") == ALERT_INTERNAL_ERROR
    assert (dialogue.progress, dialogue.kind) == (Progress.FAILED, Kind.HTTPS)
    assert dialogue.receive(b"more") == b""
    assert reports == [None]


@pytest.mark.parametrize("data", [b"\0", b"ssh-2.0", b"\r\n", b"\x80\x2e\x01"])
def test_anything_else_is_hung_up_on(data: bytes) -> None:
    dialogue = sniffer()
    assert dialogue.receive(data) == b""
    assert (dialogue.progress, dialogue.kind) == (Progress.FAILED, Kind.UNKNOWN)


def test_silence_stays_open() -> None:
    dialogue = sniffer()
    assert dialogue.receive(b"") == b""
    assert (dialogue.progress, dialogue.kind) == (Progress.LISTENING, None)
    assert dialogue.application_is_back() == b""


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([PREFACE, HTTP])), max_size=20))
def test_garbage_raises_nothing(pieces: list[bytes]) -> None:
    dialogue = sniffer()
    for piece in pieces:
        dialogue.receive(piece)
    dialogue.application_is_back()
    assert dialogue.progress is not Progress.WAITING
