"""The pods that sleep and wake: made together, told apart, removed together."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from bench.errors import BenchError
from lab import dockerfiles, errors, images, waiting
from lab.cluster import Cluster

NAMESPACE: Final = "architect-bench"
PORT: Final = 8080
CONTAINER: Final = "app"
CODE: Final = dockerfiles.CHECKOUT / "tests" / "support" / "apps" / "memory.py"
"""The server with memory of its own that the cluster tests use."""
READY_SECONDS: Final = 600.0
"""For fifty pods on two cores."""
DELETE_SECONDS: Final = 300
ATTEMPTS: Final = 3
LEAST_MEMORY: Final = frozenset({"1Ki", "1024"})
"""What the daemon lowers a sleeping pod's memory request to."""


@dataclass(frozen=True, kw_only=True)
class BenchPod:
    """A running pod."""

    name: str
    uid: str
    container_id: str
    service_ip: str
    """Empty without a Service."""


@dataclass(frozen=True, kw_only=True)
class FleetSpec:
    """Pods that are alike, all on one node."""

    name: str
    count: int
    mebibytes: int
    node: str
    idle: str | None = "1h"
    """None: unmanaged."""
    has_service: bool = True
    has_probe: bool = True


class Fleet:
    """Pods of one :class:`FleetSpec` that run."""

    def __init__(self, cluster: Cluster, spec: FleetSpec) -> None:
        self._cluster = cluster
        self._spec = spec
        self.pods: tuple[BenchPod, ...] = ()

    def create(self) -> None:
        """Make the pods and return once all are Ready. Raises BenchError, LabError.

        The webhook lets pods through that it does not see, while it is being replaced, say. They
        are made again then.
        """
        wanted = None if self._spec.idle is None else names.RUNTIME_CLASS
        for _ in range(ATTEMPTS):
            self._apply()
            found = self.objects()
            classes = {pod["spec"].get("runtimeClassName") for pod in found}
            if classes == {wanted}:
                break
            self._cluster.progress.say(f"  {self._spec.name}: runtime classes {classes}; again")
            self.delete()
        else:
            raise BenchError(f"pods of {self._spec.name}: runtime classes {classes}, not {wanted}")
        services = {
            item["metadata"]["name"]: item["spec"]["clusterIP"]
            for item in self._cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/services")["items"]
        }
        self.pods = tuple(_pod(pod, services) for pod in found)

    def _apply(self) -> None:
        items = [o for number in range(self._spec.count) for o in _objects(self._spec, number)]
        self._cluster.kubectl(
            *("apply", "--server-side", "-f", "-"),
            input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}),
            timeout_seconds=300,
        )
        waiting.until(
            lambda: all(map(is_ready, self.objects())),
            what=f"{self._spec.count} pods of {self._spec.name} are ready",
            timeout_seconds=READY_SECONDS,
            interval_seconds=0.5,
            last_seen=self._diagnosis,
        )

    def objects(self) -> list[dict[str, Any]]:
        """Return the pods as the API server shows them, by name."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=fleet%3D{self._spec.name}"
        found: list[dict[str, Any]] = self._cluster.api.get(path)["items"]
        return sorted(found, key=lambda item: str(item["metadata"]["name"]))

    def is_settled(self, uids: Sequence[str], *, asleep: bool) -> bool:
        """Whether labels and requests of these pods are what they should be by now."""
        chosen = [found for found in self.objects() if found["metadata"]["uid"] in uids]
        return len(chosen) == len(uids) and all(is_settled(f, asleep=asleep) for f in chosen)

    def settle(self, uids: Sequence[str], *, asleep: bool, timeout_seconds: float) -> bool:
        """Wait until :meth:`is_settled`; return whether it came to that in time."""
        deadline = time.monotonic() + timeout_seconds
        while not self.is_settled(uids, asleep=asleep):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.3)
        return True

    def delete(self) -> None:
        """Remove the pods and their Services, and return once they are gone."""
        self._cluster.kubectl(
            *("-n", NAMESPACE, "delete", "pods,services", "-l", f"fleet={self._spec.name}"),
            *("--ignore-not-found", f"--timeout={DELETE_SECONDS}s"),
            timeout_seconds=DELETE_SECONDS + 30,
        )

    def _diagnosis(self) -> str:
        said = []
        for words in (("get", "pods", "-o", "wide"), ("get", "events", "--sort-by=.lastTimestamp")):
            try:
                said.append(self._cluster.kubectl("-n", NAMESPACE, *words)[-3000:])
            except errors.LabError as error:
                said.append(str(error))
        return "\n".join(said)


@contextmanager
def running(cluster: Cluster, spec: FleetSpec) -> Iterator[Fleet]:
    """Run a fleet; what an earlier run left of it is removed first, and all of it after."""
    made = Fleet(cluster, spec)
    made.delete()
    try:
        made.create()
        yield made
    finally:
        try:
            made.delete()
        except errors.LabError as error:
            # Not raised: it would hide why we are here. The namespace goes at the end, too.
            cluster.progress.say(f"pods of {spec.name} are not gone yet: {error}")


def clear(cluster: Cluster) -> None:
    """Remove everything that any run left in the cluster."""
    cluster.kubectl(
        *("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={DELETE_SECONDS}s"),
        timeout_seconds=DELETE_SECONDS + 30,
    )


def prepare(cluster: Cluster) -> None:
    """Make the namespace, with the application's code in it."""
    clear(cluster)
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl(
        *("-n", NAMESPACE, "create", "configmap", "code", f"--from-file=memory.py={CODE}")
    )


def is_settled(pod: dict[str, Any], *, asleep: bool) -> bool:
    """Whether a pod's label and requests say that it is asleep, or awake."""
    labels = pod["metadata"].get("labels", {})
    wanted = names.STATUS_SCALED_DOWN if asleep else names.STATUS_RUNNING
    if labels.get(names.STATUS_LABEL_PREFIX + CONTAINER) != wanted:
        return False
    statuses = pod["status"].get("containerStatuses", [])
    requests = [s.get("resources", {}).get("requests", {}).get("memory") for s in statuses]
    return bool(requests) and all((r in LEAST_MEMORY) is asleep for r in requests)


def _objects(spec: FleetSpec, number: int) -> Iterator[dict[str, Any]]:
    name = f"{spec.name}-{number:03d}"
    labels = {"fleet": spec.name, "app": name}
    yield {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": labels,
            "annotations": {} if spec.idle is None else {names.IDLE: spec.idle},
        },
        "spec": {
            # By the scheduler: kubelet would refuse a pod while the node's label is away, as it
            # is for a moment when the daemon is replaced.
            "nodeSelector": {"kubernetes.io/hostname": spec.node},
            "restartPolicy": "Never",  # what failed shall be seen, not replaced
            "terminationGracePeriodSeconds": 1,
            **application(spec.mebibytes, probe_seconds=5 if spec.has_probe else None),
        },
    }
    if spec.has_service:
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {"selector": {"app": name}, "ports": [{"port": PORT}]},
        }


def application(mebibytes: int, *, probe_seconds: int | None) -> dict[str, Any]:
    """Return what of a pod's spec runs the server with *mebibytes* of memory of its own."""
    probe = {"httpGet": {"port": PORT, "path": "/"}, "periodSeconds": probe_seconds}
    return {
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": CONTAINER,
                "image": images.PY,
                "imagePullPolicy": "Never",
                "command": ["python3", "-u", "/app/memory.py", str(mebibytes)],
                "ports": [{"containerPort": PORT}],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                "volumeMounts": [{"name": "code", "mountPath": "/app"}],
                **({} if probe_seconds is None else {"readinessProbe": probe}),
            }
        ],
        "volumes": [{"name": "code", "configMap": {"name": "code"}}],
    }


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod is Ready. Raises BenchError if it has failed."""
    if pod["status"].get("phase") == "Failed":
        raise BenchError(f"pod {pod['metadata']['name']} failed: {pod['status']}")
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _pod(found: dict[str, Any], services: dict[str, str]) -> BenchPod:
    name = found["metadata"]["name"]
    (status,) = found["status"]["containerStatuses"]
    return BenchPod(
        name=name,
        uid=found["metadata"]["uid"],
        container_id=str(status["containerID"]).rpartition("//")[2],
        service_ip=services.get(name, ""),
    )
