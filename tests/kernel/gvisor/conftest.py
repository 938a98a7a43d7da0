"""A machine with containerd as it comes, our runtime in front of gVisor's, and no Kubernetes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from architect.api import names
from lab import addresses, gomodules, images, netns, rootfs
from lab import node as lab_node
from lab.cache import Cache
from lab.machine import Bind, Machine, MachineSpec
from lab.settings import Settings
from support import cri
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


class Node(cri.Node):
    """The machine, and what gVisor leaves on it."""

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


class Pod(cri.Pod):
    """One pod in gVisor's sandbox."""

    RUNTIME = names.RUNTIME_CLASS_GVISOR
    SECURITY: ClassVar[dict[str, Any]] = {}


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    settings = Settings.from_environment()
    cache = Cache(settings.cache)
    machine = Machine(f"gvisor-{os.getpid()}", settings=settings)
    restrict = not lab_node.has_capability(lab_node.CAP_SYS_RESOURCE)
    config = lab_node.containerd_config(restrict_oom_score=restrict) + HANDLER
    crictl = f"runtime-endpoint: unix://{SOCKET}\nimage-endpoint: unix://{SOCKET}\ntimeout: 120\n"
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
