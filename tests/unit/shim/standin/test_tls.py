from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architect.shim.standin.dialogue import Health, Kind, Progress
from architect.shim.standin.sniff import Sniffer
from architect.shim.standin.tls import HANDSHAKE_LIMIT_BYTES, Certificate
from support import selfsigned

ASLEEP = Health(healthy=True, reason="asleep")


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return selfsigned.write(tmp_path_factory.mktemp("standin") / "standin.pem")


class Client:
    """A TLS client whose wire is the dialogue itself, cut into pieces of a given size."""

    def __init__(self, dialogue: Sniffer, *, alpn: list[str], piece_bytes: int = 1 << 16) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(alpn)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.dialogue = dialogue
        self.piece_bytes = piece_bytes

    def turn(self) -> None:
        words = self.outgoing.read()
        for at in range(0, len(words), self.piece_bytes):
            self.incoming.write(self.dialogue.receive(words[at : at + self.piece_bytes]))

    def shake(self) -> None:
        for _ in range(4):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.turn()
            else:
                break
        self.turn()

    def read_all(self) -> bytes:
        found = b""
        while piece := self.tls.read(65536):  # ends with close_notify
            found += piece
        return found


def over_tls(pem: Path, *, health: Health = ASLEEP, **how: Any) -> tuple[Client, Sniffer]:
    dialogue = Sniffer(lambda: health, certificate=Certificate(pem))
    client = Client(dialogue, **{"alpn": ["h2", "http/1.1"], **how})
    client.shake()
    return client, dialogue


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 16])
def test_a_request_inside_tls_is_answered_and_closed_properly(pem: Path, piece_bytes: int) -> None:
    client, dialogue = over_tls(pem, piece_bytes=piece_bytes)
    assert client.tls.selected_alpn_protocol() == "http/1.1"
    client.tls.write(b"GET / HTTP/1.1\r\n\r\n")
    client.turn()
    assert client.read_all().startswith(b"HTTP/1.1 200 ")
    assert (dialogue.progress, dialogue.kind) == (Progress.ANSWERED, Kind.HTTPS)


def test_a_client_that_knows_only_h2_is_not_refused_in_the_handshake(pem: Path) -> None:
    client, _ = over_tls(pem, alpn=["h2"])
    assert client.tls.selected_alpn_protocol() is None


def test_an_unhealthy_application_gets_503_inside_tls(pem: Path) -> None:
    client, _ = over_tls(pem, health=Health(healthy=False, reason="broken"))
    client.tls.write(b"GET / HTTP/1.1\r\n\r\n")
    client.turn()
    assert client.read_all().startswith(b"HTTP/1.1 503 ")


def test_a_lifecycle_hook_inside_tls_is_sent_to_the_application(pem: Path) -> None:
    client, dialogue = over_tls(pem)
    client.tls.write(b"GET /drain HTTP/1.1\r\nUser-Agent: kube-lifecycle/1.36\r\n\r\n")
    client.turn()
    assert (dialogue.progress, dialogue.kind) == (Progress.WAITING, Kind.HOOK)
    client.incoming.write(dialogue.application_is_back())
    assert b"\r\nLocation: /drain\r\n" in client.read_all()


def test_tls_inside_tls_is_refused(pem: Path) -> None:
    client, dialogue = over_tls(pem)
    client.tls.write(b"\x16\x03\x01")
    client.turn()
    assert dialogue.progress is Progress.FAILED


def test_garbage_inside_a_session_ends_it(pem: Path) -> None:
    _, dialogue = over_tls(pem)
    dialogue.receive(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    assert (dialogue.progress, dialogue.kind) == (Progress.FAILED, Kind.UNKNOWN)
    assert dialogue.receive(b"more") == b""


def test_an_endless_handshake_is_ended(pem: Path) -> None:
    dialogue = Sniffer(lambda: ASLEEP, certificate=Certificate(pem))
    # One hello announced as 100,000 bytes, in records of 16 KiB.
    dialogue.receive(b"\x16\x03\x01\x40\x00\x01" + (100_000).to_bytes(3, "big") + b"\x03\x03")
    dialogue.receive(b"x" * (16384 - 6))
    for _ in range(HANDSHAKE_LIMIT_BYTES // 16384):
        dialogue.receive(b"\x16\x03\x01\x40\x00" + b"x" * 16384)
    assert dialogue.progress is Progress.FAILED


def test_a_certificate_is_read_once_and_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "standin.pem"
    certificate = Certificate(selfsigned.write(path))
    first = certificate.context()
    assert first is not None
    assert certificate.context() is first
    os.replace(selfsigned.write(tmp_path / "new.pem"), path)
    assert certificate.context() is not first


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_a_file_that_cannot_be_used_is_named_and_tried_again(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "standin.pem"
    if content is not None:
        path.write_bytes(content)
    certificate = Certificate(path)
    assert certificate.context() is None
    assert certificate.problem is not None
    assert str(path) in certificate.problem
    selfsigned.write(path)
    assert certificate.context() is not None
    assert certificate.problem is None


@settings(max_examples=50)
@given(words=st.lists(st.binary(max_size=60), max_size=10))
def test_garbage_after_a_handshake_byte_raises_nothing(pem: Path, words: list[bytes]) -> None:
    dialogue = Sniffer(lambda: ASLEEP, certificate=Certificate(pem))
    for each in [b"\x16", *words]:
        dialogue.receive(each)


@settings(max_examples=100)
@given(damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8))
def test_a_damaged_session_raises_nothing(pem: Path, damage: list[tuple[int, int]]) -> None:
    dialogue = Sniffer(lambda: ASLEEP, certificate=Certificate(pem))
    client = Client(dialogue, alpn=[])
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.do_handshake()
    hello = bytearray(client.outgoing.read())
    for at, value in damage:
        hello[at % len(hello)] = value
    dialogue.receive(bytes(hello))
    dialogue.receive(bytes(hello))
    dialogue.application_is_back()


def test_tls_is_loaded_by_the_first_https_probe_only() -> None:
    code = "import sys, architect.shim.standin.server; sys.exit('ssl' in sys.modules)"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=240)
