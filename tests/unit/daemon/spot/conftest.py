"""A node whose facts a test may change, as the survey finds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from architect.api.keeper import PodState
from architect.checkpoint.envelope import SHARD_BYTES
from architect.core.errors import Unavailable
from architect.daemon.moves.depot import Depot
from architect.daemon.observation import KeeperPod
from architect.daemon.registry import Registry
from architect.daemon.spot.inputs import Pod
from architect.daemon.spot.survey import Survey
from architect.daemon.store import PodStore
from architect.kube.watch import Snapshot
from support import checkpointdirs

OWNER = {
    **{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o"},
    "controller": True,
}


class Node:
    """A node's facts, each of which a test may change."""

    def __init__(self, path: Path, make: Any) -> None:
        self.path, self.make = path, make
        self.depot = Depot(
            pods=path / "pods",
            checkpoints=path / "checkpoints",
            arrivals=path / "arrivals",
            uploads=path / "uploads",
        )
        self.store, self.registry = PodStore(), Registry()
        self.objects: dict[str, dict[str, Any]] = {}
        self.states: list[KeeperPod] = []
        self.sizes: dict[str, int] | Unavailable = {}
        self.stored: set[str] = set()
        self.survey = self.surveying()

    def surveying(self, **given: Any) -> Survey:
        return Survey(
            store=self.store,
            registry=self.registry,
            depot=self.depot,
            memory=self._memory,
            is_stored=self.stored.__contains__,
            **given,
        )

    def _memory(self) -> Mapping[str, int]:
        if isinstance(self.sizes, Unavailable):
            raise self.sizes
        return self.sizes

    def runs(self, name: str = "web", **given: Any) -> str:
        """Have a pod that the API server tells of."""
        value = self.make.pod_json(name, **{"ownerReferences": [OWNER], **given})
        self.objects[value["metadata"]["uid"]] = value
        self.told()
        return str(value["metadata"]["uid"])

    def told(self) -> None:
        self.store.take(Snapshot(objects=tuple(self.objects.values())))

    def keeps(self, uid: str, state: PodState = PodState.AWAKE, **given: Any) -> None:
        """Have the keeper know a pod."""
        self.states = [p for p in self.states if p.uid != uid]
        self.states.append(KeeperPod(uid=uid, namespace="default", name="x", state=state, **given))
        self.registry.set_all(self.states)

    def has(self, name: str, size_bytes: int, **given: Any) -> str:
        """Have an awake pod of this size; return its uid."""
        uid = self.runs(name, **given)
        self.keeps(uid)
        assert isinstance(self.sizes, dict)
        self.sizes[uid] = size_bytes
        return uid

    def captures(self, uid: str) -> int:
        """Have a pod captured; return the bytes of it."""
        directory = self.path / "checkpoints" / uid
        manifest = checkpointdirs.fill(directory, files={"big": b"x" * (2 * SHARD_BYTES)})
        self.leaves(uid, "captured")
        return manifest.total_bytes

    def leaves(self, uid: str, phase: str) -> None:
        (self.path / "pods" / uid).mkdir(parents=True, exist_ok=True)
        note = {"version": 1, "phase": phase}
        (self.path / "pods" / uid / "pod.json").write_text(json.dumps(note))

    def has_sent(self, uid: str, shards: int) -> None:
        (self.path / "uploads").mkdir(exist_ok=True)
        lines = [{"version": 1}, *({"n": n} for n in range(shards))]
        notes = self.path / "uploads" / f"{uid}.json"
        notes.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def only(self) -> Pod:
        (pod,) = self.survey.pods().values()
        return pod


@pytest.fixture
def node(tmp_path: Path, make: Any) -> Node:
    return Node(tmp_path, make)
