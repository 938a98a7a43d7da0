"""What lives in other namespaces is known by its names; what has ended is not among it."""

from __future__ import annotations

import json
from pathlib import Path

from faults import nodeleaks


def container(root: Path, name: str, *, namespace: str, pid: int | None = 7) -> None:
    bundle = root / nodeleaks.BUNDLES / name
    bundle.mkdir(parents=True)
    annotations = {
        "io.kubernetes.cri.sandbox-namespace": namespace,
        "io.kubernetes.cri.sandbox-uid": f"uid-of-{namespace}",
        "io.kubernetes.cri.sandbox-id": f"sandbox-{namespace}",
    }
    (bundle / "config.json").write_text(json.dumps({"annotations": annotations}))
    if pid is not None:
        (bundle / "init.pid").write_text(str(pid))


def test_pods_of_other_namespaces_that_live_are_named(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    container(tmp_path, "daemon-1", namespace="architect")
    container(tmp_path, "ours-1", namespace="faults-x")
    container(tmp_path, "ended", namespace="gone", pid=8)
    container(tmp_path, "comes", namespace="new", pid=None)
    (tmp_path / nodeleaks.BUNDLES / "half").mkdir()
    found = nodeleaks.living(tmp_path, but="faults-x")
    assert found == {"daemon-1", "sandbox-architect", "uid-of-architect", "uid_of_architect"}


def test_a_node_without_containers_has_none(tmp_path: Path) -> None:
    assert nodeleaks.living(tmp_path, but="x") == frozenset()
