"""Engines that are used by hand, each with its own words for the same container."""

from __future__ import annotations

import abc
import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lab import commands, errors, images
from lab.machine import Machine
from support.runtime import eventually

RUNTIME = "/opt/architect/current/bin/runc-architect"
IDLE = "architect.dev/idle=60s"
CONTAINERD_24 = "/run/containerd-2.4/containerd.sock"
"""Where the second containerd of the machine answers."""
GET = """
import sys, urllib.request
print(urllib.request.urlopen(f'http://{sys.argv[1]}:8080{sys.argv[2]}', timeout=90).read().decode())
"""


class Node:
    """The machine, as somebody with a shell on it uses it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, *words: str, timeout_seconds: float = 180) -> str:
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
    def stop(self, signal: str = "SIGTERM") -> int:
        """End it by that signal; return its exit status."""

    @abc.abstractmethod
    def again(self) -> None:
        """Start it once more after it has ended."""

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
        return dict(json.loads(self.node.run(*self._question(path))))

    @contextlib.contextmanager
    def pending(self, path: str) -> Iterator[subprocess.Popen[bytes]]:
        """Ask without waiting for the answer, which the process prints."""
        asking = self.node.machine.popen(self._question(path), stdout=subprocess.PIPE)
        try:
            yield asking
        finally:
            if asking.poll() is None:
                commands.kill_group(asking)
            with asking:  # closes what it holds, and waits
                pass

    def _question(self, path: str) -> list[str]:
        return ["nsenter", "-t", str(self.pid()), "-n", "python3", "-c", GET, "127.0.0.1", path]

    def until_ready(self) -> dict[str, Any]:
        def answer() -> dict[str, Any] | None:
            try:
                return self.get("/")
            except errors.CommandFailed:
                return None

        return dict(eventually(answer, what=f"an answer of {self.name}"))

    def _restart(self, service: str, *question: str) -> None:
        """Restart a service of the machine; return when its client has an answer of it."""
        self.node.machine.service(service).restart()
        eventually(lambda: self._answers(*question), what=f"an answer of {service}")

    def _answers(self, *question: str) -> bool:
        with contextlib.suppress(errors.CommandFailed):
            self.node.run(*question)
            return True
        return False


class Ctr(Engine):
    """containerd's own client, as an administrator uses it."""

    service = "containerd"
    client: tuple[str, ...] = ("ctr",)

    def ctr(self, *words: str) -> str:
        return self.node.run(*self.client, *words)

    def start(self, *command: str, annotation: str | None = IDLE) -> None:
        extra = [] if annotation is None else ["--annotation", annotation]
        self.ctr(
            *("run", "-d", "--runtime", "io.containerd.runc.v2", "--runc-binary", RUNTIME),
            *extra,
            *("--mount", "type=bind,src=/opt,dst=/opt,options=rbind:ro"),
            *(images.PY, self.name, *command),
        )

    def _task(self) -> list[str]:
        """Return name, pid and state of its task, as ``ctr`` prints them."""
        for line in self.ctr("task", "ls").splitlines():
            if (words := line.split())[0] == self.name:
                return words
        raise AssertionError(f"no task {self.name}")

    def pid(self) -> int:
        return int(self._task()[1])

    def exec(self, *command: str) -> str:
        return self.ctr("task", "exec", "--exec-id", "x", self.name, *command)

    def stop(self, signal: str = "SIGTERM") -> int:
        self.ctr("task", "kill", "--signal", signal, self.name)
        eventually(lambda: self._task()[2] == "STOPPED", what=f"end of {self.name}")
        words = self.node.machine.enter([*self.client, "task", "delete", self.name])
        done = subprocess.run(words, capture_output=True, text=True, timeout=180)
        found = re.search(r"non-zero exit code (\d+)", done.stderr)
        return int(found[1]) if found else done.returncode

    def again(self) -> None:
        self.ctr("task", "start", "-d", self.name)

    def remove(self) -> None:
        for words in (("task", "delete", "-f", self.name), ("container", "delete", self.name)):
            with contextlib.suppress(errors.CommandFailed):
                self.ctr(*words)

    def restart_engine(self) -> None:
        """Replace the engine's own process by a new one that answers."""
        self._restart(self.service, *self.client, "version")


class Ctr24(Ctr):
    """The same with the next containerd, of whose version its client and its shim are."""

    service = "containerd-2.4"
    client = ("/usr/local/containerd-2.4/ctr", "--address", CONTAINERD_24)


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

    def stop(self, signal: str = "SIGTERM") -> int:
        if signal == "SIGTERM":
            self.node.run("podman", "stop", "-t", "90", self.name)
        else:
            self.node.run("podman", "kill", "--signal", signal, self.name)
        return int(self.node.run("podman", "wait", self.name))

    def again(self) -> None:
        self.node.run("podman", "start", self.name)

    def remove(self) -> None:
        self.node.run("podman", "rm", "-f", "-t", "0", self.name)


class Docker(Engine):
    """Docker with its daemon, which calls the runtime through containerd's shim."""

    def start(self, *command: str, annotation: str | None = IDLE) -> None:
        extra = [] if annotation is None else ["--annotation", annotation]
        self.docker(
            *("run", "-d", "--runtime", "runc-architect", "--network", "none"),
            *("--name", self.name, *extra, "-v", "/opt:/opt:ro", images.PY, *command),
        )

    def docker(self, *words: str) -> str:
        return self.node.run("docker", *words)

    def inspect(self, template: str) -> str:
        return self.docker("inspect", "-f", template, self.name).strip()

    def pid(self) -> int:
        return int(self.inspect("{{.State.Pid}}"))

    @property
    def pod(self) -> str:
        # As `docker ps` shows it.
        return self.inspect("{{.Id}}")[:12]

    def exec(self, *command: str) -> str:
        return self.docker("exec", self.name, *command)

    def stop(self, signal: str = "SIGTERM") -> int:
        if signal == "SIGTERM":
            self.docker("stop", "-t", "90", self.name)
        else:
            self.docker("kill", "--signal", signal, self.name)
        return int(self.docker("wait", self.name))

    def again(self) -> None:
        self.docker("start", self.name)

    def remove(self) -> None:
        self.docker("rm", "-f", self.name)

    def restart_engine(self) -> None:
        self._restart("docker", "docker", "info")
