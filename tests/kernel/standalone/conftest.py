"""A machine with containerd and Podman, the runtime installed, and no Kubernetes."""

from __future__ import annotations

import abc
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import errors, images, rootfs
from lab.cache import Cache
from lab.machine import Machine, MachineSpec
from lab.settings import Settings
from support.runtime import CHECKOUT, SYSTEM_PYTHON, eventually

RUNTIME = "/opt/architect/current/bin/runc-architect"
IDLE = "architect.dev/idle=60s"
GET = """
import sys, urllib.request
print(urllib.request.urlopen(f'http://{sys.argv[1]}:8080{sys.argv[2]}', timeout=20).read().decode())
"""


class Node:
    """The machine, as somebody with a shell on it uses it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, *words: str, timeout_seconds: float = 60) -> str:
        env = {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
        return self.machine.exec(words, timeout_seconds=timeout_seconds, env=env)

    def fails(self, *words: str) -> str:
        """Run what must fail; return what it said."""
        with pytest.raises(errors.CommandFailed) as caught:
            self.run(*words)
        return str(caught.value)

    def runtime(self, *words: str) -> dict[str, Any]:
        said = self.run("/opt/architect/current/bin/architect-runtime", *words, "-o", "json")
        return dict(json.loads(said))

    def files(self, directory: str) -> list[str]:
        return self.run("sh", "-c", f"ls {directory} 2>/dev/null || true").split()


class Engine(abc.ABC):
    """One engine's words for a container of that name."""

    def __init__(self, node: Node, name: str) -> None:
        self.node, self.name = node, name

    @abc.abstractmethod
    def start(self, *command: str, annotation: str | None = IDLE) -> None: ...

    @abc.abstractmethod
    def pid(self) -> int: ...

    @abc.abstractmethod
    def exec(self, *command: str) -> str: ...

    @abc.abstractmethod
    def stop(self) -> int:
        """End it by SIGTERM; return its exit status."""

    @abc.abstractmethod
    def remove(self) -> None: ...

    @property
    def pod(self) -> str:
        """What it is called with ``architect-runtime``."""
        return self.name

    def state(self) -> str:
        return str(self.node.runtime("status", self.pod)["state"])

    def sleep(self) -> None:
        assert self.node.runtime("sleep", self.pod)["status"]["state"] == "asleep"

    def get(self, path: str) -> dict[str, Any]:
        """Ask the server by a connection from the machine."""
        words = ["nsenter", "-t", str(self.pid()), "-n", "python3", "-c", GET, "127.0.0.1", path]
        return dict(json.loads(self.node.run(*words)))

    def until_ready(self) -> dict[str, Any]:
        def answer() -> dict[str, Any] | None:
            try:
                return self.get("/")
            except errors.CommandFailed:
                return None

        return dict(eventually(answer, what=f"an answer of {self.name}"))


class Ctr(Engine):
    """containerd's own client, as an administrator uses it."""

    def start(self, *command: str, annotation: str | None = IDLE) -> None:
        extra = [] if annotation is None else ["--annotation", annotation]
        self.node.run(
            *("ctr", "run", "-d", "--runtime", "io.containerd.runc.v2", "--runc-binary", RUNTIME),
            *extra,
            *("--mount", "type=bind,src=/opt,dst=/opt,options=rbind:ro"),
            *(images.PY, self.name, *command),
        )

    def pid(self) -> int:
        for line in self.node.run("ctr", "task", "ls").splitlines():
            words = line.split()
            if words[0] == self.name:
                return int(words[1])
        raise AssertionError(f"no task {self.name}")

    def exec(self, *command: str) -> str:
        return self.node.run("ctr", "task", "exec", "--exec-id", "x", self.name, *command)

    def stop(self) -> int:
        self.node.run("ctr", "task", "kill", "--signal", "SIGTERM", self.name)

        def stopped() -> bool:
            return f"{self.name} " in self.node.run("ctr", "task", "ls") and (
                "STOPPED" in self.node.run("ctr", "task", "ls")
            )

        eventually(stopped, what=f"end of {self.name}")
        words = self.node.machine.enter(["ctr", "task", "delete", self.name])
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        found = re.search(r"non-zero exit code (\d+)", done.stderr)
        return int(found[1]) if found else done.returncode

    def remove(self) -> None:
        self.node.run("sh", "-c", f"ctr task delete -f {self.name}; ctr c delete {self.name}; true")


class Podman(Engine):
    """Podman as root, which calls the runtime through conmon."""

    def start(self, *command: str, annotation: str | None = IDLE) -> None:
        extra = [] if annotation is None else ["--annotation", annotation]
        self.node.run(
            *("podman", "--runtime", RUNTIME, "run", "-d", "--name", self.name, *extra),
            *("-v", "/opt:/opt:ro", images.PY, *command),
        )

    def inspect(self, template: str) -> str:
        return self.node.run("podman", "inspect", "-f", template, self.name).strip()

    def pid(self) -> int:
        return int(self.inspect("{{.State.Pid}}"))

    @property
    def pod(self) -> str:
        # As `podman ps` shows it.
        return self.inspect("{{.Id}}")[:12]

    def exec(self, *command: str) -> str:
        return self.node.run("podman", "exec", self.name, *command)

    def stop(self) -> int:
        self.node.run("podman", "stop", "-t", "30", self.name)
        return int(self.inspect("{{.State.ExitCode}}"))

    def remove(self) -> None:
        self.node.run("podman", "rm", "-f", "-t", "0", self.name)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    settings = Settings.from_environment()
    cache = Cache(settings.cache)
    machine = Machine(f"standalone-{os.getpid()}", settings=settings)
    try:
        machine.create(MachineSpec(root=rootfs.standalone_root(cache)))
        opt = machine.directory / "opt"
        subprocess.run(
            [
                *(SYSTEM_PYTHON, CHECKOUT / "shim/bundle.py", "--output", opt / "architect"),
                *("--version", "test", "--criu", os.environ["ARCHITECT_CRIU"]),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        shutil.copy(Path(__file__).parents[2] / "support/apps/memory.py", opt)
        shutil.copy(images.application(cache).archive, opt / "py.tar")
        machine.start_service("containerd", ["/usr/bin/containerd"])
        made = Node(machine)
        socket = "/run/containerd/containerd.sock"
        eventually(lambda: made.files(socket), what="containerd's socket")
        made.run("ctr", "image", "import", "/opt/py.tar")
        made.run("podman", "load", "-q", "-i", "/opt/py.tar")
        yield made
    finally:
        machine.destroy()


@pytest.fixture(params=[Ctr, Podman])
def engine(node: Node, request: pytest.FixtureRequest) -> Iterator[Engine]:
    made: Engine = request.param(node, "web")
    yield made
    made.remove()


@pytest.fixture
def podman(node: Node) -> Iterator[Podman]:
    made = Podman(node, "web")
    yield made
    made.remove()
