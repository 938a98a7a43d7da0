"""One request: what it does not do, and what does not hold it up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architect.core.errors import ArchitectError, FormatError, Rejected, Unavailable
from architect.daemon.notices import metadata
from architect.daemon.notices.clock import Clock
from architect.daemon.notices.metadata import MAX_BODY_BYTES, Absent, Silent
from support.cloudmetadata.gcp import Gce
from support.cloudmetadata.server import Reply
from support.patience import patient
from unit.daemon.notices.conftest import service

ID = "/computeMetadata/v1/instance/id"
HEADERS = {"Metadata-Flavor": "Google"}


@contextlib.contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept one connection after the other and have *serve* do what it will."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = listener.accept()
                    with link, contextlib.suppress(OSError):
                        serve(link)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(patient(20.0))


def test_an_answer_has_status_headers_and_body(gce: Gce) -> None:
    found = service(gce.url).ask(ID, headers=HEADERS)
    assert (found.status, found.text()) == (200, "4520031799277581759")
    assert found.headers["metadata-flavor"] == "Google"
    assert gce.requests[0].headers["host"] == gce.url.removeprefix("http://")


def test_ipv6_is_spoken(gce: Gce) -> None:
    with Gce("::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert service(server.url).ask(ID, headers=HEADERS).is_success
        assert server.requests[0].headers["host"].startswith("[::1]:")


def test_proxies_of_the_environment_are_nobody(gce: Gce, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert service(gce.url).ask(ID, headers=HEADERS).is_success


def test_a_redirect_is_not_followed(gce: Gce) -> None:
    gce.replies[ID] = Reply(status=302, headers={"Location": f"{gce.url}/elsewhere"})
    found = service(gce.url).ask(ID, headers=HEADERS)
    assert not found.is_success
    problem = found.problem
    assert isinstance(problem, Rejected)
    assert problem.reason == metadata.REDIRECTED
    assert gce.asked("GET", "/elsewhere") == 0


def test_nobody_there_is_absent() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # so that nobody else listens there, either
        with pytest.raises(Absent):
            service(f"http://127.0.0.1:{nobody.getsockname()[1]}").ask(ID)
    with pytest.raises(Absent):
        service("http://nobody.invalid").ask(ID)


def test_no_answer_is_silence_after_the_deadline(gce: Gce) -> None:
    gce.silent.add(f"GET {ID}")
    with pytest.raises(Silent, match=r"has not answered after 0\.2 s"):
        service(gce.url).ask(ID, headers=HEADERS, seconds=0.2)


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_byte_now_and_then_does_not_move_the_deadline(gce: Gce, part: str) -> None:
    gce.replies[ID] = Reply(
        body=b"x" * 5000, headers={"X": "y" * 3000} if part == "headers" else {}
    )
    gce.seconds_per_byte = 0.05
    began = time.monotonic()
    with pytest.raises(Silent):
        service(gce.url).ask(ID, headers=HEADERS, seconds=0.5)
    # All of it would take four minutes.
    assert time.monotonic() - began < patient(20.0)


def test_an_endless_answer_is_read_to_its_bound_only(gce: Gce) -> None:
    gce.replies[ID] = Reply(body=b"x" * (MAX_BODY_BYTES + 1))
    with pytest.raises(FormatError, match="more than 65536 bytes"):
        service(gce.url).ask(ID, headers=HEADERS)
    gce.replies[ID] = Reply(body=b"x" * MAX_BODY_BYTES)
    assert len(service(gce.url).ask(ID, headers=HEADERS).body) == MAX_BODY_BYTES

    def pour(link: socket.socket) -> None:
        link.recv(4096)
        link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            link.sendall(b"x" * 65536)

    with raw_server(pour) as url, pytest.raises(FormatError, match="more than"):
        service(url).ask(ID)


def test_endless_headers_are_no_http() -> None:
    def pour(link: socket.socket) -> None:
        link.recv(4096)
        link.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            link.sendall(b"X-Header: y\r\n" * 100)

    with raw_server(pour) as url, pytest.raises(FormatError, match="does not speak HTTP"):
        service(url).ask(ID)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_an_answer_that_is_cut_off_is_none(data: bytes) -> None:
    def serve(link: socket.socket) -> None:
        link.recv(4096)
        link.sendall(data)

    with raw_server(serve) as url, pytest.raises(Unavailable):
        service(url).ask(ID)


@settings(max_examples=60)
@given(st.binary(max_size=200), st.booleans())
def test_whatever_is_sent_is_an_answer_or_an_error_of_ours(data: bytes, has_line: bool) -> None:
    sent = b"HTTP/1.1 200 OK\r\n" + data if has_line else data

    def serve(link: socket.socket) -> None:
        link.recv(4096)
        link.sendall(sent)

    with raw_server(serve) as url, contextlib.suppress(ArchitectError):
        found = service(url).ask(ID)
        with contextlib.suppress(ArchitectError):
            found.json()


def test_a_request_that_waits_is_ended_from_another_thread(gce: Gce) -> None:
    gce.silent.add(f"GET {ID}")
    asked = service(gce.url)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            asked.ask(ID, headers=HEADERS, seconds=3600)
        except ArchitectError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    deadline = time.monotonic() + patient(60.0)
    while not gce.asked("GET", ID):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    asked.close()
    thread.join(patient(20.0))
    assert not thread.is_alive()
    assert isinstance(raised[0], Unavailable)
    with pytest.raises(Unavailable, match="not asked any more"):
        asked.ask(ID)


def test_the_services_clock_is_learned_from_prompt_answers_only(
    gce: Gce, monkeypatch: pytest.MonkeyPatch
) -> None:
    gce.clock_ahead_seconds = 7200
    clock = Clock()
    monkeypatch.setattr(metadata, "PROMPT_SECONDS", -1.0)
    service(gce.url, clock).ask(ID, headers=HEADERS)
    assert clock.skew_seconds == 0.0, "an answer that was held back tells nothing"
    monkeypatch.setattr(metadata, "PROMPT_SECONDS", patient(20.0))
    service(gce.url, clock).ask(ID, headers=HEADERS)
    assert -7200 - 2 <= clock.skew_seconds <= -7200 + patient(20.0)
