"""Requests to the keeper: each gets exactly one answer, whatever it says.

The keeper's own server and operations, on a socket, with a pod that has no container: what a
request names is looked up and judged, and nothing of the machine is touched.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from architect.api import names
from architect.api.policy import Policy
from architect.core import wire
from architect.core.errors import NodeError
from architect.shim import record_files
from architect.shim.gvisor import records as gvisor_records
from architect.shim.keeper import criu
from architect.shim.keeper.control import Server
from architect.shim.keeper.loop import Loop, Task
from architect.shim.keeper.moving import MovingPod
from architect.shim.keeper.network import NodeNetwork, PodNetwork
from architect.shim.keeper.programs import Ended, Programs
from architect.shim.keeper.service import Service
from fuzz import mutations, scratch

MUTATE = mutations.document


def seeds() -> Iterator[bytes]:
    for op, arguments in {
        **{key: {} for key in ("version", "list", "memory", "subscribe")},
        **{key: {"container": "c1"} for key in ("register", "removed", "awake", "ensure", "adopt")},
        **{key: {"pod": "uid"} for key in ("status", "why", "go_on")},
        "observe": {"pods": ["uid"]},
        "note": {"pod": "uid", "why": ["it is busy"]},
        "ready": {"pod": "uid", "containers": {"app": True}},
        "sleep": {"pod": "shop/web-0", "reason": "idle", "patience_seconds": 0.0, "force": True},
        "wake": {"pod": "uid", "reason": "asked"},
        "capture": {"pod": "uid", "patience_seconds": 10**400, "ends_with": [["/bin/end", "now"]]},
        "copy": {"pod": "uid", "reason": "asked", "patience_seconds": 0.5},
        "depart": {"pod": "uid", "reason": "asked"},
        "refuse": {"container": "c1", "reason": "Late", "message": "m", "is_dirty": False},
        "settle": {"pod": "uid", "container": "c2"},
        "kill": {"container": "c1", "signal": 15},
        "exec": {"container": "c1", "argv": ["cat", "/ready"]},
        "check": {"pod": "uid"},
    }.items():
        yield json.dumps({"v": 1, "op": op, "id": 7, **cast(dict[str, Any], arguments)}).encode()


def run(data: bytes) -> None:
    if len(data) > wire.MAX_FRAME_BYTES:
        return
    node = _node()
    decoder = wire.Decoder()
    answers: list[dict[str, Any]] = []
    with node.connected() as client:
        client.sendall(len(data).to_bytes(4, "big") + data)
        for _ in range(100):
            node.loop.run_once(at_most_seconds=0.01)
            answers += _received(client, decoder)
            if answers:
                break
    (answer,) = answers
    assert isinstance(answer.get("ok"), bool), answer
    if not answer["ok"]:
        error = answer["error"]
        assert error["reason"] != "Defect", error
        assert error["code"] in ("rejected", "failed"), error
        assert all(isinstance(text, str) for text in error.values()), error


def _received(client: socket.socket, decoder: wire.Decoder) -> list[dict[str, Any]]:
    try:
        return list(decoder.feed(client.recv(1 << 20)))
    except BlockingIOError:
        return []


class _Network:
    """A pod's network of which nothing is there."""

    held_packets = 0

    @staticmethod
    def observe(_: object) -> dict[str, Any]:
        return {}

    def busy(self, **_: bool) -> str:
        return "a conversation that does not end"

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _Programs:
    """Programs of a bundle that is not installed."""

    def run(self, argv: list[str], *, reason: str, **_: object) -> Task[Ended]:
        yield from ()
        raise NodeError(f"{argv[0]} is not there", reason=reason)


class _Node:
    """A keeper without a machine, whose files are in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = Loop()
        network = SimpleNamespace(pod=lambda uid: _Network())
        self.service = Service(
            loop=self.loop,
            server=cast(criu.Server, None),
            network=cast(NodeNetwork, network),
            programs=cast(Programs, _Programs()),
            version="fuzzed",
        )
        self.path = directory / "keeper.sock"
        self.server = Server(self.loop, self.path, self.service)

    def pod(self) -> MovingPod:
        return MovingPod(
            uid="uid",
            namespace="shop",
            name="web-0",
            policy=Policy(),
            loop=self.loop,
            server=cast(criu.Server, None),
            network=cast(PodNetwork, _Network()),
            emit=self.service._emit,
        )

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """Yield a connection on which nothing was said, to a keeper with one pod."""
        patches = {
            (names, "STATE"): "state",
            (names, "PODS"): "state/pods",
            (names, "ARRIVALS"): "state/arrivals",
            (names, "CONTAINER_RECORDS"): "containers",
            (record_files, "UNMANAGED"): "unmanaged",
            (gvisor_records, "DIRECTORY"): "gvisor",
        }
        self.service.pods._pods = {"uid": self.pod()}
        with contextlib.ExitStack() as stack:
            for (module, name), below in patches.items():
                stack.enter_context(mock.patch.object(module, name, self.directory / below))
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(self.path))
            client.setblocking(False)
            yield client
        self.loop.run_once(at_most_seconds=0)


@functools.cache
def _node() -> _Node:
    return _Node(scratch.directory("control"))
