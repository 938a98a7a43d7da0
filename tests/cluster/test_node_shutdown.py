"""A node that shuts down gracefully: pods that are replaced go on, the others get their signal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from architect.api import names
from lab import release, shutdown
from lab.cluster import Cluster
from lab.node import Node
from lab.shutdown import Shutdowns
from support import moves, parts
from support.moves import Pod
from support.tiers import sized
from support.workloads import (
    Workload,
    apply,
    code,
    eventually,
    memory_server,
    pod_template,
)

pytestmark = pytest.mark.timeout(900)

END_SECONDS: Final = 120
"""How long kubelet may take to end all pods of a node; it is configured to take half of that."""

READY: Final = (
    "jsonpath={range .items[*]}{.metadata.name}="
    '{.status.conditions[?(@.type=="Ready")].status} {end}'
)

TELLS: Final = [
    "sh",
    "-c",
    "trap 'echo got TERM; exit 0' TERM; echo ready; while :; do sleep 0.1; done",
]


@contextmanager
def going_down(cluster: Cluster, node: Node) -> Iterator[Shutdowns]:
    """Have *node* ready to shut down for the ``with`` block; afterwards all is as before."""
    count = len(cluster.nodes)
    with shutdown.graceful(node) as shutdowns:
        try:
            yield shutdowns
        finally:
            if node.machine.pid is not None and shutdowns.is_under_way():
                kubelet_is_done(shutdowns)
                shutdowns.take_back()
                # Its lock says nothing: kubelet 1.36 closes what it takes after a shutdown that was
                # taken back, where that has the number of the one before.
                eventually(
                    lambda: f"{node.name}=True" in cluster.kubectl("get", "nodes", "-o", READY),
                    what=f"{node.name} is back",
                )
    if node.machine.pid is None:
        cluster.up(count)
        release.install(cluster)
    for namespace in (release.NAMESPACE, "kube-system"):
        forget_the_ended(cluster, namespace)
    parts.wait_until_ready(cluster)


def kubelet_is_done(shutdowns: Shutdowns) -> None:
    eventually(
        lambda: "kubelet" not in shutdowns.holders(),
        what="kubelet has ended the node's pods",
        seconds=END_SECONDS,
    )


def forget_the_ended(cluster: Cluster, namespace: str) -> None:
    """Remove the pods that kubelet has ended, which stay until somebody does."""
    for phase in ("Failed", "Succeeded"):
        which = f"--field-selector=status.phase={phase}"
        cluster.kubectl("-n", namespace, "delete", "pods", which)


def teller(kind: str, name: str) -> dict[str, Any]:
    """Return a workload, or a bare pod, that tells of its signal."""
    container = memory_server(command=TELLS, readinessProbe=None)
    template = pod_template(name, [container], spec={"terminationGracePeriodSeconds": 30})
    if kind == "Pod":
        template["metadata"]["name"] = name
        return {"apiVersion": "v1", "kind": kind, **template}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def counters(kind: str, name: str, *, replicas: int = 2) -> dict[str, Any]:
    """Return a workload whose pods have counters in memory."""
    spec: dict[str, Any] = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": pod_template(name, [memory_server()]),
    }
    if kind == "StatefulSet":
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def on(node: Node, pods: list[Pod]) -> Pod:
    (found,) = [pod for pod in pods if pod["spec"]["nodeName"] == node.name]
    return found


def test_pods_that_are_replaced_go_on_and_the_others_get_their_signal(
    architect: Cluster, namespace: str
) -> None:
    node = architect.nodes[-1]
    deployed, stateful, bare, every = (
        Workload(cluster=architect, namespace=namespace, name=name)
        for name in ("deployed", "stateful", "bare", "every")
    )
    with going_down(architect, node) as shutdowns:
        with moves.alone(deployed, node.name):
            apply(
                deployed,
                *(code(app.name) for app in (deployed, stateful, bare, every)),
                counters("Deployment", "deployed"),
                counters("StatefulSet", "stateful"),
                teller("Pod", "bare"),
                teller("DaemonSet", "every"),
            )
            old = {app: moves.ready(app, 2) for app in (deployed, stateful)}
            before = {app: moves.identities(app, pods) for app, pods in old.items()}
            (its_bare,) = moves.ready(bare, 1)
            its_every = on(node, moves.ready(every, len(architect.nodes)))
        with (
            moves.said(bare, its_bare, after="ready") as of_bare,
            moves.said(every, its_every, after="ready") as of_every,
        ):
            shutdowns.begin()
        assert (of_bare, of_every) == (["ready", "got TERM"], ["ready", "got TERM"])
        for app, left in old.items():
            new = moves.ready(app, 2, apart_from=left)
            assert node.name not in {pod["spec"]["nodeName"] for pod in new}
            assert moves.identities(app, new) == before[app]
            for pod in left:
                assert moves.ended(app, pod)["Restored"] == ("True", "Restored")
                checkpoint = moves.checkpoint(app, pod)
                assert checkpoint is not None
                assert checkpoint["spec"]["trigger"] == "NodeShutdown"
                by = checkpoint["status"]["claimedBy"]["name"]
                assert app is deployed or by == pod["metadata"]["name"], "each ordinal its own"
        kubelet_is_done(shutdowns)
        uids = {p["metadata"]["uid"] for p in old[deployed]}

        def over() -> list[Pod]:
            """Their owner has replaced them, and nobody deletes them; kubelet tells it late."""
            failed = deployed.get_json("pods", labels="app=deployed", fields="status.phase=Failed")[
                "items"
            ]
            left = [p for p in failed if "deletionTimestamp" not in p["metadata"]]
            return left if uids <= {p["metadata"]["uid"] for p in left} else []

        for pod in eventually(over, what="the pods that kubelet has ended are there"):
            said = pod["metadata"]["annotations"]
            assert names.ORIGINAL_REQUESTS not in said, "they were saved, and did not fall asleep"
    for app in (deployed, stateful):
        assert moves.identities(app, moves.ready(app, 2)) == before[app]
    assert moves.ready(every, len(architect.nodes))
    forget_the_ended(architect, namespace)
    moves.nothing_left(deployed, [pod for pods in old.values() for pod in pods])


@pytest.mark.long
@pytest.mark.parametrize("lost", sized(["the daemon"], ["the daemon", "the machine"]))
def test_what_nobody_has_fetched_in_time_lies_in_the_object_store(
    architect: Cluster, namespace: str, lost: str
) -> None:
    """The daemon ends last, and not before: pods go on once there is a place for them."""
    node = architect.nodes[-1]
    app = Workload(cluster=architect, namespace=namespace, name="late")
    with going_down(architect, node) as shutdowns:
        with moves.alone(app, node.name):
            apply(app, code(app.name), counters("Deployment", app.name, replicas=1))
            (old,) = moves.ready(app)
            before = moves.identities(app, [old])
            shutdowns.begin()
            kubelet_is_done(shutdowns)
            assert moves.conditions(app, old)["Stored"] == ("True", "Stored")
            if lost == "the machine":
                node.machine.destroy()
        (new,) = moves.ready(app, apart_from=[old], seconds=300)
        assert new["spec"]["nodeName"] != node.name
        assert moves.identities(app, [new]) == before
        assert moves.ended(app, old)["Restored"] == ("True", "Restored")
