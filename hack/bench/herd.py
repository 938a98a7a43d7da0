"""Pods of a Deployment that move from node to node; which node takes them is up to a label.

The label stands in the pods' node selector: taking it from a node keeps their replacements away, as
a cordon does, and nobody else's. A run that is killed leaves a label at worst.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from bench import fleet
from bench.errors import BenchError
from lab import errors, waiting
from lab.cluster import Cluster

PLACE: Final = "architect-bench/place"
PROBE_SECONDS: Final = 1
SETTLE_SECONDS: Final = 300.0
PODS: Final = f"/api/v1/namespaces/{fleet.NAMESPACE}/pods"


@dataclass(frozen=True, kw_only=True)
class HerdSpec:
    """A Deployment whose pods are alike."""

    name: str
    count: int
    mebibytes: int
    is_managed: bool = True

    @property
    def label(self) -> str:
        """Selects its pods."""
        return f"herd={self.name}"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A pod that runs."""

    name: str
    uid: str
    node: str
    address: str


class Herd:
    """The pods of one :class:`HerdSpec`."""

    def __init__(self, cluster: Cluster, spec: HerdSpec) -> None:
        self._cluster = cluster
        self.spec = spec

    def create(self) -> str:
        """Make the pods; return the address of their Service. Raises BenchError, LabError.

        The webhook lets pods through that it does not see, while it is being replaced, say.
        """
        wanted = names.RUNTIME_CLASS if self.spec.is_managed else None
        for _ in range(fleet.ATTEMPTS):
            self._cluster.kubectl(
                *("apply", "--server-side", "-f", "-"),
                input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects(self.spec)}),
            )
            self.members()
            classes = {pod["spec"].get("runtimeClassName") for pod in self._objects()}
            if classes == {wanted}:
                path = f"/api/v1/namespaces/{fleet.NAMESPACE}/services/{self.spec.name}"
                return str(self._cluster.api.get(path)["spec"]["clusterIP"])
            self.delete()
        raise BenchError(f"pods of {self.spec.name}: runtime classes {classes}, not {wanted}")

    def members(self) -> list[Member]:
        """Return the pods once all of them are Ready and nobody that left is still there."""
        waiting.until(
            self._is_settled,
            what=f"{self.spec.count} pods of {self.spec.name} are ready, and no other is there",
            timeout_seconds=SETTLE_SECONDS,
            interval_seconds=0.3,
            last_seen=self.diagnosis,
        )
        return [
            Member(
                name=pod["metadata"]["name"],
                uid=pod["metadata"]["uid"],
                node=pod["spec"]["nodeName"],
                address=pod["status"]["podIP"],
            )
            for pod in self._objects()
        ]

    def evict(self, members: list[Member]) -> None:
        """Ask for the eviction of *members*, all at once. Raises LabError, OSError."""

        def ask(member: Member) -> None:
            self._cluster.api.post(
                f"{PODS}/{member.name}/eviction",
                {
                    "apiVersion": "policy/v1",
                    "kind": "Eviction",
                    "metadata": {"name": member.name, "namespace": fleet.NAMESPACE},
                },
            )

        with futures.ThreadPoolExecutor(max_workers=len(members)) as pool:
            list(pool.map(ask, members))

    def remove(self, members: list[Member]) -> None:
        """Ask for a plain deletion of *members*, one after the other. Raises LabError, OSError."""
        for member in members:
            self._cluster.api.delete(f"{PODS}/{member.name}")

    def checkpoint(self, member: Member) -> dict[str, Any]:
        """Return the Checkpoint by which *member* moved. Raises BenchError if there is none."""
        path = f"/apis/architect.dev/v1alpha1/namespaces/{fleet.NAMESPACE}/checkpoints"
        for item in self._cluster.api.get(path)["items"]:
            spec = item["spec"]
            if spec["podRef"]["uid"] == member.uid and spec["trigger"] != "Sleep":
                return dict(item)
        raise BenchError(f"pod {member.name} has no Checkpoint")

    def delete(self) -> None:
        """Remove it, and return once its pods are gone."""
        self._cluster.kubectl(
            *("-n", fleet.NAMESPACE, "delete", "deployments,services", "-l", self.spec.label),
            *("--ignore-not-found", "--cascade=foreground", f"--timeout={fleet.DELETE_SECONDS}s"),
            timeout_seconds=fleet.DELETE_SECONDS + 30,
        )

    def diagnosis(self) -> str:
        """Return what a person would look at first."""
        said = []
        for words in (
            ("get", "pods", "-o", "wide"),
            ("get", "checkpoints"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        ):
            try:
                said.append(self._cluster.kubectl("-n", fleet.NAMESPACE, *words)[-3000:])
            except errors.LabError as error:
                said.append(str(error))
        return "\n".join(said)

    def _objects(self) -> list[dict[str, Any]]:
        path = f"{PODS}?labelSelector={self.spec.label.replace('=', '%3D')}"
        found: list[dict[str, Any]] = self._cluster.api.get(path)["items"]
        return sorted(found, key=lambda item: str(item["metadata"]["name"]))

    def _is_settled(self) -> bool:
        pods = self._objects()
        return len(pods) == self.spec.count and all(
            "deletionTimestamp" not in pod["metadata"] and fleet.is_ready(pod) for pod in pods
        )


@contextmanager
def running(cluster: Cluster, spec: HerdSpec) -> Iterator[tuple[Herd, str]]:
    """Run a herd, and give the address of its Service too; all of it is removed afterwards."""
    made = Herd(cluster, spec)
    made.delete()
    try:
        yield made, made.create()
    finally:
        try:
            made.delete()
        except errors.LabError as error:
            # Not raised: it would hide why we are here. The namespace goes at the end, too.
            cluster.progress.say(f"pods of {spec.name} are not gone yet: {error}")


@contextmanager
def places(cluster: Cluster) -> Iterator[None]:
    """Take the labels from all nodes afterwards."""
    try:
        yield
    finally:
        nowhere(cluster)


def only(cluster: Cluster, node: str) -> None:
    """Let new pods come to *node* alone."""
    others = [other.name for other in cluster.nodes if other.name != node]
    cluster.kubectl("label", "nodes", "--overwrite", node, f"{PLACE}=yes")
    cluster.kubectl("label", "nodes", *others, f"{PLACE}-")


def nowhere(cluster: Cluster) -> None:
    """Let new pods come to no node."""
    cluster.kubectl("label", "nodes", "--all", f"{PLACE}-")


def objects(spec: HerdSpec) -> list[dict[str, Any]]:
    """Return the Deployment and its Service."""
    key, _, value = spec.label.partition("=")
    metadata = {"name": spec.name, "namespace": fleet.NAMESPACE, "labels": {key: value}}
    template = {
        "metadata": {
            "labels": {key: value},
            "annotations": {names.MIGRATE: "true"} if spec.is_managed else {},
        },
        "spec": {
            "nodeSelector": {PLACE: "yes"},
            **fleet.application(spec.mebibytes, probe_seconds=PROBE_SECONDS),
        },
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": spec.count,
                "selector": {"matchLabels": {key: value}},
                "template": template,
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {key: value}, "ports": [{"port": fleet.PORT}]},
        },
    ]
