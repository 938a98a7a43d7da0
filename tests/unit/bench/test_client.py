"""The client that stamps the first byte, against a server of its own on loopback."""

from __future__ import annotations

import socket
import threading

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


def test_the_first_byte_is_stamped_before_the_rest_is_sent() -> None:
    may_go_on = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(HEAD)
            may_go_on.wait(30)
            connection.sendall(b"hello")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        timer = threading.Timer(0.05, may_go_on.set)
        timer.start()
        answer = client.get("127.0.0.1", listener.getsockname()[1], "/", 30)
        thread.join()
        timer.join()
    assert answer["status"] == "200"
    assert answer["body"] == "hello"
    assert 0 < answer["connected_ms"] <= answer["first_byte_ms"]
    assert answer["complete_ms"] - answer["first_byte_ms"] > 10
