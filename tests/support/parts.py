"""Architect's own parts in the cluster: keepers, daemons, their numbers; stopped and started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from architect.api import names
from lab import errors, release
from lab.cluster import Cluster
from lab.node import Node
from support.patience import patient
from support.workloads import DEADLINE_SECONDS, REQUEST_SECONDS, eventually

END_SECONDS: Final = 240.0
"""For one of our own pods to end; a daemon has two minutes by itself."""
KEEPER_COMM: Final = "architect-keeper"[:15]
"""As the kernel cuts it."""
DAEMON_PORT: Final = 9464
PEER_PORT: Final = 9465
PEER_DATA_PORT: Final = 9466
OPERATOR_PORT: Final = 8081
COMPONENT: Final = "app.kubernetes.io/component"
NOWHERE: Final = {"tests.architect.dev/nowhere": "true"}
"""A node selector that no node has: takes the daemon off every node."""


def keeper_pid(node: Node) -> int:
    """Return the keeper's pid in *node*, once there is exactly one."""

    def pids() -> list[str]:
        # pgrep exits with 1 where it finds none.
        return node.exec(["sh", "-c", f"pgrep -x {KEEPER_COMM} || true"]).split()

    found = eventually(lambda: p if len(p := pids()) == 1 else None, what="one keeper runs")
    return int(found[0])


def kill_keeper(node: Node, *, with_warden: bool = False) -> int:
    """Kill the keeper of *node* (and the parent that restarts it) at once; return its old pid."""
    pid = keeper_pid(node)
    pids = [pid]
    if with_warden:
        # The parent first, or it would start another keeper in between.
        pids.insert(0, int(node.exec(["ps", "-o", "ppid=", "-p", str(pid)])))
    node.exec(["kill", "-9", *map(str, pids)])
    return pid


def keeper_answers(node: Node) -> bool:
    """Whether the keeper of *node* answers."""
    said = node.exec([names.CURRENT / "bin" / "architect-runtime", "version", "-o", "json"])
    return json.loads(said)["keeper"] is not None


def keeper_log(node: Node, *, lines: int = 40) -> str:
    """Return the end of the keeper's log."""
    return node.exec(["tail", "-n", str(lines), names.RUN / "keeper.log"])


def daemon_pod(cluster: Cluster, node: str) -> dict[str, Any]:
    """Return the daemon's pod on *node*."""
    living = [
        pod
        for pod in pods(cluster, "daemon")
        if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]
    ]
    assert len(living) == 1, [p["metadata"]["name"] for p in living]
    return living[0]


def daemon_log(cluster: Cluster, node: str, *, seconds: int = 60) -> str:
    """Return what the daemon of *node* has logged within the last *seconds*."""
    name = daemon_pod(cluster, node)["metadata"]["name"]
    return cluster.kubectl("-n", release.NAMESPACE, "logs", name, f"--since={seconds}s")


def until_logged(node: Node, text: str) -> None:
    """Return as soon as the daemon of *node* has said *text*, by the log on its disk."""
    logs = f"/var/log/pods/{release.NAMESPACE}_{release.NAME}-daemon-*/*/*.log"
    wait = f'until grep -qsF "$0" {logs}; do sleep 0.02; done'
    node.exec(["sh", "-c", wait, text], timeout_seconds=DEADLINE_SECONDS)


class Numbers:
    """One scrape of a part's metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [s for f in text_string_to_metric_families(text) for s in f.samples]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples *name* that have *labels*; 0 if there is none."""
        return sum(
            s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items()
        )


def daemon_numbers(cluster: Cluster, node: str) -> Numbers:
    """Scrape the daemon of *node*, as Prometheus does: at its pod's address."""
    address = daemon_pod(cluster, node)["status"]["podIP"]
    return _scrape(cluster, f"http://{address}:{DAEMON_PORT}/metrics")


def operator_numbers(cluster: Cluster) -> Numbers:
    """Scrape the operator that works, once one does."""

    def found() -> Numbers | None:
        for pod in pods(cluster, "operator"):
            address = pod["status"].get("podIP")
            with suppress(errors.CommandFailed):  # it is starting, or ends
                numbers = _scrape(cluster, f"http://{address}:{OPERATOR_PORT}/metrics")
                if numbers.value("architect_operator_leader") == 1:
                    return numbers
        return None

    numbers: Numbers = eventually(found, what="an operator works")
    return numbers


def restart_operators(cluster: Cluster) -> None:
    """Replace all of them at once, and wait until another one works."""
    old = {pod["metadata"]["uid"] for pod in pods(cluster, "operator")}
    cluster.kubectl(
        *("-n", release.NAMESPACE, "delete", "pods", "-l", f"{COMPONENT}=operator"),
        timeout_seconds=END_SECONDS,
    )
    eventually(
        lambda: not old & {pod["metadata"]["uid"] for pod in pods(cluster, "operator")},
        what="the operators of before are gone",
    )
    operator_numbers(cluster)


def _scrape(cluster: Cluster, url: str) -> Numbers:
    said = cluster.in_control_plane(
        ["curl", "-sS", "-m", f"{REQUEST_SECONDS:g}", url], timeout_seconds=REQUEST_SECONDS + 30
    )
    return Numbers(said)


@contextmanager
def without_parts(cluster: Cluster) -> Iterator[None]:
    """Take daemon, operator and webhook away for the ``with`` block, then wait for them."""
    deployments = json.loads(
        cluster.kubectl("-n", release.NAMESPACE, "get", "deployments", "-o", "json")
    )["items"]
    replicas = {d["metadata"]["name"]: d["spec"]["replicas"] for d in deployments}
    set_daemon_selector(cluster, NOWHERE)
    try:
        for name in replicas:
            scale(cluster, name, 0)
        eventually(lambda: not pods(cluster), what="no pod of Architect's is left")
        yield
    finally:
        set_daemon_selector(cluster, dict.fromkeys(NOWHERE))
        for name, count in replicas.items():
            scale(cluster, name, count)
        wait_until_ready(cluster)


def set_daemon_selector(cluster: Cluster, selector: dict[str, Any]) -> None:
    """Add *selector* to the daemon's node selector; None removes a label."""
    patch = {"spec": {"template": {"spec": {"nodeSelector": selector}}}}
    name = f"{release.NAME}-daemon"
    cluster.kubectl(
        *("-n", release.NAMESPACE, "patch", "daemonset", name, "--type=merge"),
        *("-p", json.dumps(patch)),
    )


def scale(cluster: Cluster, deployment: str, replicas: int) -> None:
    """Set a Deployment's replicas."""
    cluster.kubectl(
        "-n", release.NAMESPACE, "scale", "deployment", deployment, f"--replicas={replicas}"
    )


WRONG: Final = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "wrong", "annotations": {names.IDLE: "soon"}},
    "spec": {"containers": [{"name": "app", "image": "localhost/py:3"}]},
}
"""What a webhook that answers refuses, and the API server does not."""
ANSWERS: Final = 4
"""Of the webhook, one after the other: the API server asks any of its pods that it believes in."""


def webhook_answers(cluster: Cluster) -> bool:
    """Whether the API server asks the webhook, and no pod of it that is not there any more.

    It hears of a webhook's pods later than that they are ready, and lets pods pass meanwhile.
    """
    words = ("create", "--dry-run=server", "-f", "-")
    for _ in range(ANSWERS):
        try:
            cluster.kubectl("-n", "default", *words, input=json.dumps(WRONG))
        except errors.CommandFailed as error:
            if names.IDLE in str(error):
                continue
        return False
    return True


def wait_until_ready(cluster: Cluster) -> None:
    """Return once every part is there and ready on every node, and the webhook answers."""

    def daemons() -> bool:
        # One that is being deleted is ready for a moment longer, and nobody's.
        living = [p for p in pods(cluster, "daemon") if "deletionTimestamp" not in p["metadata"]]
        return {p["spec"].get("nodeName") for p in living} == {n.name for n in cluster.nodes}

    def deployments() -> bool:
        said = cluster.kubectl("-n", release.NAMESPACE, "get", "deployments", "-o", "json")
        return all(
            d["spec"]["replicas"] == d["status"].get("readyReplicas", 0)
            for d in json.loads(said)["items"]
        )

    eventually(
        lambda: (
            daemons() and deployments() and release.is_ready(cluster) and webhook_answers(cluster)
        ),
        what="Architect is ready again",
        seconds=patient(300),
    )


def pods(cluster: Cluster, component: str | None = None) -> list[dict[str, Any]]:
    """Return the pods of the release, or of one component, ending ones included."""
    which = ("-l", f"{COMPONENT}={component}") if component else ()
    said = cluster.kubectl("-n", release.NAMESPACE, "get", "pods", "-o", "json", *which)
    found: list[dict[str, Any]] = json.loads(said)["items"]
    return found
