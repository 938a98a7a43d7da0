"""A spot node tells what its notice would save, and ``architect-spot`` shows it.

The notice is so short that a small pod fits and a large one does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from architect.api import names
from lab import release
from lab.cluster import Cluster
from support import chart
from support.workloads import Workload, eventually, workload

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

NOTICE_SECONDS = 12
LARGE_MIB = 700
"""Neither this machine nor the defaults dump, seal and send it in the 7 s that can be used."""


@pytest.fixture(scope="module")
def spot(architect: Cluster) -> Iterator[Cluster]:
    """Have every node be one that is taken back."""
    with chart.changed(architect, "spot.lookAhead=always", f"spot.noticeSeconds={NOTICE_SECONDS}"):
        yield architect
    eventually(
        lambda: not any(needs(architect, node.name) for node in architect.nodes),
        what="nodes that are not taken back say nothing any more",
        seconds=240,
    )


@pytest.fixture(scope="module")
def pair(spot: Cluster, theme: str) -> Iterator[tuple[Workload, Workload]]:
    """A small pod and a large one, on one node."""
    node = spot.nodes[0].name
    with (
        workload(spot, theme, "small", node=node) as small,
        workload(spot, theme, "large", mebibytes=LARGE_MIB, node=node) as large,
    ):
        yield small, large


def needs(cluster: Cluster, node: str) -> dict[str, Any]:
    """Return what a node's annotation says; nothing without one."""
    found = json.loads(cluster.kubectl("get", "node", node, "-o", "json"))
    text = (found["metadata"].get("annotations") or {}).get(names.SPOT_NEEDS)
    return dict(json.loads(text)) if text else {}


def daemon(cluster: Cluster, node: str) -> str:
    found = cluster.kubectl(
        *("-n", release.NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/component=daemon"),
        *("--field-selector", f"spec.nodeName={node}", "-o", "jsonpath={.items[0].metadata.name}"),
    )
    return found.strip()


def proxied(cluster: Cluster, node: str, path: str) -> str:
    where = f"{daemon(cluster, node)}:9464"
    return cluster.kubectl(
        *("get", "--raw"),
        f"/api/v1/namespaces/{release.NAMESPACE}/pods/{urllib.parse.quote(where)}/proxy{path}",
    )


def command(cluster: Cluster, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run ``architect-spot`` as a user with a kubeconfig does."""
    return subprocess.run(
        [sys.executable, "-m", "architect.daemon.spot.command", *argv],
        env=cluster.client_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def row(table: str, app: Workload) -> str:
    name = f"{app.namespace}/{app.pod_name()} "
    (found,) = [line for line in table.splitlines() if line.startswith(name)]
    return found


def test_the_node_says_who_is_lost(pair: tuple[Workload, Workload]) -> None:
    cluster, node = pair[0].cluster, pair[0].node().name

    def is_told() -> dict[str, Any]:
        found = needs(cluster, node)
        return found if found.get("misfits", {}).get("TooLarge") else {}

    said = eventually(is_told, what="the annotation has the pod that is too large", seconds=150)
    assert said["noticeSeconds"] == NOTICE_SECONDS
    assert said["neededSeconds"] > NOTICE_SECONDS
    assert said["pods"] >= 2
    assert said["bytes"] > LARGE_MIB << 20
    metrics = proxied(cluster, node, "/metrics")
    values = dict(
        line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("architect_spot_")
    )
    assert float(values["architect_spot_notice_seconds"]) == NOTICE_SECONDS
    assert float(values["architect_spot_needed_seconds"]) > NOTICE_SECONDS
    assert float(values['architect_spot_misfits{reason="TooLarge"}']) >= 1
    assert float(values['architect_spot_pods{verdict="saved"}']) >= 1


def test_the_pod_that_is_lost_is_told_so_once(pair: tuple[Workload, Workload]) -> None:
    small, large = pair

    def events(app: Workload) -> list[dict[str, Any]]:
        found = app.get_json("events", fields=f"reason={names.EVENT_WOULD_BE_LOST}")
        return [e for e in found["items"] if e["involvedObject"]["uid"] == app.uid()]

    eventually(lambda: events(large), what="an event on the pod that is too large")
    (event,) = events(large)
    assert event["type"] == "Warning"
    assert f"notice of {NOTICE_SECONDS} s" in event["message"]
    assert "TooLarge: alone it would take" in event["message"]
    assert " s more" in event["message"]
    assert events(small) == []


def test_the_plan_of_a_node_is_shown_to_whoever_may_ask(pair: tuple[Workload, Workload]) -> None:
    small, large = pair
    cluster, node = small.cluster, small.node().name
    shown = command(cluster, "plan", node)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"node {node}: {NOTICE_SECONDS - 5} s can be used; all ")
    assert row(shown.stdout, small).endswith(" s")
    assert "does not fit: TooLarge: " in row(shown.stdout, large)
    later = command(cluster, "plan", node, "--deadline", "10m", "--output", "json")
    assert later.returncode == 0, later.stderr
    value = json.loads(later.stdout)
    found = {pod["name"]: pod for pod in value["pods"]}[f"{large.namespace}/{large.pod_name()}"]
    assert (found["verdict"], found["state"]) == ("saved", "awake")
    # The memory that was filled, the interpreter's and little else.
    assert LARGE_MIB << 20 < found["bytes"] < (LARGE_MIB + 100) << 20
    all_of_them = command(cluster, "plan")
    assert all_of_them.returncode == 0, all_of_them.stderr
    for each in cluster.nodes:
        assert f"node {each.name}: " in all_of_them.stdout


def test_beside_a_daemon_it_tells_of_its_node(pair: tuple[Workload, Workload]) -> None:
    cluster, node = pair[0].cluster, pair[0].node().name
    run = ("-n", release.NAMESPACE, "exec", daemon(cluster, node), "--", "architect-spot", "plan")
    assert "does not fit: TooLarge: " in row(cluster.kubectl(*run), pair[1])
    anyone = cluster.kubectl(
        *("-n", release.NAMESPACE, "exec", "ds/architect-daemon", "--", "architect-spot", "plan")
    )
    assert anyone.startswith("node ")


def test_a_sleeping_pod_is_planned_with_its_image(pair: tuple[Workload, Workload]) -> None:
    small, _ = pair
    small.sleep()
    shown = command(small.cluster, "plan", small.node().name)
    assert "  asleep  " in row(shown.stdout, small)


def test_who_is_not_there_or_may_not_be_asked_is_named(pair: tuple[Workload, Workload]) -> None:
    cluster, node = pair[0].cluster, pair[0].node().name
    nobody = command(cluster, "plan", "no-such-node")
    assert nobody.returncode == 2
    assert "there is no node no-such-node" in nobody.stderr
    # A daemon's own rights are no others for this: it may not ask another daemon so.
    (other,) = [n.name for n in cluster.nodes if n.name != node][:1]
    forbidden = cluster.kubectl(
        *("-n", release.NAMESPACE, "exec", daemon(cluster, node), "--", "sh", "-c"),
        f"architect-spot plan {other} 2>&1; echo status $?",
    )
    assert "you may not ask pods by way of the API server" in forbidden
    assert f"kubectl exec -n {release.NAMESPACE} {daemon(cluster, other)}" in forbidden
    assert forbidden.rstrip().endswith("status 2")
