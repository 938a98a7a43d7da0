"""The first process of a machine: reaps, and runs the machine's services.

Run as a program of its own by the machine's Python, with the path of its control socket. The
protocol is one JSON object per line in, one out, one request per connection:

``{"op": "start", "name", "argv", "env", "log"}``, ``{"op": "stop"|"restart", "name"}``,
``{"op": "status"}``, ``{"op": "forget", "name"}``.

A service that ends by itself is started again after a second, as systemd's ``Restart=always``
does. Stopping signals the service's own process only: containerd's shims, which are its children
until they daemonise, stay.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

RESTART_SECONDS = 1.0
"""Pause before a service that ended is started again."""

STOP_SECONDS = 20.0
"""Time between SIGTERM and SIGKILL."""


@dataclass
class Service:
    """One program that should run, and what is known of it."""

    name: str
    argv: list[str]
    env: dict[str, str]
    log: str
    wanted: bool = True
    pid: int | None = None
    status: int | None = None
    starts: int = 0
    due: float = 0.0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def describe(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "status": self.status,
            "starts": self.starts,
            "wanted": self.wanted,
        }


class Supervisor:
    """All services of this machine. Requests come in threads, children end in the main one."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.lock = threading.RLock()

    def run(self) -> None:
        """Reap and restart, for ever."""
        while True:
            signal.sigtimedwait({signal.SIGCHLD}, 0.2 if self._due() else 5.0)
            while self._reap():
                pass
            with self.lock:
                for service in self.services.values():
                    if service.wanted and service.pid is None and time.monotonic() >= service.due:
                        self._spawn(service)

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request; errors are answers too."""
        op = request["op"]
        if op == "status":
            with self.lock:
                return {"services": {name: s.describe() for name, s in self.services.items()}}
        if op == "start":
            return self._start(request)
        with self.lock:
            service = self.services.get(request["name"])
        if service is None:
            return {"error": f"no service {request['name']}"}
        if op in ("stop", "restart", "forget"):
            self._stop(service)
        if op == "restart":
            with self.lock:
                service.wanted = True
                self._spawn(service)
        if op == "forget":
            with self.lock:
                self.services.pop(service.name, None)
        return service.describe()

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            service = self.services.get(request["name"])
            if service is None:
                service = Service(request["name"], request["argv"], {}, request["log"])
                self.services[service.name] = service
            if "argv" in request:
                service.argv, service.log = request["argv"], request["log"]
                service.env = request["env"]
            service.wanted = True
            if service.pid is None:
                self._spawn(service)
            return service.describe()

    def _stop(self, service: Service) -> None:
        with self.lock:
            service.wanted = False
            pid = service.pid
            if pid is not None:
                os.kill(pid, signal.SIGTERM)
        if pid is None:
            return
        for last_resort in (False, True):
            with service.changed:
                if service.changed.wait_for(lambda: service.pid != pid, timeout=STOP_SECONDS):
                    return
            with self.lock:
                if service.pid == pid and not last_resort:
                    os.kill(pid, signal.SIGKILL)

    def _spawn(self, service: Service) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            service.pid = os.posix_spawn(
                service.argv[0],
                service.argv,
                service.env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, service.log, flags, 0o644),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGTERM, signal.SIGINT],
            )
        except OSError as error:
            service.status = 127
            service.due = time.monotonic() + RESTART_SECONDS
            print(f"cannot start {service.name}: {error}", file=sys.stderr, flush=True)
            return
        service.starts += 1

    def _reap(self) -> bool:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return False
        with self.lock:
            for service in self.services.values():
                if service.pid == pid:
                    with service.changed:
                        service.pid = None
                        service.status = os.waitstatus_to_exitcode(status)
                        service.due = time.monotonic() + RESTART_SECONDS
                        service.changed.notify_all()
        return True

    def _due(self) -> bool:
        with self.lock:
            return any(s.wanted and s.pid is None for s in self.services.values())


def serve(supervisor: Supervisor, path: str) -> None:
    """Answer requests on the control socket, one thread each."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        # Bound under another name and renamed: who finds the socket finds it listening.
        server.bind(path + ".new")
        os.chmod(path + ".new", 0o600)
        server.listen(64)
        os.rename(path + ".new", path)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=(supervisor, connection), daemon=True).start()


def answer(supervisor: Supervisor, connection: socket.socket) -> None:
    with connection, connection.makefile("rw") as stream:
        connection.settimeout(120)
        line = stream.readline()
        if not line:
            return
        try:
            reply = supervisor.handle(json.loads(line))
        except (KeyError, ValueError, OSError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        try:
            stream.write(json.dumps(reply) + "\n")
            stream.flush()
        except OSError:
            pass  # who asked has gone


def main() -> None:
    # Blocked in every thread, so that the main one gets it from sigtimedwait.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    # A pid namespace's first process ignores what it does not handle; say so for both.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    supervisor = Supervisor()
    threading.Thread(target=serve, args=(supervisor, sys.argv[1]), daemon=True).start()
    supervisor.run()


if __name__ == "__main__":
    main()
