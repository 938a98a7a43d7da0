"""Where a fault is tried: a real node, of which whoever opens a file can be stopped."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from architect.api import names
from architect.core import wire
from architect.core.errors import Unavailable
from faults.gate import Gate, Held, Matches
from lab.cluster import Cluster
from lab.node import Node
from lab.patience import patient

DEADLINE_SECONDS: Final = patient(120.0)


@dataclass
class Place:
    """Where a fault is tried: one node, one namespace of the API."""

    cluster: Cluster
    node: Node
    namespace: str
    disk: Gate
    run: Gate
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def root(self) -> Path:
        """The node's root, as we see it."""
        return self.root_of(self.node)

    @staticmethod
    def root_of(node: Node) -> Path:
        """The root of *node*, as we see it."""
        return Path(f"/proc/{node.machine.running_pid}/root")

    def send(self, op: str, uid: str) -> None:
        """Ask the keeper for something and do not wait for its answer."""
        path = self.root / str(names.KEEPER_SOCKET).lstrip("/")
        with suppress(Unavailable), wire.Client(path, timeout_seconds=30.0) as client:
            client.send(op, pod=uid, patience_seconds=5.0, reason="test", force=True)

    def hold(self, gate: Gate, matches: Matches) -> Held:
        """Stop whoever *matches*, until :meth:`go_on`."""
        return self._stack.enter_context(gate.holding(matches))

    def go_on(self) -> None:
        """Let go of whoever waits."""
        self._stack.close()

    def managed(self, path: str) -> bool:
        """Whether the directory of the lower runtime's *path* is of a managed container."""
        identity = Path(path).parent.name
        record = names.CONTAINER_RECORDS / f"{identity}.json"
        return os.path.exists(self.root / str(record).lstrip("/"))


@contextmanager
def opened(cluster: Cluster, node: Node) -> Iterator[Place]:
    """A place of which nothing is left afterwards."""
    namespace = f"faults-{uuid.uuid4().hex[:8]}"
    root = Path(f"/proc/{node.machine.running_pid}/root")
    cluster.kubectl("create", "namespace", namespace)
    with ExitStack() as stack:
        stack.callback(
            cluster.kubectl, "delete", "namespace", namespace, "--wait=false", timeout_seconds=60
        )
        disk = Gate(root / "var/lib", is_mount_alone=True)
        stack.callback(disk.close)
        run = Gate(root / "run", is_mount_alone=True)
        stack.callback(run.close)
        yield Place(cluster=cluster, node=node, namespace=namespace, disk=disk, run=run)
