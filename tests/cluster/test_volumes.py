"""A pod whose data lies on a volume goes on with it, where nothing was written there meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from architect.api import names
from lab.cluster import Cluster
from lab.node import SHARED
from support.moves import alone, draining
from support.workloads import (
    Workload,
    apply,
    code,
    eventually,
    memory_server,
    pod_template,
    service,
    wait_for_service,
)

JOURNAL = "/data/journal"


class Ledger(Workload):
    """A StatefulSet of one pod that writes down every answer on its volume before it gives it."""

    @property
    def directory(self) -> str:
        """On every node."""
        return f"{SHARED}/{self.namespace}-{self.name}"

    def written(self) -> list[str]:
        return self.cluster.nodes[0].exec(["cat", f"{self.directory}/journal"]).splitlines()

    def is_replaced(self, old: dict[str, Any]) -> bool:
        """Whether a pod is there that came after *old*, ready or not."""
        found = self.get_json("pods", "-l", f"app={self.name}")["items"]
        return any(pod["metadata"]["uid"] != old["metadata"]["uid"] for pod in found)

    def ready(self, *, after: str = "") -> dict[str, Any] | None:
        """Return the pod if it is ready, and another one than that of uid *after*."""
        found = self.get_json("pods", "-l", f"app={self.name}")["items"]
        for pod in found:
            conditions = pod["status"].get("conditions", [])
            is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
            if is_ready and pod["metadata"]["uid"] != after:
                return dict(pod)
        return None


@contextmanager
def ledger(cluster: Cluster, namespace: str, name: str) -> Iterator[Ledger]:
    app = Ledger(cluster=cluster, namespace=namespace, name=name)
    node = cluster.nodes[0]
    node.exec(["mkdir", "-p", app.directory])
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{name}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "hostPath": {"path": app.directory, "type": "Directory"},
            "claimRef": {"namespace": namespace, "name": f"data-{name}-0"},
        },
    }
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
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
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
            "template": pod_template(name, [container]),
            "volumeClaimTemplates": [claim],
        },
    }
    try:
        apply(app, volume, code(name), service(name), stateful_set)
        eventually(app.ready, what=f"{name} is ready")
        wait_for_service(cluster.plane.machine, app.service_ip())
        yield app
        app.kubectl("delete", "statefulset,service,configmap", name, "--wait=false")
    finally:
        app.kubectl("delete", "persistentvolume", f"{namespace}-{name}", "--wait=false")
        node.exec(["rm", "-rf", app.directory])


def test_a_pod_with_a_claim_goes_on_on_another_node_with_memory_and_data(
    architect: Cluster, namespace: str
) -> None:
    with ledger(architect, namespace, "ledger") as app:
        first = app.get()
        old = app.pod()
        with draining(app, old["spec"]["nodeName"]):
            new = eventually(
                lambda: app.ready(after=old["metadata"]["uid"]), what="the pod's successor"
            )
        assert new["spec"]["nodeName"] != old["spec"]["nodeName"]
        after = app.get_when_reachable()
        assert after["identity"] == first["identity"]
        assert after["count"] > first["count"]
        # The file was open all the way, and nothing of it is missing or there twice.
        told = app.written()
        assert told == [f"{first['identity']} {n}" for n in range(1, len(told) + 1)]
        assert len(told) >= after["count"]
        assert app.restarts() == 0


def test_memory_does_not_meet_data_that_was_written_since(
    architect: Cluster, namespace: str
) -> None:
    with ledger(architect, namespace, "stale") as app:
        first = app.get()
        old = app.pod()
        node = old["spec"]["nodeName"]
        with alone(app, node), draining(app, node):  # there is no place for its successor
            eventually(lambda: app.is_replaced(old), what="a successor that waits for a node")
            architect.nodes[0].exec(["sh", "-c", f"echo by somebody >> {app.directory}/journal"])
        new = eventually(lambda: app.ready(after=old["metadata"]["uid"]), what="a successor")
        after = app.get_when_reachable()
        assert after["identity"] != first["identity"]
        (said,) = eventually(lambda: app.events(names.EVENT_RESTORE_FAILED), what="the event")
        assert "VolumeChanged: volume data was written since the pod was saved" in said
        assert "by somebody" in app.written()
        assert new["metadata"]["uid"] != old["metadata"]["uid"]


def test_a_sleeping_pod_with_a_claim_goes_on_too(architect: Cluster, namespace: str) -> None:
    with ledger(architect, namespace, "asleep") as app:
        first = app.get()
        app.sleep()
        old = app.pod()
        app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
        eventually(lambda: app.ready(after=old["metadata"]["uid"]), what="the pod's successor")
        assert app.get_when_reachable()["identity"] == first["identity"]
