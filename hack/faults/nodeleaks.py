"""A node of the cluster as :mod:`.leaks` sees it, by the node's own Python."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from architect.api import names
from faults import leaks
from lab.machine import Machine

SCOPE: Final = leaks.Scope(
    mounts_of=(1,),
    directories=(str(names.RUN), str(names.PODS), str(names.ARRIVALS), "/run/containerd/runc"),
    paths=("architect", "kubelet/pods", "containerd"),
    cgroup_names="pod",
)

MADE_ONCE: Final = ("containers", "unmanaged", "gvisor")
"""Directories of the node's, made with its first container of a kind: they stay."""
BUNDLES: Final = Path("run/containerd/io.containerd.runtime.v2.task/k8s.io")
"""Containerd's, below a node's root: a directory for each container and sandbox."""
_ANNOTATION: Final = "io.kubernetes.cri.sandbox-"


def snapshot(machine: Machine) -> leaks.Snapshot:
    """Return what there is in *machine*. Raises CommandFailed."""
    program = Path(leaks.__file__).read_text()
    said = machine.exec(["/usr/bin/python3", "-S", "-c", program], input=leaks.to_json(SCOPE))
    found: leaks.Snapshot = json.loads(said)
    for name in MADE_ONCE:
        found["files"].pop(f"/{name} in {names.RUN}", None)
    return found


def living(root: Path, *, but: str) -> frozenset[str]:
    """Return what names the pods, sandboxes and containers that live below the node's *root*.

    Those of namespace *but* are left out. What is made anew while something is tried, Architect's
    own pods above all, is no leak of what is tried.
    """
    found: set[str] = set()
    for bundle in (root / BUNDLES).glob("*"):
        with suppress(OSError, ValueError):  # it goes, or comes
            pid = int((bundle / "init.pid").read_text())
            told = json.loads((bundle / "config.json").read_text()).get("annotations") or {}
            if os.path.exists(root / "proc" / str(pid)) and told.get(f"{_ANNOTATION}namespace"):
                if told[f"{_ANNOTATION}namespace"] == but:
                    continue
                uid = str(told.get(f"{_ANNOTATION}uid") or bundle.name)
                sandbox = str(told.get(f"{_ANNOTATION}id") or bundle.name)
                # Systemd's slices have the uid with other signs in it.
                found |= {bundle.name, sandbox, uid, uid.replace("-", "_")}
    return frozenset(found)
