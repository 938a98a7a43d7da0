"""What is put to sleep and broken: an application that can prove that it is the same one.

    python3 application.py MEBIBYTES

It runs in a container, by the machine's Python: standard library only. TCP 8080, IPv4 and IPv6, a
line each: ``echo TEXT`` answers TEXT, ``take N`` takes N bytes and answers their SHA-256, ``who``
answers its random identity and the SHA-256 of its memory, ``leave`` has it exit with status 7. UDP
8080 answers each datagram with itself. SIGTERM is told on standard output, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import sys
import threading
import time

IDENTITY = os.urandom(8).hex()
MEMORY = os.urandom(int(sys.argv[1]) << 20)
STATUS = 7


def serve(connection: socket.socket) -> None:
    """Answer until the client leaves. Reads only what is there, as servers with an event loop do:
    a read that waits is what a CRIU that is killed in the middle of a dump breaks."""
    connection.setblocking(False)
    reader = Reader(connection)
    with connection:
        try:
            while line := reader.until_newline():
                verb, _, rest = line.decode().strip().partition(" ")
                answer = rest
                if verb == "take":
                    answer = hashlib.sha256(reader.exactly(int(rest))).hexdigest()
                elif verb == "who":
                    answer = f"{IDENTITY} {hashlib.sha256(MEMORY).hexdigest()}"
                connection.sendall(answer.encode() + b"\n")
                if verb == "leave":
                    os._exit(STATUS)
        except ConnectionResetError:
            print("a client reset", flush=True)


class Reader:
    """What comes on a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data = b""

    def more(self) -> bool:
        select.select([self.connection], [], [])
        data = self.connection.recv(65536)
        self.data += data
        return bool(data)

    def until_newline(self) -> bytes:
        while b"\n" not in self.data:
            if not self.more():
                return b""
        line, _, self.data = self.data.partition(b"\n")
        return line + b"\n"

    def exactly(self, size: int) -> bytes:
        parts, missing = [self.data[:size]], size - len(self.data[:size])
        self.data = self.data[size:]
        while missing > 0:
            select.select([self.connection], [], [])
            data = self.connection.recv(min(65536, missing))
            if not data:
                raise ConnectionResetError
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)


def datagrams() -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("::", 8080))
    while True:
        data, sender = sock.recvfrom(65536)
        sock.sendto(data, sender)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: print("got TERM", flush=True))
    threading.Thread(target=datagrams, daemon=True).start()
    server = socket.create_server(
        ("::", 8080), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
    )
    print("serving", flush=True)
    while True:
        connection, _ = server.accept()
        begin(connection)


def begin(connection: socket.socket) -> None:
    while True:
        try:
            threading.Thread(target=serve, args=(connection,), daemon=True).start()
            return
        except RuntimeError:  # no more threads now
            time.sleep(0.01)


if __name__ == "__main__":
    main()
