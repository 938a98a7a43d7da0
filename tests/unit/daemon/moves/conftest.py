"""A node on which pods move: its disk, its keeper as a double, the API server in memory."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from architect.api.keeper import PodState
from architect.api.policy import Storage
from architect.checkpoint.manifest import Manifest
from architect.core.errors import ArchitectError, Rejected
from architect.daemon.inits import Inits
from architect.daemon.metrics import Metrics
from architect.daemon.moves import captures as capturing
from architect.daemon.moves import judging, leavers, lingering
from architect.daemon.moves.arrivals import Arrivals
from architect.daemon.moves.bringing import Bringing
from architect.daemon.moves.captures import Captures
from architect.daemon.moves.copies import Copies
from architect.daemon.moves.departures import Departures
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.endings import Endings
from architect.daemon.moves.latest import Latest
from architect.daemon.moves.room import Room
from architect.daemon.moves.starting import Starting
from architect.daemon.moves.succeeding import Succeeding
from architect.daemon.moves.turns import Turns
from architect.daemon.moves.upkeep import Upkeep
from architect.daemon.observation import KeeperPod
from architect.daemon.registry import Registry
from architect.daemon.spot.rates import Known
from architect.daemon.store import PodStore
from architect.daemon.vault.upload import Uploaded
from architect.kube.api import Api
from architect.kube.checkpoints import Requirements
from architect.kube.conditions import timestamp
from architect.kube.events import Note
from architect.kube.resources import ObjectRef
from architect.kube.watch import Snapshot
from support.patience import patient

Json = dict[str, Any]
SECONDS = patient(60)
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "owner-1"}
OWNER_PATH = "/apis/apps/v1/namespaces/default/replicasets/web"
CHECKPOINTS = "/apis/architect.dev/v1alpha1/namespaces/default/checkpoints"
INIT = b"an init"
INIT_SHA = hashlib.sha256(INIT).hexdigest()
DIGEST = f"sha256:{'a' * 64}"
RUNNING = {
    **{"name": "app", "ready": True, "state": {"running": {}}, "restartCount": 0},
    "imageID": DIGEST,
}
NEEDS = Requirements(architecture="amd64", cpu_features=("avx2",), kernel="6.12", criu="4.2.1")


class KeeperDouble:
    """Answers as the keeper does; *troubles* are raised first, one a call."""

    def __init__(self, pods: Path) -> None:
        self.pods = pods
        self.states: dict[str, PodState] = {}
        self.troubles: dict[str, list[ArchitectError]] = {}
        self.calls: list[tuple[str, str]] = []
        self.gate: threading.Event | None = None
        """If there is one, captures wait for it."""

    def _begin(self, op: str, uid: str) -> None:
        self.calls.append((op, uid))
        if troubles := self.troubles.get(op):
            raise troubles.pop(0)
        if uid not in self.states:
            raise Rejected(f"no managed pod {uid}", reason="UnknownPod")

    def status(self, uid: str) -> KeeperPod:
        self._begin("status", uid)
        return KeeperPod(uid=uid, namespace="default", name=uid, state=self.states[uid])

    def capture(self, uid: str, **_: Any) -> bool:
        self._begin("capture", uid)
        if self.gate is not None:
            assert self.gate.wait(SECONDS)
        has_slept = self.states[uid] is PodState.ASLEEP
        self._dump(uid)
        return has_slept

    @contextlib.contextmanager
    def copying(self, uid: str, **_: Any) -> Iterator[None]:
        before = self.states.get(uid)
        self._begin("copy", uid)
        if self.gate is not None:
            assert self.gate.wait(SECONDS)
        self._dump(uid)
        try:
            yield
            self._begin("go_on", uid)
        finally:
            if before is PodState.AWAKE and uid in self.states:
                self.states[uid] = PodState.AWAKE
                shutil.rmtree(self.pods / uid / "app")

    def _dump(self, uid: str) -> None:
        if self.states[uid] is PodState.AWAKE:
            self.fall_asleep(uid)

    def fall_asleep(self, uid: str) -> None:
        image = self.pods / uid / "app" / "image"
        if not image.exists():
            image.mkdir(parents=True, exist_ok=True)
            (image / "inventory.img").write_text(f"memory of {uid}")
            meta = {"version": 1, "init_sha": INIT_SHA}
            (image.parent / "meta.json").write_text(json.dumps(meta))
        self.states[uid] = PodState.ASLEEP

    def depart(self, uid: str, **_: Any) -> None:
        self._begin("depart", uid)
        self.states[uid] = PodState.CAPTURED
        self.has_left(uid)

    def has_left(self, uid: str) -> None:
        said = {"version": 1, "phase": PodState.CAPTURED.value}
        (self.pods / uid / "pod.json").write_text(json.dumps(said))

    def begins_anew(self, uid: str) -> None:
        self.states[uid] = PodState.AWAKE
        said = {"version": 1, "phase": PodState.AWAKE.value}
        (self.pods / uid / "pod.json").write_text(json.dumps(said))

    def wake(self, uid: str, **_: Any) -> None:
        self._begin("wake", uid)
        self.states[uid] = PodState.AWAKE

    def ops(self, op: str) -> int:
        return sum(1 for called, _ in self.calls if called == op)


class VaultDouble:
    """Takes checkpoints; *troubles* are raised first, one a call; *gate* holds uploads up."""

    bucket = "checkpoints"

    def __init__(self) -> None:
        self.uploaded: list[str] = []
        self.troubles: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self.order: list[str] = []
        self.is_hurried = False

    def prefer(self, order: Sequence[str]) -> None:
        self.order = list(order)

    def hurry(self, *, is_needed: bool) -> None:
        self.is_hurried = is_needed

    def upload(
        self, directory: Path, manifest: Manifest, *, notes: Path, is_wanted: Callable[[], bool]
    ) -> Uploaded:
        notes.parent.mkdir(exist_ok=True)
        notes.write_text("{}")
        assert self.gate.wait(SECONDS)
        if not is_wanted():
            raise Rejected("not wanted", reason="Unwanted")
        if self.troubles:
            raise self.troubles.pop(0)
        self.uploaded.append(manifest.id)
        return Uploaded(
            key=f"default/{manifest.id}/manifest.json",
            sha256="c" * 64,
            key_id="0" * 16,
            wrapped_key=bytes(80),
            stored_bytes=1000,
            seconds=0.25,
        )


class HostDouble:
    @contextlib.contextmanager
    def on_cue(self, argv: list[str]) -> Iterator[CuedDouble]:
        yield CuedDouble(self.cued, argv)

    def cued(self, _: list[str]) -> None:
        """Do what the program of that command line would."""


class CuedDouble:
    def __init__(self, cued: Callable[[list[str]], None], argv: list[str]) -> None:
        self._cued, self._argv = cued, argv

    def go(self, *, timeout_seconds: float) -> str:
        assert timeout_seconds > 0
        self._cued(self._argv)
        return ""


class ImagesDouble:
    """An engine that has one image under a name."""

    def __init__(self) -> None:
        self.digests = {"app:1": DIGEST}

    def ids(self, references: dict[str, str]) -> dict[str, str]:
        return {key: ref for key, ref in references.items() if ref in self.digests.values()}

    def names(self, references: dict[str, str]) -> dict[str, frozenset[str]]:
        return {
            key: frozenset((self.digests[ref],))
            for key, ref in references.items()
            if ref in self.digests
        }


class Facts:
    requirements = NEEDS


class Node:
    """One node; :meth:`restart` is a daemon that ended and one that came."""

    def __init__(self, state: Path, cluster: Any, api: Api, make: Any) -> None:
        self.state = state
        self.cluster = cluster
        self.api = api
        self.make = make
        self.keeper = KeeperDouble(state / "pods")
        self.depot = Depot(
            pods=state / "pods",
            checkpoints=state / "checkpoints",
            arrivals=state / "arrivals",
            uploads=state / "uploads",
        )
        self.copies = Copies(state / "requests")
        (state / "pods").mkdir()
        self.notes: list[tuple[str, str]] = []
        self.said: list[str] = []
        """The texts of :attr:`notes`."""
        self.fetch: Callable[..., object] = self._no_fetch
        self.retrieve: Callable[..., None] = self._no_fetch
        self.to_store: list[str] = []
        self.has_store = True
        self.default_storage = Storage.OBJECT_STORE
        self.storing: Any = None
        self.requests: Any = None
        self.leaves: set[str] = set()
        """Whose machine ends, and who are saved."""
        self.shuts_down: bool | ArchitectError = False
        self.now = time.time()
        self.clock_is_ahead = 0.0
        self.quota_bytes = 0
        self.told: list[tuple[str, str, str]] = []
        """Events on Checkpoints: name, reason, text."""
        self.metrics = Metrics()
        self.rates = Known()
        self.images = ImagesDouble()
        self.inits = Inits(state / "init")
        (state / "init" / INIT_SHA).mkdir(parents=True)
        (state / "init" / INIT_SHA / "init").write_bytes(INIT)
        self.restart()
        cluster.put(
            OWNER_PATH,
            {
                **{"apiVersion": "apps/v1", "kind": "ReplicaSet"},
                "metadata": {"name": "web", "namespace": "default", "uid": "owner-1"},
                "spec": {"replicas": 1},
                "status": {},
            },
        )

    def passes(self, seconds: float) -> None:
        """Let so much time pass, counted from when this is called: what lies there is that old."""
        self.now = max(self.now, time.time()) + seconds

    def restart(self) -> None:
        self.store = PodStore()
        self.registry = Registry()
        self.latest = Latest(self.api)
        self.bringing = Bringing(
            self.api,
            node="node1",
            depot=self.depot,
            inits=self.inits,
            fetch=lambda *a, **k: self.fetch(*a, **k),
            retrieve=lambda *a, **k: self.retrieve(*a, **k),
        )
        self.endings = Endings(
            self.api, node="node1", depot=self.depot, latest=self.latest, tell=self._tell
        )
        self.arrivals = Arrivals(
            self.api,
            node="node1",
            store=self.store,
            facts=cast(Any, Facts()),
            images=cast(Any, self.images),
            depot=self.depot,
            latest=self.latest,
            succeeding=Succeeding(self.api, node="node1", patience_seconds=SECONDS),
            starting=Starting(self.api, node="node1", patience_seconds=SECONDS),
            bringing=self.bringing,
            endings=self.endings,
            metrics=self.metrics,
            tell=self._tell,
            has_left=lambda uid: uid in self.leaves,
        )
        self.room = Room(
            self.api,
            node="node1",
            depot=self.depot,
            metrics=self.metrics,
            quota_bytes=self.quota_bytes,
            is_there=lambda uid: self.store.get(uid) is not None,
            tell=self._tell_object,
            clock=lambda: self.now + self.clock_is_ahead,
            boot=lambda: self.now,
        )
        self.departures = self.departing()
        self.upkeep = Upkeep(
            self.api,
            node="node1",
            depot=self.depot,
            room=self.room,
            store=self.store,
            registry=self.registry,
            departures=self.departures,
            arrivals=self.arrivals,
            endings=self.endings,
            storing=self.storing,
            requests=self.requests,
            is_shutting_down=self._is_shutting_down,
            ttl_seconds=3600,
            list_interval_seconds=0,
            clock=lambda: self.now + self.clock_is_ahead,
            boot=lambda: self.now,
        )

    def departing(self, *, at_once: int = 4) -> Departures:
        self.turns = Turns(at_once)
        self.captures = Captures(
            node="node1",
            keeper=cast(Any, self.keeper),
            host=cast(Any, HostDouble()),
            facts=cast(Any, Facts()),
            images=cast(Any, self.images),
            inits=self.inits,
            depot=self.depot,
            copies=self.copies,
            room=self.room,
            patience_seconds=1,
        )
        return Departures(
            self.api,
            node="node1",
            keeper=cast(Any, self.keeper),
            captures=self.captures,
            turns=self.turns,
            depot=self.depot,
            latest=self.latest,
            pods=self.store,
            rates=self.rates,
            metrics=self.metrics,
            tell=self._tell,
            hand_on=self.arrivals.hand_on,
            is_shutting_down=self._is_shutting_down,
            store=self.to_store.append if self.has_store else None,
            default_storage=self.default_storage,
        )

    def _is_shutting_down(self) -> bool:
        if isinstance(self.shuts_down, ArchitectError):
            raise self.shuts_down
        return self.shuts_down

    def _tell(self, pod: Any, note: Note) -> None:
        self.notes.append((pod.name, note.reason))
        self.said.append(note.text)

    def _tell_object(self, where: ObjectRef, note: Note) -> None:
        self.told.append((where.name, note.reason, note.text))

    @staticmethod
    def _no_fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be fetched")

    # Pods

    def pod(self, name: str, *, is_running: bool = True, **metadata: Any) -> Json:
        value: Json = self.make.pod_json(
            name,
            ownerReferences=[{**OWNER, "controller": True}],
            creationTimestamp=timestamp(datetime.datetime.now(datetime.UTC)),
            status={"containerStatuses": [RUNNING] if is_running else []},
            **metadata,
        )
        self.cluster.put_pod(value)
        if is_running:
            self.keeper.states[f"uid-{name}"] = PodState.AWAKE
        return value

    def delete(self, name: str) -> None:
        value = self.cluster.pod(name)
        value["metadata"] |= {
            "deletionTimestamp": "2026-01-01T00:00:40Z",
            "deletionGracePeriodSeconds": 30,
        }
        self.cluster.put_pod(value)

    def end(self, name: str) -> None:
        """Do what kubelet does once it has ended a pod with its node: it stays there, Failed."""
        value = self.cluster.pod(name)
        value["status"] |= {"phase": "Failed", "reason": "Terminated"}
        self.cluster.put_pod(value)

    def gone(self, name: str) -> None:
        self.cluster.remove(f"/api/v1/namespaces/default/pods/{name}")

    def watched(self, *names: str) -> None:
        """Let the daemon have heard of its keeper's pods, and of these of the node."""
        items = tuple(self.cluster.pod(n) for n in names)
        self.store.take(Snapshot(objects=items))
        self.registry.set_all(
            KeeperPod(uid=uid, namespace="default", name=uid, state=state)
            for uid, state in self.keeper.states.items()
        )

    # What the runtime asks

    def leaving(self, name: str) -> Json:
        return self.departures.leaving(self._question(name))

    def arriving(self, name: str) -> Json:
        return self.arrivals.arriving(self._question(name))

    @staticmethod
    def _question(name: str) -> Json:
        return {
            **{"pod": f"uid-{name}", "namespace": "default"},
            **{"pod_name": name, "container": "app"},
        }

    def saved(self, name: str = "old", *, is_asleep: bool = False) -> None:
        """Have a pod saved, published and gone."""
        self.pod(name)
        if is_asleep:
            self.keeper.fall_asleep(f"uid-{name}")
        self.delete(name)
        assert self.departures._job(self.ref(name)).result().is_captured
        self.until(lambda: self.conditions(name).get("Available", "")[:4] == "True")
        self.gone(name)
        del self.keeper.states[f"uid-{name}"]

    @staticmethod
    def ref(name: str) -> Any:
        from architect.kube import resources

        return resources.pod("default", name, uid=f"uid-{name}")

    def adopt(self, name: str) -> None:
        """Do what the keeper does with what came."""
        come = self.state / "arrivals" / f"uid-{name}" / "containers" / "app" / "image"
        come.rename(self.state / f"adopted-{name}")
        self.keeper.states[f"uid-{name}"] = PodState.AWAKE

    # What is seen

    def checkpoint(self, name: str) -> Json | None:
        for path, value in list(self.cluster.objects.items()):
            if path.startswith(CHECKPOINTS) and value["spec"]["podRef"]["name"] == name:
                found: Json = value
                return found
        return None

    def conditions(self, name: str) -> dict[str, str]:
        value = self.checkpoint(name) or {}
        found = (value.get("status") or {}).get("conditions") or ()
        return {c["type"]: f"{c['status']} {c['reason']}" for c in found}

    def claimant(self, name: str) -> str:
        value = self.checkpoint(name) or {}
        return str(((value.get("status") or {}).get("claimedBy") or {}).get("uid") or "")

    def files(self) -> list[str]:
        """Return what lies in the directories of pods that move."""
        return sorted(
            f"{d}/{p.name}"
            for d in ("checkpoints", "arrivals", "requests")
            for p in (self.state / d).glob("*")
        )

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.01)


@pytest.fixture
def node(
    tmp_path: Path, cluster: Any, api: Api, make: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Node]:
    monkeypatch.setattr(capturing, "KEEPER_STEP_SECONDS", 0.01)
    monkeypatch.setattr(leavers, "API_SECONDS", SECONDS)
    monkeypatch.setattr(leavers, "API_STEP_SECONDS", 0.01)
    monkeypatch.setattr(leavers, "URGENT_SECONDS", SECONDS)
    monkeypatch.setattr(judging, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(lingering, "STAY_SECONDS", 0.0)
    made = Node(tmp_path, cluster, api, make)
    yield made
    made.departures.close()


@pytest.fixture
def vault() -> VaultDouble:
    return VaultDouble()
