"""The client that stamps the first byte, against a server of its own on loopback."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace

import pytest

from bench import client

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", False),
        (HEAD[:-2], False),
        (HEAD, False),
        (HEAD + b"hell", False),
        (HEAD + b"hello", True),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", False),
    ],
)
def test_an_answer_is_complete_when_all_announced_bytes_are_there(
    answer: bytes, expected: bool
) -> None:
    assert client.is_complete(answer) is expected


def test_the_first_byte_is_stamped_before_the_rest_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_go_on = threading.Event()
    stamped: list[float] = []

    def monotonic() -> float:
        stamped.append(time.monotonic())
        if len(stamped) == 3:  # before it, connected, the first byte
            may_go_on.set()
        return stamped[-1]

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(HEAD)
            assert may_go_on.wait(60)
            time.sleep(0.02)
            connection.sendall(b"hello")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=monotonic))
        answer = client.get("127.0.0.1", listener.getsockname()[1], "/", 60)
        thread.join()
    assert answer["status"] == "200"
    assert answer["body"] == "hello"
    assert 0 < answer["connected_ms"] <= answer["first_byte_ms"]
    assert answer["complete_ms"] - answer["first_byte_ms"] > 10
