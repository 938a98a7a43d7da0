"""Applications whose memory changes as those of users do, and who asks them.

Each is started as a container of its own on the real runtime, says ``ready``, and is then asked
over its own network, or works by itself.
"""

from __future__ import annotations

import http.client
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PORT: Final = 7000
ASKED_PER_SECOND: Final = 50.0
SEED: Final = 5
HOT_SHARE: Final = 0.2
"""Of what an application holds: four of five questions are about it."""

_PAGES = """
import mmap, os, random, sys, time
pages = int(sys.argv[1]) << 8
memory = mmap.mmap(-1, pages << 12, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, pages, 256):
    memory[page << 12 : (page + 256) << 12] = os.urandom(1 << 20)
a_minute = pages * float(sys.argv[2]) / 100
print("ready", flush=True)
began, done = time.monotonic(), 0
while True:
    time.sleep(0.05)
    until = int((time.monotonic() - began) / 60 * a_minute)
    for _ in range(done, until):
        page = random.randrange(pages)
        memory[page << 12 : (page << 12) + 64] = os.urandom(64)
    done = until
"""

_CACHE = """
import os, random, sys, time
size, percent = int(sys.argv[1]) << 20, float(sys.argv[2])
values, held = {}, 0
def add(until):
    global held
    while held < until:
        value = os.urandom(random.randint(100, 8000))
        values["key-%d" % len(values)] = value
        held += len(value)
add(size)
print("ready", flush=True)
began = time.monotonic()
while True:
    time.sleep(0.05)
    add(size * (1 + percent / 100 * (time.monotonic() - began) / 60))
"""

_LOG = """
import os, sys, time
size, percent = int(sys.argv[1]) << 20, float(sys.argv[2])
lines, held = [], 0
def add(until):
    global held
    while held < until:
        line = "%020d %s" % (len(lines), os.urandom(100).hex())
        lines.append(line)
        held += len(line)
add(size)
print("ready", flush=True)
began = time.monotonic()
while True:
    time.sleep(0.05)
    add(size * (1 + percent / 100 * (time.monotonic() - began) / 60))
"""

_SERVER = """
import hashlib, http.server, json, mmap, os, socketserver, sys, time
kind, size = sys.argv[1], int(sys.argv[2]) << 20
if kind == "model":
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, 1 << 20):
        memory[at : at + (1 << 20)] = os.urandom(1 << 20)
else:
    sessions = [
        {"id": n, "seen": 0.0, "count": 0, "text": os.urandom(1024).hex()}
        for n in range(size // 2500)
    ]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        share = float(self.path[1:])
        if kind == "model":
            at = int(share * (size - (1 << 20)))
            answer = {"digest": hashlib.sha256(memory[at : at + (1 << 20)]).hexdigest()}
        else:
            session = sessions[int(share * len(sessions))]
            session["seen"], session["count"] = time.time(), session["count"] + 1
            answer = session
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
server = Server(("0.0.0.0", 7000), Handler)
print("ready", flush=True)
server.serve_forever()
"""

_NODE = """
const sessions = [];
const random = require("crypto").randomBytes;
for (let n = 0; n < Number(process.argv[1]) * 1024 * 1024 / 2200; n++)
  sessions.push({id: n, seen: 0, count: 0, text: random(1024).toString("hex")});
require("http").createServer((request, response) => {
  const session = sessions[Math.floor(Number(request.url.slice(1)) * sessions.length)];
  session.seen = Date.now() / 1000;
  session.count += 1;
  response.end(JSON.stringify(session));
}).listen(7000, "0.0.0.0", () => console.log("ready"));
"""


def _python(code: str, *words: object) -> tuple[str, ...]:
    return ("/usr/bin/python3", "-Suc", code, *map(str, words))


Ask = Callable[[socket.socket], None]
"""One question and its answer on a connection that stays."""


@dataclass(frozen=True, kw_only=True)
class App:
    """One application."""

    name: str
    text: str
    """As the table says it."""
    argv: tuple[str, ...]
    ready: str = "ready"
    env: tuple[str, ...] = ()
    fill: Callable[[socket.socket], None] | None = None
    """Has it hold what it shall, once it is ready."""
    ask: Callable[[socket.socket], Ask] | None = None
    """What makes the questions on a connection; None: it works by itself."""


def _http(connection: socket.socket) -> Ask:
    client = http.client.HTTPConnection("pod", PORT)
    client.sock = connection
    drawn = random.Random(SEED)

    def ask(_: socket.socket) -> None:
        client.request("GET", f"/{_place(drawn):.6f}")
        answer = client.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"HTTP status {answer.status}")

    return ask


def _place(drawn: random.Random) -> float:
    """Return which part of all that it holds is asked for, from 0 to less than 1."""
    return drawn.random() * (HOT_SHARE if drawn.random() < 0.8 else 1.0) * 0.999999


REDIS_KEYS: Final = 400_000
REDIS_BYTES: Final = 1000
REDIS_WRITES: Final = 0.1
"""Of the questions; the others read."""


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def _fill_redis(connection: socket.socket) -> None:
    batch = 1000
    answers = connection.makefile("rb")
    for start in range(0, REDIS_KEYS, batch):
        connection.sendall(
            b"".join(
                _command(b"SET", b"key:%d" % n, os.urandom(REDIS_BYTES))
                for n in range(start, start + batch)
            )
        )
        for _ in range(batch):
            if answers.readline() != b"+OK\r\n":
                raise OSError("Redis did not take a key")


def _redis(connection: socket.socket) -> Ask:
    drawn, answers = random.Random(SEED), connection.makefile("rb")

    def ask(to: socket.socket) -> None:
        key = b"key:%d" % int(_place(drawn) * REDIS_KEYS)
        if drawn.random() < REDIS_WRITES:
            to.sendall(_command(b"SET", key, os.urandom(REDIS_BYTES)))
            answers.readline()
            return
        to.sendall(_command(b"GET", key))
        answers.read(int(answers.readline()[1:]) + 2)

    return ask


REDIS: Final = (
    *("redis-server", "--port", str(PORT), "--bind", "0.0.0.0", "--protected-mode", "no"),
    *("--save", "", "--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"),
)

APPS: Final = (
    App(name="idle", text="512 MiB, idle", argv=_python(_PAGES, 512, 0)),
    App(
        name="model",
        text="Python server, 1 GiB that it only reads, 50 requests/s",
        argv=_python(_SERVER, "model", 1024),
        ask=_http,
    ),
    App(
        name="pages1",
        text="1 GiB, 1 % of its pages written a minute, at random",
        argv=_python(_PAGES, 1024, 1),
    ),
    App(name="pages10", text="1 GiB, 10 % of its pages written", argv=_python(_PAGES, 1024, 10)),
    App(
        name="cache",
        text="Python, a cache of 256 MiB that grows by 10 % a minute",
        argv=_python(_CACHE, 256, 10),
    ),
    App(
        name="log",
        text="Python, a log of 256 MiB that grows by 10 % a minute",
        argv=_python(_LOG, 256, 10),
    ),
    App(
        name="web",
        text="Python server, 256 MiB of sessions, 50 requests/s",
        argv=_python(_SERVER, "sessions", 256),
        ask=_http,
    ),
    App(
        name="node",
        text="Node.js server, 256 MiB of sessions, 50 requests/s",
        argv=("node", "--max-old-space-size=1024", "-e", _NODE, "256"),
        env=("UV_USE_IO_URING=0",),
        ask=_http,
    ),
    App(
        name="redis",
        text="Redis, 400 000 keys of 1 KB, 50 requests/s, one of ten writes",
        argv=REDIS,
        ready="Ready to accept connections",
        fill=_fill_redis,
        ask=_redis,
    ),
)


class Asking(threading.Thread):
    """Asks at an even rate until it is told to stop, and knows the longest that it waited."""

    def __init__(self, connection: socket.socket, ask: Ask) -> None:
        super().__init__(name="asking", daemon=True)
        self._connection = connection
        self._ask = ask
        self._over = threading.Event()
        self.asked = 0
        self.longest_seconds = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._over.wait(1 / ASKED_PER_SECOND):
                began = time.monotonic()
                self._ask(self._connection)
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                self.asked += 1
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.error = error

    def end(self) -> None:
        """Stop. Raises what ended it before."""
        self._over.set()
        self.join()
        if self.error is not None:
            raise self.error
