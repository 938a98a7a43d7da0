"""Upgrade and uninstall of the chart: last by its name, since it takes Architect away."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from architect.api import names
from architect.daemon import containerd
from lab import errors, release
from lab.cluster import Cluster
from lab.node import Node
from support import chart, nodefiles, parts
from support.tiers import IS_LONG
from support.workloads import BarePod, Workload, ask_runtime, bare_pod, eventually, workload

Values = dict[str, Any]
QUOTA = "daemon.images.quota=1Mi"
"""A changed value whose effect is seen: no image is so small, so no pod falls asleep."""
ONE_AT_A_TIME = "daemon.maxConcurrentSleeps=1"
CROWD = 4
SANDBOXED = {"runtimeClassName": names.RUNTIME_CLASS_GVISOR}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def values(architect: Cluster) -> Iterator[Values]:
    """Keep the values of the release; at the end it is installed with them, as it was found."""
    given = chart.values(architect)
    yield given
    chart.install(architect, given)


def test_an_upgrade_leaves_sleeping_pods_asleep_and_waking(
    architect: Cluster, theme: str, values: Values
) -> None:
    nodes = [node.name for node in architect.nodes]
    with (
        bare_pod(architect, theme, "first", node=nodes[0]) as first,
        bare_pod(architect, theme, "last", node=nodes[-1]) as last,
    ):
        before = {pod.name: pod.get()["identity"] for pod in (first, last)}
        for pod in (first, last):
            pod.sleep()
        since = {pod.name: pod.status()["since"] for pod in (first, last)}
        daemons = {name: parts.daemon_pod(architect, name)["metadata"]["uid"] for name in nodes}
        chart.install(architect, values, QUOTA)
        for name in nodes:
            assert parts.daemon_pod(architect, name)["metadata"]["uid"] != daemons[name]
        assert {pod.name: pod.status()["since"] for pod in (first, last)} == since
        for pod in (first, last):
            assert pod.get()["identity"] == before[pod.name]
            assert pod.restarts() == 0
    # And the changed value acts, and says so.
    with workload(architect, theme, "spacious", annotations={names.IDLE: "2s"}) as app:
        _is_awake_for_the_quota(app)


def _is_awake_for_the_quota(app: Workload) -> None:
    text = "of the quota of 1 MiB"
    eventually(lambda: text in app.why(), what="why names the quota")
    eventually(lambda: app.asleep_reason()[1] == "DiskSpace", what="condition DiskSpace")
    status, _, message = app.asleep_reason()
    assert status == "False"
    assert text in message
    assert app.state() == "awake"
    node = app.node().name
    eventually(
        lambda: (
            parts.daemon_numbers(app.cluster, node).value(
                "architect_awake_pods", reason="DiskSpace"
            )
            >= 1
        ),
        what="the metric counts it",
    )


if IS_LONG:  # two upgrades for one sentence of the reference

    def test_pods_that_are_idle_at_the_same_moment_fall_asleep_one_by_one(
        architect: Cluster, theme: str, values: Values
    ) -> None:
        chart.install(architect, values, QUOTA)
        node = architect.nodes[0].name
        with contextlib.ExitStack() as stack:
            pods = [
                stack.enter_context(
                    bare_pod(
                        architect, theme, f"crowd-{i}", node=node, annotations={names.IDLE: "5s"}
                    )
                )
                for i in range(CROWD)
            ]
            # The quota keeps them awake until a daemon comes that sees all of them at once.
            for pod in pods:
                _is_awake_for_the_quota(pod)
            chart.install(architect, values, ONE_AT_A_TIME)
            for pod in pods:
                _falls_asleep(pod)
            sleeps = sorted(_sleep_of(pod) for pod in pods)
            for (_, end), (begin, _) in itertools.pairwise(sleeps):
                assert end <= begin, sleeps


def _falls_asleep(pod: BarePod) -> None:
    eventually(lambda: pod.state() == "asleep", what=f"{pod.name} sleeps")


def _sleep_of(pod: BarePod) -> tuple[float, float]:
    """Return begin and end of the sleep's own work, by the node's clock."""
    status = pod.status()
    end, took = float(status["since"]), float(status["last_sleep_seconds"])
    return end - took, end


def test_an_uninstall_wakes_what_sleeps_and_everything_goes_on_without_architect(
    architect: Cluster, theme: str, values: Values
) -> None:
    with (
        workload(architect, theme, "sleeper", mebibytes=32) as sleeper,
        workload(architect, theme, "runner") as runner,
        bare_pod(architect, theme, "sandboxed", annotations={}, spec=SANDBOXED) as sandboxed,
    ):
        under_gvisor = sandboxed.get()["identity"]
        before = {app.name: app.get("/digest") for app in (sleeper, runner)}
        requests = sleeper.requests()
        sleeper.sleep()
        eventually(lambda: sleeper.requests() != requests, what="requests are lowered")
        release.uninstall(architect)
        _is_gone(architect)
        for app in (sleeper, runner):
            # Awake before anybody asked, and the API knows it.
            assert app.state() == "awake"
            _is_told(app, names.STATUS_RUNNING)
            _same(app, before[app.name])
            app.kubectl("exec", f"deploy/{app.name}", "--", "true")
            assert nodefiles.exists(app.node(), names.CURRENT / "MANIFEST.json")
        # So does a pod of gVisor, of which no keeper knows: its node keeps what it needs.
        assert sandboxed.kubectl("exec", sandboxed.name, "--", "uname", "-r").endswith("gvisor\n")
        assert nodefiles.exists(sandboxed.node(), names.CURRENT / "bin/runsc")
        assert _handlers(sandboxed.node()) == set(containerd.OURS)
        # In the spec at once; kubelet takes a moment to carry it out.
        spec = sleeper.pod()["spec"]["containers"][0]["resources"]["requests"]
        assert spec == requests
        eventually(lambda: sleeper.requests() == requests, what="requests are back")
        chart.install(architect, values)
        # The pods of before are managed again: the host never lost them.
        for app in (sleeper, runner):
            app.sleep()
            _is_told(app, names.STATUS_SCALED_DOWN)
            _same(app, before[app.name])
            assert app.restarts() == 0
        assert sandboxed.get()["identity"] == under_gvisor
        assert sandboxed.restarts() == 0


def test_the_runtime_leaves_a_node_without_managed_pods(
    architect: Cluster, theme: str, values: Values
) -> None:
    eventually(lambda: not _under_gvisor(architect), what="the pods of gVisor have ended")
    with bare_pod(architect, theme, "keeps", node=architect.nodes[0].name) as kept:
        identity = kept.get()["identity"]
        # Those of tests before may be about to end.
        eventually(lambda: not _ending(architect), what="no managed pod ends any more")
        managed = {n.name: ask_runtime(n, "list")["pods"] for n in architect.nodes}
        release.uninstall(architect)
        for node in architect.nodes:
            is_there = nodefiles.exists(node, names.CURRENT)
            assert is_there == bool(managed[node.name]), node.name
            assert _handlers(node) == (set(containerd.OURS) if is_there else set()), node.name
        assert kept.get()["identity"] == identity
        chart.install(architect, values)
        kept.sleep()
        assert kept.get()["identity"] == identity
        _sleeps_on_every_node(architect, theme)


def _ending(cluster: Cluster) -> set[str]:
    """Return the uids of managed pods of all nodes that are being deleted, or were."""
    items = json.loads(cluster.kubectl("get", "pods", "-A", "-o", "json"))["items"]
    living = {p["metadata"]["uid"] for p in items if "deletionTimestamp" not in p["metadata"]}
    managed = {pod["pod"] for node in cluster.nodes for pod in ask_runtime(node, "list")["pods"]}
    return managed - living


def _under_gvisor(cluster: Cluster) -> list[str]:
    """Return the records of living containers of gVisor."""
    return [
        name for node in cluster.nodes for name in nodefiles.listing(node, names.GVISOR_RECORDS)
    ]


def _handlers(node: Node) -> frozenset[str]:
    """Return which of our handlers containerd is configured with."""
    return containerd.handlers_of(node.exec(["containerd", "config", "dump"]))


def _sleeps_on_every_node(architect: Cluster, theme: str) -> None:
    for number, node in enumerate(architect.nodes):
        with bare_pod(architect, theme, f"again-{number}", node=node.name) as pod:
            identity = pod.get()["identity"]
            pod.sleep()
            assert pod.get()["identity"] == identity


def _is_gone(cluster: Cluster) -> None:
    left = cluster.kubectl(
        *("-n", release.NAMESPACE, "get", "deployments,daemonsets,services", "-o", "name")
    )
    assert left.split() == []
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        assert "architect" not in cluster.kubectl("get", kind, "-o", "name")
    with pytest.raises(errors.CommandFailed, match="not found"):
        cluster.helm("status", release.NAME, *chart.WHERE)
    # Kept, and said to be kept: managed pods still name their class, objects their kind.
    assert names.RUNTIME_CLASS in cluster.kubectl("get", "runtimeclasses", "-o", "name")
    assert "checkpoints.architect.dev" in cluster.kubectl("get", "crds", "-o", "name")


def _is_told(app: Workload, label: str) -> None:
    eventually(lambda: app.label() == label, what=f"label {label}")


def _same(app: Workload | BarePod, before: dict[str, object]) -> None:
    after = app.get("/digest")
    assert after["identity"] == before["identity"]
    assert after["digest"] == before["digest"]
