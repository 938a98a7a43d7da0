"""Pods that lie in the object store, and whose successors come when a test says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from architect.api import names
from lab.cluster import Cluster
from support import moves
from support.moves import Pod
from support.patience import patient
from support.workloads import Workload, eventually

STORED_SECONDS: Final = patient(240.0)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Keeps a workload's new pods from all nodes; nobody else is kept from anything.

    By a label of the nodes that its pods select: those that run stay.
    """

    cluster: Cluster
    name: str

    @property
    def selector(self) -> dict[str, str]:
        """The pods' ``nodeSelector``."""
        return {self._label: "yes"}

    def open(self) -> None:
        """Let them come."""
        self.cluster.kubectl("label", "nodes", "--all", "--overwrite", f"{self._label}=yes")

    def close(self) -> None:
        """Let none come."""
        self.cluster.kubectl("label", "nodes", "--all", f"{self._label}-")

    @property
    def _label(self) -> str:
        return f"tests.architect.dev/{self.name}"


def leave(app: Workload, *, stored: str = "True") -> Pod:
    """Delete the workload's pod, which nothing can replace; return it once it is stored.

    Or once condition ``Stored`` is *stored*.
    """
    (old,) = moves.ready(app)
    app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
    eventually(
        lambda: moves.conditions(app, old).get("Stored", ("",))[0] == stored,
        what=f"whether the pod lies in the object store is said: {stored}",
        seconds=STORED_SECONDS,
    )
    return old


def lose_copy(app: Workload, old: Pod) -> None:
    """Remove what the node of *old* has of it."""
    node = app.cluster.node(old["spec"]["nodeName"])
    node.machine.exec(["rm", "-rf", f"{names.CHECKPOINTS}/{old['metadata']['uid']}"])
