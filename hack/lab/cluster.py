"""The cluster as a whole: makes it so, takes it away, and is what tests talk to."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from lab import (
    addresses,
    api,
    artefacts,
    commands,
    control_plane,
    dns,
    errors,
    machine,
    netns,
    sysctls,
    waiting,
)
from lab.cache import Cache, hold
from lab.machine import Machine, Service
from lab.node import Node
from lab.pki import Authority
from lab.progress import SILENT, Progress
from lab.settings import Settings

HERE = Path(__file__).parent
API_TIMEOUT_SECONDS = 180.0
NODE_TIMEOUT_SECONDS = 240.0
LOCK_TIMEOUT_SECONDS = 900.0
ATTACH_TIMEOUT_SECONDS = 30.0
RELAY_TIMEOUT_SECONDS = 60.0
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
    def nodes(self) -> tuple[Node, ...]:
        """The nodes whose machines exist, by number."""
        found = [m for m in machine.all_machines(self.settings) if _is_node(m.name)]
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
            ca=self._pki / "ca.crt",
            certificate=self._pki / "admin.crt",
            key=self._pki / "admin.key",
        )

    @property
    def api_port(self) -> int:
        """Port of the API server on 127.0.0.1."""
        try:
            return int(self._read_record()["api_port"])
        except (FileNotFoundError, KeyError):
            return self.settings.api_port

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
        _together([functools.partial(n.load_image, archive) for n in self.nodes])

    def up(self, nodes: int) -> None:
        """Make the cluster be there with *nodes* nodes, Ready.

        What runs well is kept, what a killed run left or what has died is made anew, nodes above
        the number are removed. On failure the logs are gathered in ``failed-logs``.
        """
        parts = artefacts.build(self.cache, containerd=self.settings.containerd)
        with self._exclusive():
            self.progress.say(f"bringing up {nodes} node(s) in {self.settings.state}")
            try:
                self._up(nodes, parts)
            except BaseException as error:
                self._gather_after(error)
                raise
        self.progress.say(f"ready; export KUBECONFIG={self.kubeconfig}")

    def down(self) -> None:
        """Remove every trace of the cluster. Repeating it does nothing."""
        with self._exclusive():
            self._down()

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
            return told > began and self._node_readiness().get(name, False)

        waiting.until(
            is_back, what=f"{name} Ready after its reboot", timeout_seconds=NODE_TIMEOUT_SECONDS
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
        ready = self._node_readiness() if alive else {}
        return {"api_ready": alive, "api_port": self.api_port, "nodes": ready, "machines": machines}

    # making

    def _up(self, count: int, parts: artefacts.Artefacts) -> None:
        wanted = [addresses.of_node(number).name for number in range(1, count + 1)]
        if not self.plane.machine.complete:
            # Without the control plane's network its nodes are cut off for good.
            self._down()
            self._create_plane(parts)
        elif not self._relay_alive():
            self._start_relay(self.api_port)
        for one in self.nodes:
            if one.name not in wanted or not one.machine.complete:
                self.progress.say(f"removing {one.name}")
                self._remove_node(one)
        there = {n.name for n in self.nodes}
        missing = [self._node(name) for name in wanted if name not in there]
        self._record_nodes(wanted)
        with futures.ThreadPoolExecutor(max_workers=2 * count + 1) as pool:
            made = [pool.submit(self._create_node, n, parts) for n in missing]
            loaded = [
                pool.submit(self._load_images, n, done, parts)
                for n, done in zip(missing, made, strict=True)
            ]
            self._wait_for_api()
            self.plane.start_controllers()
            for job in made:
                job.result()
            if missing:
                self._start_kubernetes(missing, parts)
            self._wait_for_nodes(wanted)
            for job in loaded:
                job.result()
        self._wait_for_dns()
        for one in missing:
            one.machine.mark_complete()

    def _start_kubernetes(self, new: Sequence[Node], parts: artefacts.Artefacts) -> None:
        known = self._node_readiness()
        for one in new:
            if one.name in known:
                self.forget_node(one.name)
        self._apply([*(n.object() for n in new), *dns.objects(parts.coredns.name)])
        for one in new:
            one.start_kubernetes()
        self.plane.start_proxy(self.nodes[0].name)

    def _create_plane(self, parts: artefacts.Artefacts) -> None:
        self.settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        sysctls.prepare(self.settings.state / "sysctls.json")
        port = _free_port(self.settings.api_port)
        self._write_record({"api_port": port, "node_addresses": []})
        authority = Authority(self._pki)
        with self.progress.step("making the control plane"):
            self.plane.create(
                root=parts.node_root,
                kubernetes=parts.kubernetes,
                versitygw=parts.versitygw,
                authority=authority,
            )
        admin = authority.issue("admin", subject="admin", groups=["system:masters"])
        authority.kubeconfig(self.kubeconfig, server=f"https://127.0.0.1:{port}", user=admin)
        self._start_relay(port)
        self.plane.machine.mark_complete()

    def _create_node(self, new: Node, parts: artefacts.Artefacts) -> None:
        with self.progress.step(f"making {new.name}"):
            new.create(
                root=parts.node_root,
                kubernetes=parts.kubernetes,
                containerd=parts.containerd,
                authority=Authority(self._pki),
                pki=self.settings.state / "node-pki" / new.name,
                plane=self.plane.machine,
            )
            new.wait_for_containerd()

    def _load_images(
        self, new: Node, made: futures.Future[None], parts: artefacts.Artefacts
    ) -> None:
        made.result()
        for image in parts.preloaded:
            new.load_image(image.archive)
        self.progress.say(f"{new.name}: {len(parts.preloaded)} images loaded")

    def _remove_node(self, old: Node) -> None:
        if self.plane.machine.pid is not None and self.api.ready():
            self.kubectl("delete", "node", old.name, "--ignore-not-found")
        old.machine.destroy()

    def _down(self) -> None:
        state = self.settings.state
        found = [
            m
            for m in machine.all_machines(self.settings)
            if m.name == self.plane.machine.name or _is_node(m.name)
        ]
        if found:
            with self.progress.step("removing " + ", ".join(m.name for m in found)):
                _together([m.destroy for m in found])
        for stray in machine.remove_strays(self.settings):
            self.progress.say(f"removed {stray}, whose machine's directory is gone")
        netns.forget_control_plane(record=control_plane.netns_record(self.plane.machine))
        for name in ("pki", "node-pki", "shared"):
            if (state / name).exists():
                shutil.rmtree(state / name)
        for name in ("kubeconfig", "cluster.json", "relay.json", "relay.log"):
            (state / name).unlink(missing_ok=True)
        for left in state.glob("trial-*"):  # of a killed check of the host
            shutil.rmtree(left)
        sysctls.restore(state / "sysctls.json")

    # waiting

    def _wait_for_api(self) -> None:
        with self.progress.step("waiting for the API server"):
            waiting.until(
                self.api.ready,
                what="API server ready",
                timeout_seconds=API_TIMEOUT_SECONDS,
                last_seen=lambda: _end_of(self.plane.machine.logs / "kube-apiserver.log"),
            )

    def _wait_for_nodes(self, names: Sequence[str]) -> None:
        def ready() -> bool:
            states = self._node_readiness()
            return all(states.get(name) for name in names)

        with self.progress.step("waiting for nodes to be Ready"):
            waiting.until(
                ready,
                what=f"nodes {', '.join(names)} Ready",
                timeout_seconds=NODE_TIMEOUT_SECONDS,
                interval_seconds=0.25,
                last_seen=lambda: "\n".join(
                    _end_of(n.machine.logs / "kubelet.log") for n in self.nodes
                ),
            )

    def _wait_for_dns(self) -> None:
        path = f"/apis/apps/v1/namespaces/{dns.NAMESPACE}/deployments/{dns.NAME}"

        def ready() -> bool:
            return int(self.api.get(path).get("status", {}).get("availableReplicas", 0)) > 0

        with self.progress.step("waiting for DNS"):
            waiting.until(
                ready, what="DNS", timeout_seconds=NODE_TIMEOUT_SECONDS, interval_seconds=0.25
            )

    def _node_readiness(self) -> dict[str, bool]:
        return {
            item["metadata"]["name"]: any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in item.get("status", {}).get("conditions", [])
            )
            for item in self.api.get("/api/v1/nodes")["items"]
        }

    # details

    def _apply(self, objects: Sequence[dict[str, Any]]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        # Without validation, for which a new API server's whole OpenAPI document would have to come
        # within 32 s, which no option changes.
        options = ("--server-side", "--force-conflicts", "--validate=false")
        self.kubectl("apply", *options, "-f", "-", input=text)

    def _start_relay(self, port: int) -> None:
        plane = self.plane.machine
        api_address = (addresses.CONTROL_PLANE_V4, addresses.API_PORT)
        config = {
            "pid": plane.running_pid,
            "fixed": {str(port): api_address},
            "api": api_address,
            "ca": str(self._pki / "ca.crt"),
            "certificate": str(self._pki / "admin.crt"),
            "key": str(self._pki / "admin.key"),
            "nodes_file": str(self._record),
        }
        path = self.settings.state / "relay.json"
        path.write_text(json.dumps(config))
        log = self.settings.state / "relay.log"
        # In the control plane's cgroups, so that it is found and killed with them.
        plane.spawn_on_host(
            [sys.executable, "-I", "-S", str(HERE / "relay.py"), str(path)], log=log
        )
        waiting.until(
            self._relay_alive,
            what="relay on the host's loopback",
            timeout_seconds=RELAY_TIMEOUT_SECONDS,
            last_seen=log.read_text,
        )

    def _relay_alive(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.api_port)) == 0

    def _node(self, name: str) -> Node:
        return Node(machine=Machine(name, settings=self.settings))

    @property
    def _pki(self) -> Path:
        return self.settings.state / "pki"

    @property
    def _record(self) -> Path:
        return self.settings.state / "cluster.json"

    def _read_record(self) -> dict[str, Any]:
        return dict(json.loads(self._record.read_text()))

    def _write_record(self, value: dict[str, Any]) -> None:
        temporary = self._record.with_suffix(".new")
        temporary.write_text(json.dumps(value))
        temporary.rename(self._record)

    def _record_nodes(self, names: Sequence[str]) -> None:
        where = [addresses.of_node(addresses.number_of(name)).v4 for name in names]
        self._write_record({**self._read_record(), "node_addresses": where})

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


def _is_node(name: str) -> bool:
    return name.startswith("node") and name[4:].isdigit()


def _end_of(path: Path) -> str:
    return path.read_text(errors="replace")[-3000:] if path.exists() else f"{path}: not there"


def _together(jobs: Sequence[Callable[[], object]]) -> None:
    """Run *jobs* side by side and raise the first error once all have ended."""
    if not jobs:
        return
    with futures.ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()


def _free_port(preferred: int) -> int:
    """Return *preferred*, or another port of the loopback if somebody listens there."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise errors.LabError("no free port on 127.0.0.1")
