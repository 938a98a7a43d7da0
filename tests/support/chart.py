"""The release in the cluster with other values: changed as a user does it, and put back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lab import dockerfiles, release
from lab.cluster import Cluster
from support import parts

CHART: Final = dockerfiles.CHECKOUT / "charts" / "architect"
WHERE: Final = ("--namespace", release.NAMESPACE)


def values(cluster: Cluster) -> dict[str, Any]:
    """Return the values that the release was installed with."""
    given = json.loads(cluster.helm("get", "values", release.NAME, *WHERE, "-o", "json"))
    return dict(given or {})


def install(cluster: Cluster, given: dict[str, Any], *settings: str) -> None:
    """Install or upgrade this checkout's chart with these values alone; wait for every part."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "values.json")
        file.write_text(json.dumps(given))
        _upgrade(
            cluster,
            *("--install", "--create-namespace", "--reset-values", "-f", str(file)),
            *_words(settings),
        )


def change(cluster: Cluster, *settings: str) -> None:
    """Upgrade the release with *settings* besides the values that it has; wait for every part."""
    _upgrade(cluster, "--reset-then-reuse-values", *_words(settings))


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


def _upgrade(cluster: Cluster, *arguments: str) -> None:
    cluster.helm("upgrade", release.NAME, str(CHART), *WHERE, *arguments)
    for kind in ("daemonset", "deployment"):
        said = cluster.kubectl("-n", release.NAMESPACE, "get", kind, "-o", "name")
        for name in said.split():
            cluster.kubectl(
                *("-n", release.NAMESPACE, "rollout", "status", name, "--timeout=240s"),
                timeout_seconds=260,
            )
    parts.wait_until_ready(cluster)
