"""The cluster as a whole, which is what tests talk to: :mod:`.making` makes it so."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab import (
    addresses,
    api,
    artefacts,
    commands,
    control_plane,
    errors,
    machine,
    making,
    waiting,
)
from lab.cache import Cache, hold
from lab.entrance import Entrance
from lab.machine import Machine, Service
from lab.node import Node
from lab.progress import SILENT, Progress
from lab.settings import Settings

LOCK_TIMEOUT_SECONDS = 900.0
ATTACH_TIMEOUT_SECONDS = 30.0
KEPT_FAILURES = 5
"""Gathered logs of failed runs; older ones make room."""


class Cluster:
    """The one cluster of a state directory. Making the object touches nothing."""

    def __init__(self, *, settings: Settings | None = None, progress: Progress = SILENT) -> None:
        self.settings = settings or Settings.from_environment()
        self.progress = progress
        self.cache = Cache(self.settings.cache, progress=progress)
        self.plane = control_plane.ControlPlane(
            machine=Machine(control_plane.MACHINE, settings=self.settings)
        )
        self.entrance = Entrance(
            self.settings.state,
            plane=self.plane.machine,
            pki=self.pki,
            preferred_port=self.settings.api_port,
        )

    @classmethod
    def attach(cls, *, settings: Settings | None = None) -> Cluster:
        """Return the running cluster. Raises LabError if there is none."""
        cluster = cls(settings=settings)
        cluster.plane.machine.running_pid  # noqa: B018 - raises
        try:
            # Busy for a moment is not away.
            waiting.until(
                cluster.api.ready, what="API server ready", timeout_seconds=ATTACH_TIMEOUT_SECONDS
            )
        except errors.DeadlineExceeded as error:
            raise errors.LabError(
                "the API server is not ready", hint="python -m lab status"
            ) from error
        return cluster

    @property
    def kubeconfig(self) -> Path:
        """Administrator's kubeconfig for the host: the API server on 127.0.0.1."""
        return self.settings.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Directory of the cluster's authority, and of the administrator's certificate."""
        return self.settings.state / "pki"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes whose machines exist, by number."""
        found = [m for m in machine.all_machines(self.settings) if making.is_node(m.name)]
        return tuple(
            Node(machine=m) for m in sorted(found, key=lambda m: addresses.number_of(m.name))
        )

    def node(self, name: str) -> Node:
        """Return the node called *name*. Raises LabError if there is none."""
        for candidate in self.nodes:
            if candidate.name == name:
                return candidate
        raise errors.LabError(f"no node {name}")

    @property
    def api_server(self) -> Service:
        return self.plane.api_server

    @property
    def api(self) -> api.Api:
        """Questions to the API server as administrator."""
        return api.Api(
            port=self.api_port,
            ca=self.pki / "ca.crt",
            certificate=self.pki / "admin.crt",
            key=self.pki / "admin.key",
        )

    @property
    def api_port(self) -> int:
        """Port of the API server on 127.0.0.1."""
        return self.entrance.port

    @property
    def kubectl_program(self) -> Path:
        return artefacts.kubernetes(self.cache) / "kubectl"

    def kubectl(
        self, *arguments: str, input: str | None = None, timeout_seconds: float = 60
    ) -> str:
        """Run kubectl as administrator and return its standard output."""
        return commands.run(
            [self.kubectl_program, *arguments],
            env=self.client_environment(),
            input=input,
            timeout_seconds=timeout_seconds,
        )

    def helm(self, *arguments: str, timeout_seconds: float = 300) -> str:
        """Run helm as administrator and return its standard output."""
        return commands.run(
            [artefacts.helm(self.cache), *arguments],
            env=self.client_environment(),
            timeout_seconds=timeout_seconds,
        )

    def client_environment(self) -> dict[str, str]:
        """Return the environment in which kubectl, helm and the like find the cluster."""
        path = f"{self.kubectl_program.parent}:{os.environ.get('PATH', machine.PATH)}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def in_control_plane(
        self,
        argv: Sequence[str | Path],
        *,
        timeout_seconds: float = 60,
        input: str | None = None,
    ) -> str:
        """Run a host program in the control plane's network, from where pods are reached."""
        return self.plane.machine.run_in_network(
            *argv, timeout_seconds=timeout_seconds, input=input
        )

    def load_image(self, archive: Path) -> None:
        """Import an image archive into every node, side by side."""
        making.together([functools.partial(n.load_image, archive) for n in self.nodes])

    def up(self, nodes: int) -> None:
        """Make the cluster be there with *nodes* nodes, Ready.

        What runs well is kept, what a killed run left or what has died is made anew, nodes above
        the number are removed. On failure the logs are gathered in ``failed-logs``.
        """
        parts = artefacts.build(self.cache, containerd=self.settings.containerd)
        with self._exclusive():
            self.progress.say(f"bringing up {nodes} node(s) in {self.settings.state}")
            try:
                making.make(self, nodes, parts)
            except BaseException as error:
                self._gather_after(error)
                raise
        self.progress.say(f"ready; export KUBECONFIG={self.kubeconfig}")

    def down(self) -> None:
        """Remove every trace of the cluster. Repeating it does nothing."""
        with self._exclusive():
            making.remove(self)

    def end_node(self, name: str) -> None:
        """End a node's machine as a cloud takes one back; see :meth:`Node.end`.

        :meth:`up` makes another one in its place.
        """
        self.node(name).end(self.plane.machine)

    def reboot_node(self, name: str) -> None:
        """Have a node lose its power, and boot again with its disk; return when it is Ready.

        That it was Ready says nothing: what counts is what its kubelet says after this.
        """
        self.node(name).reboot(self.plane.machine)
        began = datetime.datetime.now(tz=datetime.UTC)

        def is_back() -> bool:
            lease = self.api.get(
                f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
            )
            told = datetime.datetime.fromisoformat(lease["spec"]["renewTime"])
            return told > began and self.readiness().get(name, False)

        waiting.until(
            is_back,
            what=f"{name} Ready after its reboot",
            timeout_seconds=making.NODE_TIMEOUT_SECONDS,
        )

    def forget_node(self, name: str) -> None:
        """Remove what the API has of a node whose machine is gone, as a cloud's controller does.

        Its pods go with it. A new machine of that name would else run them as if they were its own,
        and take over what was said of the old one: its cordon, its taints.
        """
        self.kubectl("delete", "node", name, "--ignore-not-found")
        self.kubectl(
            *("delete", "pods", "--all-namespaces", f"--field-selector=spec.nodeName={name}"),
            *("--force", "--grace-period=0", "--wait=false"),
        )

    def collect_logs(self, directory: Path) -> None:
        """Copy the logs of all machines, and what the API server says, into *directory*."""
        directory.mkdir(parents=True, exist_ok=True)
        for one in machine.all_machines(self.settings):
            target = directory / one.name
            for source in (one.logs, one.directory / "boot.log"):
                if source.is_dir():
                    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)
                elif source.exists():
                    target.mkdir(exist_ok=True)
                    shutil.copy(source, target)
        if self.plane.machine.pid is None or not self.api.ready():
            return
        for name, arguments in {
            "objects.txt": ("get", "nodes,pods,services,events", "-A", "-o", "wide"),
            "nodes.txt": ("describe", "nodes"),
            "pods.txt": ("describe", "pods", "-A"),
        }.items():
            with contextlib.suppress(errors.LabError):
                (directory / name).write_text(self.kubectl(*arguments))

    def status(self) -> dict[str, Any]:
        """Say what is there: each machine's services, and each node's readiness."""
        machines = {
            m.name: m.services() if m.pid is not None else None
            for m in machine.all_machines(self.settings)
        }
        alive = self.plane.machine.pid is not None and self.api.ready()
        ready = self.readiness() if alive else {}
        return {"api_ready": alive, "api_port": self.api_port, "nodes": ready, "machines": machines}

    def readiness(self) -> dict[str, bool]:
        """Return whether each node that the API knows is Ready."""
        return {
            item["metadata"]["name"]: any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in item.get("status", {}).get("conditions", [])
            )
            for item in self.api.get("/api/v1/nodes")["items"]
        }

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        self.settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self.settings.state / "lock"
        with hold(lock, timeout_seconds=LOCK_TIMEOUT_SECONDS, progress=self.progress):
            yield

    def _gather_after(self, error: BaseException) -> None:
        target = self.settings.state / "failed-logs" / time.strftime("%Y%m%d-%H%M%S")
        for old in sorted(target.parent.glob("*"))[: -KEPT_FAILURES + 1]:
            shutil.rmtree(old)
        self.progress.say(f"failed ({type(error).__name__}); logs are in {target}")
        self.collect_logs(target)
