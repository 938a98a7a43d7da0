"""Somebody without credentials, who says to a port what nobody asked for.

    python3 stranger.py say plain|tls HOST PORT
    python3 stranger.py drip plain|tls HOST PORT
    python3 stranger.py crowd HOST PORT COUNT

``say`` sends its standard input and prints what it heard, as one line of JSON::

    {"heard": text, "has_ended": whether the other side has ended the connection}

It returns with the end of the connection, or of one HTTP answer. ``drip`` sends a byte more every
half a second and returns at the end of the connection only. ``crowd`` makes COUNT connections, of
which a third each says nothing, nothing after its TLS handshake, and half a request; it answers
each line of its standard input with ``{"open": how many are left}``, and ends with it.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import sys
import time

SECONDS = 120.0
"""For whatever the other side takes its time for."""
DRIP_SECONDS = 0.5
HALF = b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"


def connect(kind: str, host: str, port: int) -> socket.socket:
    plain = socket.create_connection((host, port), timeout=SECONDS)
    if kind == "plain":
        return plain
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


def is_whole(heard: bytes) -> bool:
    """Whether *heard* is an HTTP answer with all of its body."""
    head, _, body = heard.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return length is not None and len(body) >= int(length[1])


def say(stream: socket.socket, words: bytes, *, drips: bool) -> dict[str, object]:
    heard, has_ended, until = b"", False, time.monotonic() + SECONDS
    try:
        stream.sendall(words)
        stream.settimeout(DRIP_SECONDS if drips else SECONDS)
        while not has_ended and (drips or not is_whole(heard)) and time.monotonic() < until:
            try:
                data = stream.recv(65536)
            except TimeoutError:
                if drips:
                    stream.sendall(b"y")
                continue
            heard, has_ended = heard + data, not data
    except TimeoutError:
        pass  # the other side neither reads, nor answers, nor ends it
    except OSError:  # a reset, a broken pipe, or the TLS layer's word for either
        has_ended = True
    return {"heard": heard.decode("latin-1"), "has_ended": has_ended}


def has_ended(stream: socket.socket) -> bool:
    stream.setblocking(False)
    try:
        return stream.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def crowd(host: str, port: int, count: int) -> None:
    made: list[socket.socket] = []
    for number in range(count):
        # Whoever was made to leave while it shook hands has left.
        with contextlib.suppress(OSError):
            stream = connect("plain" if number % 3 == 0 else "tls", host, port)
            made.append(stream)
            if number % 3 == 2:
                stream.sendall(HALF)
    for _ in sys.stdin:
        made = [stream for stream in made if not has_ended(stream)]
        print(json.dumps({"open": len(made)}), flush=True)


verb, *words = sys.argv[1:]
if verb == "crowd":
    crowd(words[0], int(words[1]), int(words[2]))
else:
    said = sys.stdin.buffer.read()
    with connect(words[0], words[1], int(words[2])) as opened:
        print(json.dumps(say(opened, said, drips=verb == "drip")))
