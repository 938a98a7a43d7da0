"""The chart in the cluster, upgraded: as a whole, or as far as one node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from architect.api import names
from lab import dockerfiles, otherrelease, release
from lab.cluster import Cluster
from lab.node import Node
from lab.otherrelease import OtherRelease
from support import parts
from support.workloads import ask_runtime, eventually

CHART: Final = dockerfiles.CHECKOUT / "charts" / "architect"
WHERE: Final = ("--namespace", release.NAMESPACE)
ROLLOUT_SECONDS: Final = 240
BY_HAND: Final = ("daemon.updateStrategy.type=OnDelete", "daemon.updateStrategy.rollingUpdate=null")
"""A node gets the new daemon when somebody deletes the old one's pod there."""


def values_of(cluster: Cluster, file: Path) -> Path:
    """Write the values of the release to *file*, and return it."""
    given = json.loads(cluster.helm("get", "values", release.NAME, *WHERE, "-o", "json"))
    file.write_text(json.dumps(given or {}))
    return file


def upgrade(
    cluster: Cluster,
    values: Path,
    *settings: str,
    chart: Path = CHART,
    arguments: Sequence[str] = (),
    kinds: Sequence[str] = ("daemonset", "deployment"),
) -> None:
    """Install or upgrade the chart and wait until all pods of *kinds* are the new ones."""
    words = [word for setting in settings for word in ("--set", setting)]
    cluster.helm(
        *("upgrade", "--install", release.NAME, str(chart), *WHERE, "--create-namespace"),
        *("--reset-values", "-f", str(values), *words, *arguments),
    )
    await_rollouts(cluster, kinds)


def await_rollouts(cluster: Cluster, kinds: Sequence[str] = ("daemonset", "deployment")) -> None:
    """Return once all pods of *kinds* are the new ones, and Architect is ready."""
    for kind in kinds:
        said = cluster.kubectl("-n", release.NAMESPACE, "get", kind, "-o", "name")
        for name in said.split():
            cluster.kubectl(
                *("-n", release.NAMESPACE, "rollout", "status", name),
                f"--timeout={ROLLOUT_SECONDS}s",
                timeout_seconds=ROLLOUT_SECONDS + 20,
            )
    parts.wait_until_ready(cluster)


def upgrade_one(cluster: Cluster, values: Path, other: OtherRelease, node: Node) -> None:
    """Upgrade operator, webhook and the daemon of *node* to *other*: a rollout, half way."""
    images = otherrelease.architect(cluster.cache, other)
    chart = otherrelease.sources(cluster.cache, other) / "charts/architect"
    arguments = release.load(cluster, images)
    upgrade(cluster, values, *BY_HAND, chart=chart, arguments=arguments, kinds=["deployment"])
    daemon = parts.daemon_pod(cluster, node.name)["metadata"]["name"]
    cluster.kubectl("-n", release.NAMESPACE, "delete", "pod", daemon, "--wait=true")
    eventually(lambda: runs(node, other.version), what=f"{node.name} runs {other.version}")
    parts.wait_until_ready(cluster)


def runs(node: Node, version: str) -> bool:
    """Whether bundle and keeper of *node* are of *version*."""
    told = ask_runtime(node, "version")
    return bool(told["bundle"] == told["keeper"] == version)


def installed_init(node: Node) -> str:
    """Return the SHA-256 of the init that new containers of *node* get."""
    return node.exec(["cat", names.CURRENT / "init.sha256"]).strip()
