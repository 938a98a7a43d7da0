"""Where the measures happen: a node with pods, a client elsewhere, a machine for the baselines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from architect.api import names
from bench import baseline, conditions, fleet, processes
from bench.conditions import Host
from bench.errors import BenchError
from bench.keeper import Keeper
from bench.remote import Remote
from lab.cluster import Cluster
from lab.machine import Machine
from lab.node import Node

REQUEST_SECONDS: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What all measures share."""

    cluster: Cluster
    node: Node
    """All pods run here."""
    client: Remote
    client_place: str
    baselines: Remote
    """Agent in a machine of its own: the distribution's runc and CRIU."""
    in_node: Remote
    """Agent in the node: our runtime beside the runc below it."""
    logs: Path

    @cached_property
    def host(self) -> Host:
        """The host, with the versions of what is compared."""
        node = self.node
        packages = baseline.packages(self.cluster.cache)
        return Host.read(
            cgroup_version=cgroup_version(node.machine),
            versions={
                "architect": bundle_version(node),
                "CRIU (architect)": conditions.version_word(
                    node.exec([names.CURRENT / "bin" / "architect-criu", "--version"])
                ),
                "runc": conditions.version_word(node.exec(["runc", "--version"])),
                "containerd": containerd_version(node.exec(["containerd", "--version"])),
                "baselines: CRIU": packages["criu"],
                "runc (baseline)": packages["runc"],
            },
        )

    @contextmanager
    def keeper(self) -> Iterator[Keeper]:
        """Connect to the node's keeper."""
        made = Keeper(self.node.machine)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def opened(cluster: Cluster, *, node: str | None, logs: Path) -> Iterator[Stage]:
    """Make everything ready, and remove it afterwards. *node*: where pods run; None: the first."""
    logs.mkdir(parents=True, exist_ok=True)
    if not cluster.nodes:
        raise BenchError("the cluster has no nodes (hint: make cluster-up)")
    chosen = cluster.nodes[0] if node is None else cluster.node(node)
    others = [other for other in cluster.nodes if other.name != chosen.name]
    place: Machine = others[0].machine if others else cluster.plane.machine
    progress = cluster.progress
    with ExitStack() as stack:
        with progress.step("namespace and client"):
            fleet.prepare(cluster)
            stack.callback(fleet.clear, cluster)
            client = processes.client(place, logs=logs)
            stack.callback(client.close)
        with progress.step("machine for the baselines"):
            plain = stack.enter_context(baseline.machine(cluster.cache, cluster.settings))
            baselines = processes.agent(plain, logs=logs)
            stack.callback(baselines.close)
            stack.callback(processes.forget, chosen.machine)
            in_node = processes.agent(chosen.machine, logs=logs)
            stack.callback(in_node.close)
        yield Stage(
            cluster=cluster,
            node=chosen,
            client=client,
            client_place=place.name,
            baselines=baselines,
            in_node=in_node,
            logs=logs,
        )


def cgroup_version(machine: Machine) -> int:
    """Return the version of control groups that a machine sees."""
    return int(json.loads((machine.directory / "machine.json").read_text())["cgroup_version"])


def bundle_version(node: Node) -> str:
    """Return the version of our bundle that new containers of a node get."""
    return Path(os.readlink(processes.inside(node.machine, names.CURRENT))).name


def containerd_version(text: str) -> str:
    """Return the version from ``containerd --version``: NAME PACKAGE VERSION COMMIT."""
    words = text.split()
    return words[2] if len(words) > 2 else text.strip()
