"""A server on its pod's own addresses alone, which tells what it finds of its pod.

    POD_IPS=10.0.0.2,fd00::2 python3 bound.py

HTTP/1.1 with keep-alive on port 8080 of each address: each answer is a JSON line with a counter,
the process's random identity, the address that its listener is bound to, its host name, the text of
each file of FILES, and what is mounted there. It watches its ConfigMap, a file of it, which it has
open, too (it tells its name and text), and its token.
"""

from __future__ import annotations

import ctypes
import http.server
import json
import os
import socket
import threading
import uuid

PORT = 8080
IDENTITY = uuid.uuid4().hex
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"
FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/app/told", TOKEN)
WATCHED = ("/app", "/app/bound.py", TOKEN)
IN_MODIFY, IN_CREATE = 0x2, 0x100  # <sys/inotify.h>


def text(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def mounts() -> dict[str, str]:
    """Return mount point → what of its file system is mounted there."""
    lines = [line.split() for line in (text("/proc/self/mountinfo") or "").splitlines()]
    return {where: root for _, _, _, root, where, *_ in lines}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    count = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        with self.lock:
            type(self).count += 1
            count = self.count
        answer = {
            "count": count,
            "identity": IDENTITY,
            "bound": self.server.socket.getsockname()[0],
            "host": os.uname().nodename,
            "open": os.readlink(f"/proc/self/fd/{itself.fileno()}"),
            "text": os.pread(itself.fileno(), 1 << 20, 0).decode(),
            "files": {path: text(path) for path in FILES},
            "mounts": mounts(),
        }
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


class Server6(Server):
    address_family = socket.AF_INET6


libc = ctypes.CDLL(None, use_errno=True)
watching = libc.inotify_init1(os.O_CLOEXEC)
for watched in WATCHED:
    assert libc.inotify_add_watch(watching, watched.encode(), IN_MODIFY | IN_CREATE) > 0
itself = open("/app/bound.py")  # noqa: SIM115 - as long as this runs
for address in os.environ["POD_IPS"].split(","):
    made = (Server6 if ":" in address else Server)((address, PORT), Handler)
    print(f"listening on {address}", flush=True)
    threading.Thread(target=made.serve_forever).start()
