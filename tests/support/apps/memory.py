"""A server that holds memory and can prove that it still has it.

    python3 memory.py MEBIBYTES [PORT]

TCP: HTTP/1.1 with keep-alive on PORT (default 8080), IPv4 and IPv6: each answer is a JSON line with
a counter, the process's random identity, its host name and pid. ``/digest`` adds the SHA-256 of all
its memory; ``/say/WORD`` prints WORD; ``/work/SECONDS`` uses the CPU that long, after the answer;
``/exit/N`` exits with status N and ``/eat`` takes memory without end, both after the answer.

With JOURNAL (environment) it appends the counter to that file, which it opens once, for each answer
and before it. With FILL=digits (environment) its memory compresses to half, as text does; else not
at all. UDP on the same port echoes each datagram after the identity. SIGTERM says so, waits for
TERM_SECONDS (environment, default 0), and exits 7.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import socket
import socketserver
import sys
import threading
import time
import uuid

MEBIBYTES = int(sys.argv[1])
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
IDENTITY = uuid.uuid4().hex
JOURNAL = os.environ.get("JOURNAL")
JOURNAL_FD = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if JOURNAL else -1
FILL = os.environ.get("FILL", "random")
MEMORY = bytearray()
for _ in range(MEBIBYTES):
    MEMORY += os.urandom(1 << 19).hex().encode() if FILL == "digits" else os.urandom(1 << 20)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    count = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        with self.lock:
            type(self).count += 1
            count = self.count
            if JOURNAL:
                os.write(JOURNAL_FD, f"{IDENTITY} {count}\n".encode())
        answer: dict[str, object] = {
            "count": count,
            "identity": IDENTITY,
            "host": os.uname().nodename,
            "pid": os.getpid(),
        }
        if self.path == "/digest":
            answer["digest"] = hashlib.sha256(MEMORY).hexdigest()
        _, _, argument = self.path[1:].partition("/")
        if self.path.startswith("/say/"):
            print(argument, flush=True)
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path.startswith("/work/"):
            threading.Thread(target=work, args=(float(argument),), daemon=True).start()
        elif self.path.startswith("/exit/"):
            os._exit(int(argument))
        elif self.path == "/eat":
            eat()

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 512
    daemon_threads = True


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(IDENTITY.encode() + b" " + data, self.client_address)


class EchoServer(socketserver.UDPServer):
    address_family = socket.AF_INET6
    max_packet_size = 65536


def work(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hashlib.sha256(b"work" * 1000).digest()


def eat() -> None:
    eaten = []
    while True:
        eaten.append(os.urandom(1 << 20))


def end(*_: object) -> None:
    print("got TERM", flush=True)
    seconds = float(os.environ.get("TERM_SECONDS", "0"))
    if seconds:
        time.sleep(seconds)
        print(f"used {seconds:g} s of the grace period", flush=True)
    os._exit(7)


signal.signal(signal.SIGTERM, end)
udp = EchoServer(("::", PORT), Echo)
threading.Thread(target=udp.serve_forever, daemon=True).start()
print(f"serving {MEBIBYTES} MiB on port {PORT} as {IDENTITY}", flush=True)
Server(("::", PORT), Handler).serve_forever()
