"""A cluster that is upgraded as far as one node."""

from __future__ import annotations

from typing import Any, Final

from architect.api import names
from lab import otherrelease, release
from lab.cluster import Cluster
from lab.node import Node
from lab.otherrelease import OtherRelease
from support import chart, parts
from support.workloads import ask_runtime, eventually

BY_HAND: Final = ("daemon.updateStrategy.type=OnDelete", "daemon.updateStrategy.rollingUpdate=null")
"""A node gets the new daemon when somebody deletes the old one's pod there."""


def upgrade_one(cluster: Cluster, values: dict[str, Any], other: OtherRelease, node: Node) -> None:
    """Upgrade operator, webhook and the daemon of *node* to *other*: a rollout, half way."""
    images = otherrelease.architect(cluster.cache, other)
    chart.install(
        cluster,
        values,
        *BY_HAND,
        chart=otherrelease.sources(cluster.cache, other) / "charts/architect",
        arguments=release.load(cluster, images),
        kinds=["deployment"],
    )
    daemon = parts.daemon_pod(cluster, node.name)["metadata"]["name"]
    cluster.kubectl(
        *("-n", release.NAMESPACE, "delete", "pod", daemon, "--wait=true"),
        timeout_seconds=parts.END_SECONDS,
    )
    eventually(lambda: runs(node, other.version), what=f"{node.name} runs {other.version}")
    parts.wait_until_ready(cluster)


def runs(node: Node, version: str) -> bool:
    """Whether bundle and keeper of *node* are of *version*."""
    told = ask_runtime(node, "version")
    return bool(told["bundle"] == told["keeper"] == version)


def installed_init(node: Node) -> str:
    """Return the SHA-256 of the init that new containers of *node* get."""
    return node.exec(["cat", names.CURRENT / "init.sha256"]).strip()
