"""Pods by way of the CRI, as a kubelet makes them, on a machine without one."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, ClassVar

import pytest

from architect.api import names
from lab import errors, images
from lab.machine import Machine
from support.runtime import eventually

LOGS = "/var/log/pods"


class Node:
    """The machine, as a kubelet on it would use it: of its programs only ``crictl``."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, *words: str, timeout_seconds: float = 180) -> str:
        return self.machine.exec(words, timeout_seconds=timeout_seconds).strip()

    def crictl(self, *words: str) -> str:
        return self.run("crictl", *words)

    def fails(self, *words: str) -> str:
        """Run what must fail; return what it said."""
        with pytest.raises(errors.CommandFailed) as caught:
            self.run(*words)
        return str(caught.value)

    def path(self, path: str | Path) -> Path:
        """Return where the machine's absolute *path* is for the host."""
        return Path(f"/proc/{self.machine.running_pid}/root", str(path).lstrip("/"))

    def write(self, path: str, text: str) -> str:
        self.path(path).write_text(text)
        return path


class Pod:
    """One pod with its containers."""

    RUNTIME: ClassVar[str] = names.RUNTIME_CLASS
    """Its runtime handler, if it is told no other."""
    SECURITY: ClassVar[dict[str, Any]] = {"security_context": {"namespace_options": {"pid": 1}}}
    """As kubelet has it unless told otherwise: each container has processes of its own."""
    SERVER = ("python3", "-u", "/opt/memory.py", "4")
    """The words of a server of memory, but for its port."""

    def __init__(
        self, node: Node, *, policy: dict[str, Any] | None = None, runtime: str | None = None
    ) -> None:
        self.node = node
        self.runtime = runtime or self.RUNTIME
        self.name = f"pod-{uuid.uuid4().hex[:8]}"
        self.logs = f"{LOGS}/{self.name}"
        node.path(self.logs).mkdir(parents=True)
        config = {
            "metadata": {"name": self.name, "namespace": "default", "uid": self.name},
            "hostname": self.name,
            "log_directory": self.logs,
            "linux": {"cgroup_parent": f"/{self.name}", **self.SECURITY},
            "annotations": {} if policy is None else {names.POLICY: json.dumps(policy)},
            "labels": self._labels(),
        }
        self.file = node.write(f"/run/{self.name}.json", json.dumps(config))
        self.containers: dict[str, str] = {}
        self.id = ""
        self.run()

    def _labels(self, **more: str) -> dict[str, str]:
        """Return what kubelet labels containers with; CRI-O tells runtimes no other names."""
        told = {"pod.name": self.name, "pod.namespace": "default", "pod.uid": self.name, **more}
        return {f"io.kubernetes.{key}": value for key, value in told.items()}

    def run(self) -> None:
        """Make its sandbox, as kubelet does once more where one has ended."""
        if self.id:
            self.remove()
        self.containers = {}
        self.id = self.node.crictl("runp", "--runtime", self.runtime, self.file)

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
            "linux": self.SECURITY,
            "labels": self._labels(**{"container.name": name}),
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
        self, path: str = "/", *, port: int = 8080, within_seconds: float = 60
    ) -> dict[str, Any]:
        """Ask a server by the pod's address, from the node's network."""
        url = f"http://{self.address}:{port}{path}"
        words = ["curl", "-sS", "--max-time", str(within_seconds), url]
        return dict(json.loads(self.node.machine.run_in_network(*words)))

    def answers(self, port: int = 8080, *, within_seconds: float = 60) -> bool:
        try:
            return bool(self.get(port=port, within_seconds=within_seconds))
        except errors.CommandFailed:
            return False

    def exec(self, name: str, *command: str) -> str:
        return self.node.crictl("exec", self.containers[name], *command)

    def log(self, name: str) -> str:
        return self.node.path(f"{self.logs}/{name}.log").read_text()

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

    def stop(self, name: str, *, grace_seconds: int = 60) -> int:
        self.node.crictl("stop", "--timeout", str(grace_seconds), self.containers[name])
        return self.until_ended(name)

    def remove(self) -> None:
        self.node.crictl("stopp", self.id)
        self.node.crictl("rmp", "--force", self.id)
