"""The web application: 64 MiB of random memory, woken by HTTP, exec and UDP."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from typing import Any, Final

from demo import network
from demo.errors import DemoError
from demo.pods import Application
from demo.story import State, Story, Wake
from lab import errors as lab_errors
from lab import waiting

PORT: Final = 8080
NODE_PORT_SECONDS: Final = 180.0
ASK_INSIDE: Final = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/state').read().decode())"
)


class Connection(http.client.HTTPConnection):
    """HTTP over a socket that *connect* makes, wherever that is."""

    def __init__(self, open_socket: Callable[[], socket.socket]) -> None:
        super().__init__("counter")
        self._open = open_socket

    def connect(self) -> None:
        """Make the socket."""
        self.sock = self._open()

    def ask(self, path: str) -> dict[str, Any]:
        """Return what the application answers at *path*. Raises OSError, HTTPException."""
        self.request("GET", path)
        answer = self.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise DemoError(f"counter: {path}: status {answer.status}: {body[:200]!r}")
        return dict(json.loads(body))


def story(app: Application) -> Story:
    """Return the story of the running application."""
    inside = app.cluster.plane.machine.network
    spec = app.service()
    cluster_ip = spec["clusterIP"]
    node_port = next(int(p["nodePort"]) for p in spec["ports"] if p["name"] == "http")

    def through_service() -> socket.socket:
        return network.tcp(inside, cluster_ip, PORT)

    kept = Connection(through_service)
    wait_for_node_port(node_port)

    def observe() -> State:
        connection = Connection(through_service)
        try:
            return connection.ask("/state")
        finally:
            connection.close()

    def visit(open_socket: Callable[[], socket.socket]) -> State:
        connection = Connection(open_socket)
        try:
            return connection.ask("/")
        finally:
            connection.close()

    def execute() -> State:
        pod = app.pod()["metadata"]["name"]
        return dict(json.loads(app.kubectl("exec", pod, "--", "python3", "-c", ASK_INSIDE)))

    def datagram() -> State:
        with network.udp(inside, cluster_ip, PORT) as sender:
            sender.send(b"wake up")
            answer = sender.recv(4096).decode()
        identity, _, echoed = answer.partition(" ")
        if echoed != "wake up":
            raise DemoError(f"counter: one datagram was sent, the answer is {answer!r}")
        return {"identity": identity}

    kept.ask("/healthz")
    return Story(
        application=app,
        subject="web application, 64 MiB",
        observe=observe,
        close=kept.close,
        wakes=(
            Wake(
                title="HTTP request through the Service's ClusterIP",
                act=lambda: visit(through_service),
                changes=one_more_visit,
            ),
            Wake(
                title="HTTP request to the NodePort on 127.0.0.1",
                act=lambda: visit(lambda: network.tcp(None, "127.0.0.1", node_port)),
                changes=one_more_visit,
            ),
            Wake(title="kubectl exec", act=execute),
            Wake(title="one UDP datagram to the Service", act=datagram),
            Wake(
                title="HTTP request on a connection that was open all the time",
                act=lambda: kept.ask("/"),
                changes=one_more_visit,
            ),
        ),
    )


def one_more_visit(before: State) -> State:
    """Return what a request to ``/`` changes."""
    return {"visits": int(str(before["visits"])) + 1}


def wait_for_node_port(port: int) -> None:
    """Return once the application answers on the host's loopback."""

    def answers() -> bool:
        connection = Connection(lambda: network.tcp(None, "127.0.0.1", port))
        try:
            return bool(connection.ask("/healthz"))
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    try:
        waiting.until(
            answers, what=f"NodePort {port} on 127.0.0.1", timeout_seconds=NODE_PORT_SECONDS
        )
    except lab_errors.DeadlineExceeded as error:
        raise DemoError(str(error)) from error
