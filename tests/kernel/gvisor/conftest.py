"""A machine with containerd as it comes, our runtime in front of gVisor's, and no Kubernetes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from lab import addresses, errors, gomodules, images, netns, rootfs
from lab import node as lab_node
from lab.cache import Cache
from lab.machine import Bind, Machine, MachineSpec
from lab.settings import Settings
from support.runtime import CHECKOUT, SYSTEM_PYTHON, eventually

RUNTIME = "/opt/architect/current/bin/runsc-architect"
RECORDS = "/run/architect/gvisor"
RUNSC_STATE = "/run/containerd/runc/k8s.io"
SOCKET = "/run/containerd/containerd.sock"
HANDLER = f"""
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runsc-architect]
      runtime_type = "io.containerd.runc.v2"
      pod_annotations = ["architect.dev/*"]

      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runsc-architect.options]
        BinaryName = "{RUNTIME}"
"""


class Node:
    """The machine, as a kubelet on it would use it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, *words: str, timeout_seconds: float = 60) -> str:
        return self.machine.exec(words, timeout_seconds=timeout_seconds).strip()

    def crictl(self, *words: str) -> str:
        return self.run("crictl", *words)

    def fails(self, *words: str) -> str:
        """Run what must fail; return what it said."""
        with pytest.raises(errors.CommandFailed) as caught:
            self.run(*words)
        return str(caught.value)

    def write(self, path: str, text: str) -> str:
        self.machine.exec(["tee", path], input=text)
        return path

    def processes(self, *words: str) -> list[int]:
        """Return the pids of processes in whose command line all of *words* are."""
        found = []
        for line in self.run("ps", "-A", "-ww", "-o", "pid,args").splitlines()[1:]:
            pid, _, command = line.strip().partition(" ")
            if all(word in command for word in words) and not command.startswith("ps "):
                found.append(int(pid))
        return found

    def leftovers(self) -> list[str]:
        """Return what is there of any container of gVisor."""
        listed = self.run("sh", "-c", f"ls {RECORDS} {RUNSC_STATE} 2>/dev/null || true").split()
        files = [n for n in listed if not n.endswith(":") and n != "null-netns"]
        return files + [str(pid) for pid in self.processes("runsc")]


class Pod:
    """One pod by way of the CRI."""

    SERVER = ("python3", "-u", "/opt/memory.py", "4")
    """The words of a server of memory, but for its port."""

    def __init__(self, node: Node, *, policy: dict[str, Any] | None = None) -> None:
        self.node = node
        self.name = f"pod-{uuid.uuid4().hex[:8]}"
        self.logs = f"/var/log/pods/{self.name}"
        node.run("mkdir", "-p", self.logs)
        config = {
            "metadata": {"name": self.name, "namespace": "default", "uid": self.name},
            "hostname": self.name,
            "log_directory": self.logs,
            "linux": {"cgroup_parent": f"/{self.name}"},
            "annotations": {} if policy is None else {names.POLICY: json.dumps(policy)},
        }
        self.file = node.write(f"/run/{self.name}.json", json.dumps(config))
        self.containers: dict[str, str] = {}
        self.id = ""
        self.run()

    def run(self) -> None:
        """Make its sandbox, as kubelet does once more where one has ended."""
        if self.id:
            self.remove()
        self.containers = {}
        self.id = self.node.crictl("runp", "--runtime", "runsc-architect", self.file)

    @property
    def address(self) -> str:
        return str(self.inspect()["status"]["network"]["ip"])

    def inspect(self) -> dict[str, Any]:
        return dict(json.loads(self.node.crictl("inspectp", self.id)))

    def container(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.node.crictl("inspect", self.containers[name])))

    def create(self, name: str, *command: str, **more: Any) -> None:
        config = {
            "metadata": {"name": name},
            "image": {"image": images.PY},
            "command": list(command),
            "mounts": [{"host_path": "/opt", "container_path": "/opt", "readonly": True}],
            "log_path": f"{name}.log",
            **more,
        }
        file = self.node.write(f"/run/{self.name}-{name}.json", json.dumps(config))
        self.containers[name] = self.node.crictl("create", self.id, file, self.file)

    def start(self, name: str, *command: str, **more: Any) -> None:
        self.create(name, *command, **more)
        self.node.crictl("start", self.containers[name])

    def server(self, name: str, *, port: int = 8080, **more: Any) -> None:
        """Start a server of memory and wait for its first answer."""
        self.start(name, *self.SERVER, str(port), **more)
        eventually(lambda: self.answers(port), what=f"an answer of {name}")

    def get(
        self, path: str = "/", *, port: int = 8080, within_seconds: float = 20
    ) -> dict[str, Any]:
        """Ask a server by the pod's address, from the node."""
        url = f"http://{self.address}:{port}{path}"
        return dict(
            json.loads(self.node.run("curl", "-sS", "--max-time", str(within_seconds), url))
        )

    def answers(self, port: int = 8080, *, within_seconds: float = 20) -> bool:
        try:
            return bool(self.get(port=port, within_seconds=within_seconds))
        except errors.CommandFailed:
            return False

    def exec(self, name: str, *command: str) -> str:
        return self.node.crictl("exec", self.containers[name], *command)

    def log(self, name: str) -> str:
        return self.node.run("cat", f"{self.logs}/{name}.log")

    def ended(self, name: str) -> int | None:
        """Return the status of a container; None while it runs."""
        found = self.container(name)["status"]
        return int(found["exitCode"]) if found["state"] == "CONTAINER_EXITED" else None

    def until_ended(self, name: str) -> int:
        eventually(lambda: self.ended(name) is not None, what=f"end of {name}")
        return int(self.ended(name) or 0)

    def anchor(self, name: str) -> int:
        """Return the process that the engine takes for the container."""
        return int(self.container(name)["info"]["pid"])

    def stop(self, name: str, *, grace_seconds: int = 20) -> int:
        self.node.crictl("stop", "--timeout", str(grace_seconds), self.containers[name])
        return self.until_ended(name)

    def remove(self) -> None:
        self.node.crictl("stopp", self.id)
        self.node.crictl("rmp", "--force", self.id)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    settings = Settings.from_environment()
    cache = Cache(settings.cache)
    machine = Machine(f"gvisor-{os.getpid()}", settings=settings)
    restrict = not lab_node.has_capability(lab_node.CAP_SYS_RESOURCE)
    config = lab_node.containerd_config(restrict_oom_score=restrict) + HANDLER
    crictl = f"runtime-endpoint: unix://{SOCKET}\nimage-endpoint: unix://{SOCKET}\ntimeout: 60\n"
    try:
        machine.create(
            MachineSpec(
                root=rootfs.node_root(cache),
                binds=(
                    Bind(
                        source=gomodules.tool(cache, gomodules.CRICTL),
                        target="/usr/local/bin/crictl",
                        readonly=True,
                    ),
                    Bind(
                        source=gomodules.tool(cache, gomodules.RUNSC),
                        target="/usr/local/bin/runsc",
                        readonly=True,
                    ),
                ),
                files={
                    "/etc/containerd/config.toml": config,
                    "/etc/containerd/conf.d/.keep": "",
                    "/etc/cni/net.d/10-lab.conflist": lab_node.cni_config(addresses.of_node(1)),
                    "/etc/crictl.yaml": crictl,
                },
                sysctls=netns.SYSCTLS,
            )
        )
        opt = machine.directory / "opt"
        subprocess.run(
            [SYSTEM_PYTHON, CHECKOUT / "shim/bundle.py", "--output", opt / "architect"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        shutil.copy(Path(__file__).parents[2] / "support/apps/memory.py", opt)
        machine.start_service("containerd", ["/usr/bin/containerd"])
        made = Node(machine)
        eventually(
            lambda: Path(f"/proc/{machine.running_pid}/root{SOCKET}").exists(),
            what="containerd's socket",
        )
        for image in (images.pause(cache), images.application(cache)):
            with image.archive.open("rb") as stream:
                words = ["ctr", "-n", "k8s.io", "images", "import", "-"]
                machine.exec(words, stdin=stream, timeout_seconds=180)
        yield made
    finally:
        machine.destroy()


@pytest.fixture
def new_pod(node: Node) -> Iterator[Callable[..., Pod]]:
    """Make pods; at the end nothing of them may be left."""
    made: list[Pod] = []

    def make(**more: Any) -> Pod:
        made.append(Pod(node, **more))
        return made[-1]

    yield make
    for pod in made:
        pod.remove()
    eventually(lambda: not node.leftovers(), what=f"nothing left, but {node.leftovers()}")


@pytest.fixture
def pod(new_pod: Callable[..., Pod]) -> Pod:
    return new_pod()
