"""Whatever makes a pod leave that its owner replaces: its memory goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import release
from lab.cluster import Cluster
from support import moves
from support.moves import Pod
from support.workloads import Workload, eventually, workload

pytestmark = pytest.mark.long

TAINT = "architect-test/gone"


@contextmanager
def tainted(cluster: Cluster, node: str) -> Iterator[None]:
    """Have *node* tolerate nobody who does not say so."""
    cluster.kubectl("taint", "node", node, f"{TAINT}=:NoExecute")
    try:
        yield
    finally:
        cluster.kubectl("taint", "node", node, f"{TAINT}-")


@contextmanager
def important(cluster: Cluster, namespace: str, *, node: str, cpu: str) -> Iterator[None]:
    """Have a pod that must run on *node*, and goes before others."""
    name = f"important-{namespace}"
    priority = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": 1000,
    }
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "important", "namespace": namespace},
        "spec": {
            "priorityClassName": name,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "app",
                    "image": "localhost/py:3",
                    "imagePullPolicy": "Never",
                    "command": ["sleep", "infinity"],
                    "resources": {"requests": {"cpu": cpu}},
                }
            ],
        },
    }
    cluster.kubectl("apply", "-f", "-", input="\n".join(map(json.dumps, (priority, pod))))
    try:
        yield
    finally:
        cluster.kubectl("-n", namespace, "delete", "pod", "important", "--wait=false")
        cluster.kubectl("delete", "priorityclass", name)


def _goes_on(app: Workload, old: Pod, identity: str) -> None:
    (new,) = moves.ready(app, 1, apart_from=[old])
    assert new["spec"]["nodeName"] != old["spec"]["nodeName"]
    assert moves.answer(app, new)["identity"] == identity
    assert moves.ended(app, old)["Restored"] == ("True", "Restored")
    checkpoint = moves.checkpoint(app, old)
    assert checkpoint is not None
    assert checkpoint["spec"]["trigger"] == "Eviction"


def test_a_pod_that_a_taint_drives_away_goes_on(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "tainted") as app:
        (old,) = moves.pods(app)
        identity = str(moves.answer(app, old)["identity"])
        with tainted(architect, old["spec"]["nodeName"]):
            _goes_on(app, old, identity)
    # Those of Kubernetes and of Architect were driven away as well.
    eventually(lambda: release.is_ready(architect), what="Architect is ready again")


def test_a_pod_that_is_preempted_goes_on(architect: Cluster, namespace: str) -> None:
    requests = {"requests": {"cpu": "1200m", "memory": "32Mi"}}
    with workload(architect, namespace, "preempted", container={"resources": requests}) as app:
        (old,) = moves.pods(app)
        identity = str(moves.answer(app, old)["identity"])
        with important(architect, namespace, node=old["spec"]["nodeName"], cpu="1200m"):
            _goes_on(app, old, identity)
