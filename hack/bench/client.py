"""The client of the wake measures: one process that stays, in the network of another node.

Its start, its interpreter and its imports are paid for before anything is measured. Standard
library only.
"""

from __future__ import annotations

import gc
import socket
import time
from typing import Any

from bench.serving import serve


def get(address: str, port: int, path: str, seconds: float) -> dict[str, Any]:
    """Ask for *path* over a new connection, for *seconds*; return milliseconds since before it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    received = bytearray()
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        started = time.monotonic()
        connection.connect((address, port))
        connected = time.monotonic()
        connection.sendall(request)
        received += connection.recv(65536)
        first = time.monotonic()
        while not is_complete(received) and (data := connection.recv(65536)):
            received += data
        ended = time.monotonic()
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    return {
        "status": head.split(b" ", 2)[1].decode() if head.count(b" ") > 1 else "",
        "body": body.decode(errors="replace"),
        "connected_ms": (connected - started) * 1000,
        "first_byte_ms": (first - started) * 1000,
        "complete_ms": (ended - started) * 1000,
    }


def is_complete(answer: bytes | bytearray) -> bool:
    """Whether *answer* has all the bytes that its header announces."""
    head, end, body = bytes(answer).partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return len(body) >= int(value)
    return False


def main() -> None:
    """Serve until standard input ends."""
    from bench.following import Followers  # which asks as we do

    gc.disable()
    followers = Followers()
    serve(
        {
            "get": get,
            "follow": followers.follow,
            "followed": followers.followed,
            "counted": followers.counted,
            "unfollow": followers.unfollow,
            "ping": dict,
        }
    )


if __name__ == "__main__":
    main()
