"""An application that talks in every way that a pod can.

    python3 talker.py [DATABASE-ADDRESS PORT]

TCP 8080 (IPv4 and IPv6), one thread a connection, a line each: ``echo TEXT`` answers TEXT,
``take N`` takes N bytes and answers their SHA-256, ``raw`` and ``unraw`` open and close a raw
socket. UDP 8080 answers each datagram with itself. What happens on the connection to the database
and to its resolver sockets is printed.
"""

from __future__ import annotations

import hashlib
import socket
import sys
import threading

raw: list[socket.socket] = []


def say(text: str) -> None:
    print(text, flush=True)


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rwb") as stream:
        try:
            while line := stream.readline():
                verb, _, rest = line.decode().strip().partition(" ")
                if verb == "echo":
                    answer = rest
                elif verb == "take":
                    answer = hashlib.sha256(stream.read(int(rest))).hexdigest()
                elif verb == "raw":
                    raw.append(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
                    answer = "open"
                elif verb == "unraw":
                    raw.pop().close()
                    answer = "closed"
                else:
                    answer = "what?"
                stream.write(answer.encode() + b"\n")
                stream.flush()
            say("a client said goodbye")
        except ConnectionResetError:
            say("a client reset")


def datagrams() -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind(("::", 8080))
    while True:
        data, sender = sock.recvfrom(65536)
        sock.sendto(data, sender)


def database(address: str, port: int) -> None:
    with socket.create_connection((address, port)) as connection:
        say("connected to the database")
        while data := connection.recv(65536):
            say(f"the database said {data.decode()}")
        say("the database said goodbye")


def resolver(address: str, port: int, *, is_connected: bool) -> None:
    """Ask once, then listen."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    kind = "connected" if is_connected else "open"
    if is_connected:
        sock.connect((address, port))
        sock.send(kind.encode())
    else:
        sock.sendto(kind.encode(), (address, port))
    while True:
        data = sock.recv(65536)
        say(f"the {kind} resolver socket heard {data.decode()}")


def main() -> None:
    threading.Thread(target=datagrams, daemon=True).start()
    if len(sys.argv) > 2:
        end = sys.argv[1], int(sys.argv[2])
        threading.Thread(target=database, args=end, daemon=True).start()
        for is_connected in (True, False):
            threading.Thread(
                target=resolver, args=end, kwargs={"is_connected": is_connected}, daemon=True
            ).start()
    server = socket.create_server(
        ("::", 8080), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True
    )
    say("serving")
    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


main()
