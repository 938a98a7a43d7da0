"""Builders of pods and observations, a keeper on a real socket, and an API server in memory."""

from __future__ import annotations

import contextlib
import copy
import datetime
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.api.keeper import PodState
from architect.api.policy import ContainerPolicy, Policy
from architect.core import wire
from architect.core.errors import ArchitectError
from architect.daemon import pods
from architect.daemon.install import Layout
from architect.daemon.observation import ContainerUsage, Observation
from architect.daemon.pods import ManagedPod
from architect.kube import errors
from architect.kube.api import Api, PatchKind
from architect.kube.conditions import timestamp
from architect.kube.connection import Request, Stream
from support.daemons import DAEMON_SET, NODE
from support.patience import patient


class Builders:
    """Pods as the API sends them, and observations."""

    @staticmethod
    def policy(**containers: ContainerPolicy) -> Policy:
        return Policy(containers=containers or {"app": ContainerPolicy(idle_seconds=60.0)})

    @staticmethod
    def pod_json(
        name: str = "web",
        *,
        policy: Policy | None = None,
        containers: list[dict[str, Any]] | None = None,
        annotations: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        status: dict[str, Any] | None = None,
        **metadata: Any,
    ) -> dict[str, Any]:
        policy = policy or Builders.policy()
        containers = containers or [
            {
                "name": n,
                "image": "app:1",
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            }
            for n in policy.containers
        ]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-{name}",
                "resourceVersion": "1",
                "labels": labels or {},
                "annotations": {names.POLICY: policy.to_json(), **(annotations or {})},
                **metadata,
            },
            "spec": {"nodeName": "node1", "containers": containers},
            "status": {
                "phase": "Running",
                "qosClass": "Burstable",
                "conditions": [],
                "containerStatuses": [
                    {"name": c["name"], "ready": True, "state": {"running": {}}} for c in containers
                ],
                **(status or {}),
            },
        }

    @staticmethod
    def pod(name: str = "web", **arguments: Any) -> ManagedPod:
        pod = pods.read(Builders.pod_json(name, **arguments))
        assert pod is not None
        return pod

    @staticmethod
    def observation(
        now: float,
        *,
        uid: str = "uid-web",
        cpu: dict[str, float] | None = None,
        started: float = 0.0,
        age: float | None = None,
        **fields: Any,
    ) -> Observation:
        usage = {
            n: ContainerUsage(
                cpu_seconds=c, memory_bytes=1 << 20, started_unix=started, age_seconds=age
            )
            for n, c in (cpu or {"app": 0.0}).items()
        }
        given = {"state": PodState.AWAKE, "packets": 0, "containers": usage, **fields}
        return Observation(uid=uid, now=now, **given)


@pytest.fixture(scope="session")
def make() -> Builders:
    return Builders()


class FakeKeeper:
    """Speaks the keeper's protocol; pods are plain status dictionaries."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pods: dict[str, dict[str, Any]] = {}
        self.observations: dict[str, dict[str, Any]] = {}
        self.calls: list[dict[str, Any]] = []
        self.memory: dict[str, int] = {}
        self.refusals: dict[str, dict[str, Any]] = {}
        """Operation to the error that it is answered with."""
        self.gates: dict[str, threading.Event] = {}
        """Operation to what it waits for."""
        self.findings: list[dict[str, Any]] = []
        self._subscribers: list[socket.socket] = []
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.start()

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self.path))
        self._socket.listen(16)
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def stop(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.path.unlink(missing_ok=True)
        with self._lock:
            for subscriber in self._subscribers:
                with contextlib.suppress(OSError):
                    subscriber.shutdown(socket.SHUT_RDWR)
                subscriber.close()
            self._subscribers = []

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        decoder = wire.Decoder()
        is_subscriber = False
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                for message in decoder.feed(data):
                    answer = self._answer(message)
                    if message["op"] == "subscribe":
                        is_subscriber = True
                        with self._lock:
                            connection.sendall(wire.encode(answer))
                            self._subscribers.append(connection)
                        continue
                    connection.sendall(wire.encode(answer))
        if not is_subscriber:
            connection.close()

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        op = message["op"]
        with self._lock:
            self.calls.append(message)
        if (gate := self.gates.get(op)) is not None:
            assert gate.wait(patient(60))
        pods = dict(self.pods)  # tests add and remove some meanwhile
        pod = pods.get(message.get("pod", ""))
        if (error := self.refusals.get(op)) is not None:
            if op == "sleep" and error["code"] == "failed" and pod is not None:
                pod["refused"] = error
            return {"ok": False, "error": error}
        if op == "list":
            return {"ok": True, "pods": list(pods.values())}
        if op == "version":
            return {"ok": True, "version": "1"}
        if op == "observe":
            seen = [self._observe(pods[u]) for u in message["pods"] or pods if u in pods]
            return {"ok": True, "observations": seen}
        if op == "memory":
            awake = [u for u, p in pods.items() if p["state"] == "awake"]
            return {"ok": True, "memory": {u: self.memory.get(u, 1 << 20) for u in awake}}
        if op in ("status", "sleep", "wake", "note", "ready") and pod is None:
            error = {"code": "rejected", "reason": "UnknownPod", "message": "no such pod"}
            return {"ok": False, "error": error}
        if op in ("sleep", "wake"):
            assert pod is not None
            pod["state"] = "asleep" if op == "sleep" else "awake"
            pod["image_bytes"] = 1 << 20 if op == "sleep" else 0
            what = "slept" if op == "sleep" else "woke"
            self.emit({"event": what, "pod": pod["pod"], "duration_seconds": 0.1, "reason": "x"})
        if op == "check":
            return {"ok": True, "status": pod, "findings": self.findings}
        if op == "forget":
            self.pods.pop(message["pod"], None)
            return {"ok": True, "freed_bytes": 7}
        return {"ok": True, "status": pod}

    def _observe(self, pod: dict[str, Any]) -> dict[str, Any]:
        base = {
            "pod": pod["pod"],
            "state": pod["state"],
            "now": time.monotonic(),
            "packets": 0,
            "containers": {"app": {"cpu_seconds": 0.0, "memory_bytes": 1 << 20, "started": 1.0}},
        }
        return base | self.observations.get(pod["pod"], {})

    def add(self, uid: str, *, state: str = "awake", **fields: Any) -> None:
        self.pods[uid] = {
            "pod": uid,
            "namespace": "default",
            "name": uid.removeprefix("uid-"),
            "state": state,
            "since": 1_700_000_000.0,
            "image_bytes": 0,
            "refused": None,
            "containers": {"app": {"id": "c1", "init_pid": 42}},
            **fields,
        }

    def emit(self, message: dict[str, Any]) -> None:
        with self._lock:
            for subscriber in self._subscribers:
                with contextlib.suppress(OSError):
                    subscriber.sendall(wire.encode(message))

    def ops(self, op: str) -> list[dict[str, Any]]:
        with self._lock:
            return [c for c in self.calls if c["op"] == op]


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[FakeKeeper]:
    made = FakeKeeper(tmp_path / "keeper.sock")
    yield made
    made.stop()


class _Silence:
    """A watch: what is put into it, until it is closed."""

    def __init__(self, plural: str) -> None:
        self.plural = plural
        self.lines: queue.Queue[bytes | None] = queue.Queue()

    def __iter__(self) -> Iterator[bytes]:
        while (line := self.lines.get()) is not None:
            yield line

    def close(self) -> None:
        self.lines.put(None)


class FakeCluster:
    """A transport to an API server in memory: objects by path, merge and strategic patches."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.failures: list[Callable[[Request], ArchitectError | None]] = []
        self._version = 100
        self._lock = threading.RLock()
        self._watches: list[_Silence] = []
        self._told: list[tuple[int, bytes]] = []
        """Of pods, by version: what a watch is told that goes on from a list of before."""

    def put(self, path: str, value: dict[str, Any]) -> None:
        with self._lock:
            is_new = path not in self.objects
            self._version += 1
            value["metadata"]["resourceVersion"] = str(self._version)
            self.objects[path] = value
            self._tell("ADDED" if is_new else "MODIFIED", value)

    def put_pod(self, value: dict[str, Any]) -> None:
        metadata = value["metadata"]
        self.put(f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", value)

    def pod(self, name: str) -> dict[str, Any]:
        with self._lock:
            return copy.deepcopy(self.objects[f"/api/v1/namespaces/default/pods/{name}"])

    def remove(self, path: str) -> None:
        with self._lock:
            value = self.objects.pop(path)
            self._version += 1
            value["metadata"]["resourceVersion"] = str(self._version)
            self._tell("DELETED", value)

    def _tell(self, kind: str, value: dict[str, Any]) -> None:
        if value.get("kind") == "Pod":
            line = json.dumps({"type": kind, "object": value}).encode()
            self._told.append((self._version, line))
            for watch in self._watches:
                if watch.plural == "pods":
                    watch.lines.put(line)

    def call(self, request: Request) -> Any:
        with self._lock:
            self.requests.append(request)
            for failure in self.failures:
                if (error := failure(request)) is not None:
                    raise error
            return copy.deepcopy(self._call(request))

    def stream(self, request: Request) -> Stream:
        with self._lock:
            watch = _Silence(request.path.rsplit("/", 1)[-1])
            self._watches.append(watch)
            listed = int((request.query or {})["resourceVersion"])
            for version, line in self._told:
                if watch.plural == "pods" and version > listed:
                    watch.lines.put(line)
            return watch

    def _call(self, request: Request) -> Any:
        path, body = request.path, request.body
        if request.method == "GET" and path in self.objects:
            return self.objects[path]
        if request.method == "GET":
            plural = path.rsplit("/", 1)[-1]
            if plural in (
                *("pods", "limitranges", "checkpoints", "persistentcheckpoints"),
                "horizontalpodautoscalers",
            ):
                found = [
                    o
                    for p, o in self.objects.items()
                    if p.split("/")[-2] == plural
                    and _is_selected(o, (request.query or {}).get("labelSelector", ""))
                ]
                return {"items": found, "metadata": {"resourceVersion": str(self._version)}}
        if request.method == "POST":
            metadata = body["metadata"]
            path = f"{path}/{metadata['name']}"
            if path in self.objects:
                raise errors.AlreadyExists("there already", reason="AlreadyExists")
            metadata.setdefault("uid", f"uid-of-{metadata['name']}")
            metadata.setdefault("generation", 1)
            metadata.setdefault("creationTimestamp", timestamp(datetime.datetime.now(datetime.UTC)))
            self.put(path, body)
            return self.objects[path]
        if request.method == "DELETE" and path in self.objects:
            self._check_version(self.objects[path], (body or {}).get("preconditions"))
            self.remove(path)
            return {}
        if request.method == "PATCH":
            for suffix in ("/status", "/resize", ""):
                if path.endswith(suffix) and (target := path.removesuffix(suffix)) in self.objects:
                    self._check_version(self.objects[target], body.get("metadata"))
                    is_strategic = request.content_type == PatchKind.STRATEGIC.value
                    self.put(target, _merged(self.objects[target], body, is_strategic=is_strategic))
                    return self.objects[target]
        raise errors.NotFound(f"cannot {request.what}: 404", reason="NotFound")

    @staticmethod
    def _check_version(value: dict[str, Any], wanted: dict[str, Any] | None) -> None:
        there = value["metadata"]["resourceVersion"]
        if (wanted or {}).get("resourceVersion", there) != there:
            raise errors.Conflict("it was changed")

    def writes(self) -> list[str]:
        with self._lock:
            return [
                f"{r.method} {r.path}"
                for r in self.requests
                if r.method != "GET" and "/events" not in r.path
            ]

    def events(self) -> list[str]:
        with self._lock:
            return [str(o["reason"]) for p, o in self.objects.items() if "/events/" in p]


def _is_selected(value: dict[str, Any], selector: str) -> bool:
    labels = (value["metadata"].get("labels") or {}).items()
    return all(tuple(term.split("=", 1)) in labels for term in selector.split(",") if term)


_KEYS = {"conditions": "type", "containers": "name"}


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _merged(old: Any, patch: Any, *, is_strategic: bool) -> Any:
    result = dict(old)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif (
            is_strategic
            and key in _KEYS
            and isinstance(value, list)
            and all(isinstance(v, dict) for v in value)
        ):
            by = _KEYS[key]
            items = {i[by]: i for i in result.get(key) or []}
            for item in value:
                was = items.get(item[by], {})
                items[item[by]] = _merged(was, item, is_strategic=True)
            result[key] = list(items.values())
        elif isinstance(value, dict):
            result[key] = _merged(result.get(key) or {}, value, is_strategic=is_strategic)
        else:
            result[key] = value
    return result


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def api(cluster: FakeCluster) -> Api:
    return Api(cluster, field_manager="architect-daemon")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "pods").mkdir()
    return Layout(
        install=tmp_path / "opt",
        run=tmp_path,
        pods=tmp_path / "pods",
        checkpoints=tmp_path / "checkpoints",
        arrivals=tmp_path / "arrivals",
        requests=tmp_path / "requests",
    )


@pytest.fixture
def nodes(cluster: FakeCluster) -> None:
    """The daemon's objects in the API server: its node, and what it is one of."""
    cluster.put(NODE, {"kind": "Node", "metadata": {"name": "node1", "uid": "n"}, "status": {}})
    cluster.put(DAEMON_SET, {"metadata": {"name": "architect-daemon", "uid": "d"}})


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    def wait(condition: Callable[[], object], *, deadline_seconds: float = 60.0) -> None:
        end = time.monotonic() + patient(deadline_seconds)
        while not condition():
            assert time.monotonic() < end, "the condition did not come true in time"
            threading.Event().wait(0.02)

    return wait
