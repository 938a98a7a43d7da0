"""A pod whose data lies on a volume goes on with it, where nothing was written there meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from architect.api import names
from lab import csi
from lab.cluster import Cluster
from lab.csi import Call, Disk
from lab.node import SHARED
from support.moves import alone, draining
from support.persistent import ask, condition
from support.workloads import (
    BarePod,
    Workload,
    apply,
    code,
    eventually,
    memory_server,
    pod_template,
    service,
    wait_for_service,
)

pytestmark = pytest.mark.timeout(900)

JOURNAL = "/data/journal"


class Ledger(Workload):
    """A StatefulSet of one pod that writes down every answer on its volume before it gives it."""

    @property
    def claim(self) -> str:
        return f"data-{self.name}-0"

    def written(self) -> list[str]:
        return self.kubectl("exec", self.pod_name(), "--", "cat", JOURNAL).splitlines()

    def is_replaced(self, old: dict[str, Any]) -> bool:
        """Whether a pod is there that came after *old*, ready or not."""
        found = self.get_json("pods", labels=f"app={self.name}")["items"]
        return any(pod["metadata"]["uid"] != old["metadata"]["uid"] for pod in found)

    def ready(self, *, after: str = "") -> dict[str, Any] | None:
        """Return the pod if it is ready, and another one than that of uid *after*."""
        found = self.get_json("pods", labels=f"app={self.name}")["items"]
        for pod in found:
            conditions = pod["status"].get("conditions", [])
            is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
            if is_ready and pod["metadata"]["uid"] != after:
                return dict(pod)
        return None

    def successor(self, old: dict[str, Any]) -> dict[str, Any]:
        """Return the pod that comes after *old* once it is ready."""
        found: dict[str, Any] = eventually(
            lambda: self.ready(after=old["metadata"]["uid"]), what="the pod's successor"
        )
        return found


@contextmanager
def ledger(
    cluster: Cluster, namespace: str, name: str, volume: Mapping[str, Any], **spec: Any
) -> Iterator[Ledger]:
    """Run the application on *volume*, a PersistentVolume for its claim; *spec* is the pod's."""
    app = Ledger(cluster=cluster, namespace=namespace, name=name)
    container = memory_server(
        env=[{"name": "JOURNAL", "value": JOURNAL}],
        volumeMounts=[
            {"name": "code", "mountPath": "/app"},
            {"name": "data", "mountPath": "/data"},
        ],
    )
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": volume["spec"]["accessModes"],
            "storageClassName": "",
            "resources": {"requests": volume["spec"]["capacity"]},
        },
    }
    stateful_set = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": pod_template(name, [container], spec=spec),
            "volumeClaimTemplates": [claim],
        },
    }
    try:
        apply(app, volume, code(name), service(name), stateful_set)
        eventually(app.ready, what=f"{name} is ready")
        wait_for_service(cluster.plane.machine, app.service_ip())
        yield app
    finally:
        app.kubectl("delete", "statefulset,service,configmap", name, "--wait=false")
        app.kubectl("delete", "persistentvolumeclaim", app.claim, "--wait=false")
        app.kubectl("delete", "persistentvolume", volume["metadata"]["name"], "--wait=false")


@contextmanager
def on_a_directory(cluster: Cluster, namespace: str, name: str) -> Iterator[tuple[Ledger, str]]:
    """Run it on a directory that every node sees, of which nothing is mounted or attached."""
    node, directory = cluster.nodes[0], f"{SHARED}/{namespace}-{name}"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{name}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "hostPath": {"path": directory, "type": "Directory"},
            "claimRef": {"namespace": namespace, "name": f"data-{name}-0"},
        },
    }
    node.exec(["mkdir", "-p", directory])
    try:
        with ledger(cluster, namespace, name, volume) as app:
            yield app, directory
    finally:
        node.exec(["rm", "-rf", directory])


@contextmanager
def on_a_disk(cluster: Cluster, namespace: str, name: str) -> Iterator[tuple[Ledger, Disk]]:
    """Run it on a disk that is attached to the pod's node."""
    disk = Disk(name=f"{namespace}-{name}", cluster=cluster)
    disk.create()
    try:
        volume = disk.persistent_volume(namespace=namespace, claim=f"data-{name}-0")
        # Kubelet looks whether the files are the group's each time it mounts the disk.
        owned = {"fsGroup": 2000, "fsGroupChangePolicy": "OnRootMismatch"}
        with ledger(cluster, namespace, name, volume, securityContext=owned) as app:
            yield app, disk
    finally:
        disk.delete()


@pytest.fixture(scope="module")
def disks(architect: Cluster) -> Iterator[Cluster]:
    """Return the cluster with Architect and a CSI driver in it."""
    with csi.installed(architect):
        yield architect


def brought(node: str) -> list[Call]:
    """Return what is asked of the driver so that a pod on *node* has its disk."""
    calls = ("ControllerPublishVolume", "NodeStageVolume", "NodePublishVolume")
    return [Call(name=name, node=node) for name in calls]


def taken(node: str) -> list[Call]:
    """Return what is asked of the driver so that *node* has a disk no more."""
    calls = ("NodeUnpublishVolume", "NodeUnstageVolume", "ControllerUnpublishVolume")
    return [Call(name=name, node=node) for name in calls]


def put_to_sleep(app: Ledger) -> None:
    app.sleep()


def leave_awake(app: Ledger) -> None:
    assert app.state() == "awake"


@pytest.mark.long
@pytest.mark.parametrize(
    "before", [leave_awake, pytest.param(put_to_sleep, marks=pytest.mark.long)]
)
def test_a_pod_goes_on_where_its_disk_is_attached_next(
    disks: Cluster, namespace: str, before: Any
) -> None:
    with on_a_disk(disks, namespace, "ledger") as (app, disk):
        first = app.get()
        before(app)
        old = app.pod()
        with draining(app, old["spec"]["nodeName"]):
            new = app.successor(old)
        here, there = old["spec"]["nodeName"], new["spec"]["nodeName"]
        assert here != there
        after = app.get_when_reachable()
        assert after["identity"] == first["identity"]
        assert after["count"] > first["count"]
        # The file was open all the way, and nothing of it is missing or there twice.
        told = app.written()
        assert told == [f"{first['identity']} {n}" for n in range(1, len(told) + 1)]
        assert len(told) >= after["count"]
        assert app.restarts() == 0
        # The disk left the one node, of which nothing held it any more, before the other had it.
        assert disk.calls() == [*brought(here), *taken(here), *brought(there)]
        assert disk.refusals() == []


@pytest.mark.long
@pytest.mark.parametrize("writes", [True, False])
def test_memory_meets_no_disk_that_another_pod_has_written(
    disks: Cluster, namespace: str, writes: bool
) -> None:
    with on_a_disk(disks, namespace, "between") as (app, disk):
        first = app.get()
        old = app.pod()
        here = old["spec"]["nodeName"]
        (there,) = [node.name for node in disks.nodes if node.name != here]
        with alone(app, here), draining(app, here):  # there is no place for its successor
            eventually(lambda: app.is_replaced(old), what="a successor that waits for a node")
            work = f"echo by somebody >> {JOURNAL}" if writes else f"cat {JOURNAL}"
            run_on(app, there, work)
        app.successor(old)
        after = app.get_when_reachable()
        assert disk.calls()[: 4 * 3] == [
            *(*brought(here), *taken(here)),
            *(*brought(there), *taken(there)),
        ]
        assert ("by somebody" in app.written()) is writes
        assert (after["identity"] == first["identity"]) is not writes
        if writes:
            (said,) = eventually(lambda: app.events(names.EVENT_RESTORE_FAILED), what="the event")
            assert "VolumeChanged: volume data was written since the pod was saved" in said


def run_on(app: Ledger, node: str, script: str) -> None:
    """Run *script* in a pod on *node* that mounts the ledger's volume, and remove the pod."""
    pod = BarePod(cluster=app.cluster, namespace=app.namespace, name="visitor")
    spec = {
        "nodeName": node,
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "visitor",
                "image": "localhost/py:3",
                "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": app.claim}}],
    }
    metadata = {"name": pod.name}
    apply(pod, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    eventually(lambda: pod.pod()["status"]["phase"] == "Succeeded", what="the visitor has ended")
    pod.kubectl("delete", "pod", pod.name)


def test_memory_does_not_meet_data_that_was_written_since(
    architect: Cluster, namespace: str
) -> None:
    with on_a_directory(architect, namespace, "stale") as (app, directory):
        first = app.get()
        old = app.pod()
        node = old["spec"]["nodeName"]
        with alone(app, node), draining(app, node):  # there is no place for its successor
            eventually(lambda: app.is_replaced(old), what="a successor that waits for a node")
            architect.nodes[0].exec(["sh", "-c", f"echo by somebody >> {directory}/journal"])
        new = app.successor(old)
        after = app.get_when_reachable()
        assert after["identity"] != first["identity"]
        (said,) = eventually(lambda: app.events(names.EVENT_RESTORE_FAILED), what="the event")
        assert "VolumeChanged: volume data was written since the pod was saved" in said
        assert "by somebody" in app.written()
        assert new["metadata"]["uid"] != old["metadata"]["uid"]


@pytest.mark.concurrent
def test_a_sleeping_pod_with_a_claim_goes_on_too(architect: Cluster, namespace: str) -> None:
    with on_a_directory(architect, namespace, "asleep") as (app, _):
        first = app.get()
        # Many pods could start from one that is saved for good, with one state of the data.
        refused = persistent_checkpoint_of(app)
        assert (refused["status"], refused["reason"]) == ("False", "PersistentVolume")
        assert "writable volume data (persistentVolumeClaim)" in refused["message"]
        app.sleep()
        old = app.pod()
        app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
        app.successor(old)
        assert app.get_when_reachable()["identity"] == first["identity"]


def persistent_checkpoint_of(app: Ledger) -> dict[str, Any]:
    """Ask for a PersistentCheckpoint of the pod; return whether that is accepted once told."""
    ask(app, app.name)

    def told() -> dict[str, str] | None:
        value = app.get_json("persistentcheckpoints.architect.dev", app.name)
        found = condition(value, "Accepted")
        return found if found["status"] else None

    found: dict[str, Any] = eventually(told, what="whether it is accepted")
    return found
