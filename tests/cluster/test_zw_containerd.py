"""A cluster in which one node has the next containerd: pods sleep there, and move both ways.

The node's machine is made anew for it, and once more afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator

import pytest

from architect.api import names
from architect.daemon import containerd
from lab import versions
from lab.cluster import Cluster
from lab.node import Node
from support import moves, spotnodes
from support.workloads import eventually, workload

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

MINOR = ".".join(versions.CONTAINERD.removeprefix("v").split(".")[:2])


@pytest.fixture(scope="module")
def newer(architect: Cluster) -> Iterator[Node]:
    name, count = architect.nodes[-1].name, len(architect.nodes)
    settings = architect.settings
    try:
        architect.settings = dataclasses.replace(settings, containerd=MINOR)
        architect.end_node(name)
        spotnodes.replace(architect, count)
        yield architect.node(name)
    finally:
        architect.settings = settings
        architect.end_node(name)
        spotnodes.replace(architect, count)


def engine_of(cluster: Cluster, node: Node) -> str:
    """Return what kubelet says of a node's engine."""
    found = json.loads(cluster.kubectl("get", "node", node.name, "-o", "json"))
    return str(found["status"]["nodeInfo"]["containerRuntimeVersion"])


@contextlib.contextmanager
def only(cluster: Cluster, node: Node) -> Iterator[None]:
    """Let new pods come to *node* only."""
    others = [other.name for other in cluster.nodes if other.name != node.name]
    try:
        cluster.kubectl("cordon", *others)
        yield
    finally:
        cluster.kubectl("uncordon", *others)


def test_the_daemon_has_told_it_of_the_runtime(architect: Cluster, newer: Node) -> None:
    assert engine_of(architect, newer).startswith(f"containerd://{MINOR}.")
    assert f"{MINOR}." not in engine_of(architect, architect.nodes[0])
    dump = newer.exec(["containerd", "config", "dump"])
    assert names.RUNTIME_CLASS in containerd.handlers_of(dump)


def test_an_idle_pod_sleeps_wakes_and_outlives_its_restart(
    architect: Cluster, newer: Node, namespace: str
) -> None:
    with (
        only(architect, newer),
        workload(architect, namespace, "idle", annotations={names.IDLE: "3s"}) as app,
    ):
        assert app.node().name == newer.name
        before, requests = app.get("/digest"), app.requests()
        eventually(lambda: app.label() == names.STATUS_SCALED_DOWN, what="the label SCALED_DOWN")
        eventually(lambda: app.requests()["memory"] == "1Ki", what="requests are lowered")
        old = newer.containerd.pid
        newer.containerd.restart()
        eventually(lambda: newer.containerd.pid not in (None, old), what="containerd runs again")
        eventually(lambda: architect.status()["nodes"][newer.name], what="the node is Ready")
        after = app.get_when_reachable("/digest")
        assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
        eventually(lambda: app.requests() == requests, what="requests are back")
        assert app.restarts() == 0
        app.kubectl("exec", "deploy/idle", "--", "true")


@pytest.mark.parametrize("is_asleep", [False, True], ids=["awake", "asleep"])
def test_a_pod_moves_to_the_other_containerd_and_back(
    architect: Cluster, newer: Node, namespace: str, is_asleep: bool
) -> None:
    older = architect.nodes[0]
    with contextlib.ExitStack() as stack:
        with only(architect, older):
            app = stack.enter_context(workload(architect, namespace, "moves", mebibytes=24))
        before = app.get("/digest")
        for target in (newer, older):
            if is_asleep:
                app.sleep()
            old = app.pod()
            with moves.alone(app, target.name), moves.draining(app, old["spec"]["nodeName"]):
                (new,) = moves.ready(app, apart_from=[old])
            assert new["spec"]["nodeName"] == target.name
            after = moves.answer(app, new, "/digest")
            assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
            assert app.restarts() == 0
