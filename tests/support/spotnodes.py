"""A node of the cluster that is a spot machine for a while, and what is said as its end comes."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from architect.core import interruption
from architect.core.interruption import Interruption
from lab import dockerfiles, release, spot
from lab.cluster import Cluster
from lab.node import Node
from lab.spot import Countdown, Metadata
from support import parts
from support.workloads import eventually

GONE_SECONDS: Final = 300
"""For the pods of a machine that is gone to be where they go on: its silence is waited for first,
for as long as Kubernetes does."""


@dataclass(frozen=True, kw_only=True)
class SpotNode:
    """A node whose cloud may take it back."""

    cluster: Cluster
    node: Node
    service: Metadata
    since: float
    """When it became one, in Unix seconds: nodes of one name have events of earlier tests."""

    @property
    def name(self) -> str:
        return self.node.name

    def object(self) -> dict[str, Any]:
        """Return the Node object."""
        found: dict[str, Any] = json.loads(
            self.cluster.kubectl("get", "node", self.name, "-o", "json")
        )
        return found

    def interruption(self) -> Interruption | None:
        """Return what its annotation says."""
        return interruption.of_node(self.object())

    def taints(self) -> dict[str, str]:
        """Return key to value of its taints that are ours."""
        found = self.object()["spec"].get("taints", [])
        return {t["key"]: t.get("value", "") for t in found if t["key"].startswith(names.GROUP)}

    def is_schedulable(self) -> bool:
        return not self.object()["spec"].get("unschedulable", False)

    def is_marked(self) -> bool:
        """Whether everybody can see that its machine ends: no pod comes to it any more."""
        said = self.interruption()
        return said is not None and names.INTERRUPTION in self.taints()

    def events(self, reason: str) -> list[str]:
        """Return the messages of the node's events with *reason* from our daemon."""
        listed = json.loads(self.cluster.kubectl("get", "events", "-A", "-o", "json"))["items"]
        return [
            str(event["message"])
            for event in listed
            if event["involvedObject"].get("kind") == "Node"
            and event["involvedObject"].get("name") == self.name
            and event["reason"] == reason
            and told_at(event) >= self.since
        ]

    def plan(self, seconds: float) -> dict[str, dict[str, Any]]:
        """Return what it says would become of each pod, by ``namespace/name``."""
        said = json.loads(spot.plan(self.cluster, self.node, seconds=seconds))
        return {str(pod["name"]): pod for pod in said["pods"]}

    def countdown(self, seconds: float | None = None) -> Any:
        """Give notice of its end, for a ``with`` block: :func:`lab.spot.countdown`."""
        return spot.countdown(self.cluster, self.node, self.service, seconds)

    def wait_until_marked(self) -> None:
        eventually(self.is_marked, what=f"{self.name} says that its machine ends")

    def wait_until_unmarked(self) -> None:
        """Return once nothing is said any more, and pods may come again."""
        eventually(
            lambda: (
                self.interruption() is None
                and names.INTERRUPTION not in self.taints()
                and self.is_schedulable()
            ),
            what=f"{self.name} is as it was before the notice",
        )


@contextmanager
def spot_node(
    cluster: Cluster, *, node: Node | None = None, cloud: str = "aws"
) -> Iterator[SpotNode]:
    """Have a node, the last one by default, be a spot machine of *cloud* for the ``with`` block.

    Afterwards it is as all others, or there is a new one in its place.
    """
    chosen = node or cluster.nodes[-1]
    count = len(cluster.nodes)
    since = time.time()
    try:
        with spot.metadata(chosen.machine, cloud) as service:
            spot.become_known(cluster, chosen, cloud)
            yield SpotNode(cluster=cluster, node=chosen, service=service, since=since)
            if chosen.machine.pid is not None:
                service.withdraw()
    finally:
        if chosen.machine.pid is None:
            replace(cluster, count)
        else:
            put_back(cluster, chosen.name)


def renew_daemon(cluster: Cluster, node: str) -> None:
    """Replace the daemon of *node*: one that runs looks for its cloud every few minutes only."""
    pod = parts.daemon_pod(cluster, node)["metadata"]["name"]
    cluster.kubectl(
        "-n", release.NAMESPACE, "delete", "pod", pod, timeout_seconds=parts.END_SECONDS
    )
    parts.wait_until_ready(cluster)


def replace(cluster: Cluster, count: int) -> None:
    """Add a machine in the place of one that has ended, as a node group does, with Architect."""
    before = {node.name for node in cluster.nodes}
    cluster.up(count)
    for node in cluster.nodes:
        if node.name not in before:
            for image in dockerfiles.architect(cluster.cache):
                node.load_image(image.archive)
            # What has not found its image would look for it again later and later.
            cluster.kubectl(
                *("-n", release.NAMESPACE, "delete", "pods", "--force", "--grace-period=0"),
                f"--field-selector=spec.nodeName={node.name}",
            )
    parts.wait_until_ready(cluster)


def put_back(cluster: Cluster, node: str) -> None:
    """Have nothing be said of the node any more, whatever a test has left."""
    renew_daemon(cluster, node)
    cluster.kubectl("annotate", "node", node, f"{names.INTERRUPTION}-")
    found = json.loads(cluster.kubectl("get", "node", node, "-o", "json"))
    for taint in found["spec"].get("taints", []):
        if taint["key"] == names.INTERRUPTION:
            cluster.kubectl("taint", "node", node, f"{taint['key']}:{taint['effect']}-")
    cluster.kubectl("uncordon", node)


def told_at(event: dict[str, Any]) -> float:
    """Return when an event was told first, in Unix seconds."""
    text = event.get("eventTime") or event.get("firstTimestamp") or event["lastTimestamp"]
    return datetime.datetime.fromisoformat(text).timestamp()


def is_gone(countdown: Countdown) -> bool:
    """Whether the machine has ended, as it was announced or before."""
    return countdown.ended is not None and countdown.node.machine.pid is None
