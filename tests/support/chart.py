"""The release in the cluster with other values: changed as a user does it, and put back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lab import dockerfiles, release
from lab.cluster import Cluster
from support import parts
from support.workloads import eventually

CHART: Final = dockerfiles.CHECKOUT / "charts" / "architect"
WHERE: Final = ("--namespace", release.NAMESPACE)
KINDS: Final = ("daemonset", "deployment")
ROLLOUT_SECONDS: Final = 240


def values(cluster: Cluster) -> dict[str, Any]:
    """Return the values that the release was installed with."""
    given = json.loads(cluster.helm("get", "values", release.NAME, *WHERE, "-o", "json"))
    return dict(given or {})


def install(
    cluster: Cluster,
    given: dict[str, Any],
    *settings: str,
    chart: Path = CHART,
    arguments: Sequence[str] = (),
    kinds: Sequence[str] = KINDS,
) -> None:
    """Install or upgrade *chart*, this checkout's if none is given, with these values alone.

    Wait for all pods of *kinds*.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "values.json")
        file.write_text(json.dumps(given))
        cluster.helm(
            *("upgrade", "--install", release.NAME, str(chart), *WHERE, "--create-namespace"),
            *("--reset-values", "-f", str(file), *_words(settings), *arguments),
        )
    await_rollouts(cluster, kinds)


def change(cluster: Cluster, *settings: str) -> None:
    """Upgrade the release with *settings* besides the values that it has; wait for every part."""
    cluster.helm(
        *("upgrade", release.NAME, str(CHART), *WHERE),
        *("--reset-then-reuse-values", *_words(settings)),
    )
    await_rollouts(cluster)


@contextmanager
def changed(cluster: Cluster, *settings: str) -> Iterator[None]:
    """Have the release with *settings* for a ``with`` block, and then as it was."""
    before = values(cluster)
    try:
        change(cluster, *settings)
        yield
    finally:
        install(cluster, before)


def _words(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def await_rollouts(cluster: Cluster, kinds: Sequence[str] = KINDS) -> None:
    """Return once all pods of *kinds* are the new ones, the others are gone, and all is ready.

    One that ends still answers, and an operator that leads until then tells its own numbers.
    """
    for kind in kinds:
        said = cluster.kubectl("-n", release.NAMESPACE, "get", kind, "-o", "name")
        for name in said.split():
            cluster.kubectl(
                *("-n", release.NAMESPACE, "rollout", "status", name),
                f"--timeout={ROLLOUT_SECONDS}s",
                timeout_seconds=ROLLOUT_SECONDS + 20,
            )
    eventually(lambda: not _ending(cluster), what="the pods of before are gone")
    parts.wait_until_ready(cluster)


def _ending(cluster: Cluster) -> list[str]:
    listed = json.loads(cluster.kubectl("-n", release.NAMESPACE, "get", "pods", "-o", "json"))
    return [
        pod["metadata"]["name"]
        for pod in listed["items"]
        if pod["metadata"].get("deletionTimestamp")
    ]
