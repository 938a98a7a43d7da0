from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.shim.standin.dialogue import INPUT_LIMIT_BYTES, Health, Kind, Progress
from architect.shim.standin.http1 import REASON_LIMIT_BYTES, Http1

ASLEEP = Health(healthy=True, reason="asleep")
BROKEN = Health(healthy=False, reason="the restore failed")
PROBE = b"GET /healthz HTTP/1.1\r\nHost: 10.0.0.7:8080\r\nUser-Agent: kube-probe/1.36\r\n\r\n"
HOOK = b"GET /drain?now=1 HTTP/1.1\r\nHost: x\r\nuser-agent: kube-lifecycle/1.36\r\n\r\n"


def test_a_healthy_application_gets_200_with_a_body_of_the_announced_length() -> None:
    http = Http1(lambda: ASLEEP)
    head, body = http.receive(PROBE).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close" in head
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert body == b"asleep\n"
    assert (http.progress, http.kind) == (Progress.ANSWERED, Kind.HTTP)


def test_an_unhealthy_application_gets_503() -> None:
    assert Http1(lambda: BROKEN).receive(PROBE).startswith(b"HTTP/1.1 503 ")


def test_health_counts_at_the_moment_of_answering() -> None:
    now = [ASLEEP]
    http = Http1(lambda: now[0])
    assert http.receive(PROBE[:-1]) == b""
    now[0] = BROKEN
    assert http.receive(PROBE[-1:]).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("method", [b"GET", b"POST", b"OPTIONS", b"M-SEARCH", b"PROPFIND"])
def test_every_method_and_path_is_answered(method: bytes) -> None:
    assert b" 200 OK" in Http1(lambda: ASLEEP).receive(method + b" /any?x=%20 HTTP/1.0\r\n\r\n")


def test_head_gets_no_body() -> None:
    assert Http1(lambda: ASLEEP).receive(b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


def test_a_long_reason_is_cut() -> None:
    health = Health(healthy=False, reason="x" * 100_000)
    answer = Http1(lambda: health).receive(PROBE)
    assert len(answer) < REASON_LIMIT_BYTES + 300


def test_the_answer_comes_once_and_the_rest_is_ignored() -> None:
    http = Http1(lambda: ASLEEP)
    assert http.receive(PROBE + b"body")
    assert http.receive(PROBE) == b""


@pytest.mark.parametrize("head", [b"GET\r\n\r\n", b"GET / HTTP/3\r\n\r\n", b"\xff /\r\n\r\n"])
def test_what_is_no_request_is_refused(head: bytes) -> None:
    http = Http1(lambda: ASLEEP)
    assert http.receive(head).startswith(b"HTTP/1.1 400 ")
    assert (http.progress, http.kind) == (Progress.FAILED, Kind.UNKNOWN)


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_head_beyond_the_limit_is_refused_and_forgotten(end: bytes) -> None:
    http = Http1(lambda: ASLEEP)
    answer = http.receive(b"GET / HTTP/1.1\r\nX: " + b"x" * INPUT_LIMIT_BYTES + end)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert http.progress is Progress.FAILED
    assert http.receive(b"x" * INPUT_LIMIT_BYTES) == b""


def test_a_lifecycle_hook_waits_and_is_sent_to_the_application() -> None:
    http = Http1(lambda: ASLEEP)
    assert http.receive(HOOK) == b""
    assert (http.progress, http.kind) == (Progress.WAITING, Kind.HOOK)
    answer = http.application_is_back()
    assert answer.startswith(b"HTTP/1.1 307 ")
    assert b"\r\nLocation: /drain?now=1\r\n" in answer
    assert http.progress is Progress.ANSWERED
    assert http.application_is_back() == b""


def test_a_lifecycle_hook_of_an_application_that_cannot_come_back_is_hung_up_on() -> None:
    http = Http1(lambda: BROKEN)
    assert http.receive(HOOK) == b""
    assert (http.progress, http.kind) == (Progress.FAILED, Kind.HOOK)


def test_a_probe_does_not_wait_for_the_application() -> None:
    http = Http1(lambda: ASLEEP)
    http.receive(PROBE[:20])
    assert http.application_is_back() == b""


@given(st.lists(st.binary(max_size=80), max_size=40))
def test_garbage_raises_nothing_and_keeps_little(pieces: list[bytes]) -> None:
    http = Http1(lambda: ASLEEP)
    assert sum(len(http.receive(piece)) for piece in pieces) < 1024


@given(st.integers(min_value=1, max_value=len(PROBE)), st.sampled_from([PROBE, HOOK]))
def test_how_a_request_is_cut_into_pieces_does_not_matter(size: int, request_bytes: bytes) -> None:
    whole, cut = Http1(lambda: ASLEEP), Http1(lambda: ASLEEP)
    answer = b"".join(
        cut.receive(request_bytes[at : at + size]) for at in range(0, len(request_bytes), size)
    )
    assert (answer, cut.kind) == (whole.receive(request_bytes), whole.kind)
