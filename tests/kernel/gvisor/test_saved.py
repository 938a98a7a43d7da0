"""gVisor pods that are saved while they run, and pods that go on from what was saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.core import wire
from support.runtime import DEADLINE_SECONDS, DaemonDouble, eventually

ANSWERS = names.RUN / "daemon.sock"
RUNTIME = "/opt/architect/current/bin/architect-runtime"
EMPTY_DIR = "/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/scratch"
SAVED = "/var/lib/architect/requests"


def policy(*containers: str, start_from: str | None = "warm", **more: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "migrate": "false",
        "start_from": start_from,
        "containers": {name: {} for name in containers or ("web",)},
        **more,
    }


class Saver:
    """Does what the daemon does with gVisor pods of one node, and stands in its place."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.root = Path(f"/proc/{node.machine.running_pid}/root")
        node.run("mkdir", "-p", str(names.RUN))
        self.daemon = DaemonDouble(self.root / str(names.RUN)[1:])

    def keeper(self) -> wire.Client:
        path = self.root / str(names.KEEPER_SOCKET)[1:]
        return wire.Client(path, timeout_seconds=DEADLINE_SECONDS)

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        with self.keeper() as client:
            return client.call(op, **arguments)

    def save(self, pod: Any) -> str:
        """Copy a running pod; return where the copy lies."""
        directory = f"{SAVED}/{pod.name}"
        with self.keeper() as client:
            client.call("copy", pod=pod.name, reason="test")
            self.pack(pod, directory)
            client.call("go_on", pod=pod.name)
        return directory

    def pack(self, pod: Any, directory: str) -> None:
        self.node.run("mkdir", "-p", directory)
        self.node.run(RUNTIME, "save-files", pod.name, "--into", directory)

    def bring(self, directory: str) -> None:
        """Have what was saved come for each pod that asks."""

        def arriving(asked: dict[str, Any]) -> dict[str, Any]:
            target = names.ARRIVALS / asked["pod"]
            if not (self.root / str(target)[1:]).exists():
                self.node.run("mkdir", "-p", str(names.ARRIVALS))
                self.node.run("cp", "-r", directory, str(target))
            return {"restore": self.has_come(asked["pod"])}

        self.daemon.answers["arriving"] = arriving

    def has_come(self, uid: str) -> bool:
        return (self.root / str(names.ARRIVALS)[1:] / uid / "sandbox/image").is_dir()

    def close(self) -> None:
        self.daemon.close()
        for directory in (SAVED, names.ARRIVALS, names.PODS):
            self.node.run("rm", "-rf", str(directory))


@pytest.fixture
def saver(node: Any) -> Iterator[Saver]:
    made = Saver(node)
    yield made
    made.close()


def test_several_pods_go_on_from_one_that_goes_on_itself(
    saver: Saver, new_pod: Callable[..., Any]
) -> None:
    saver.daemon.answers["arriving"] = {"restore": False, "reason": "NoPersistentCheckpoint"}
    old = new_pod(policy=policy("web", "side"))
    scratch = EMPTY_DIR.format(uid=old.name)
    saver.node.run("mkdir", "-p", scratch)
    mount = {"host_path": scratch, "container_path": "/scratch"}
    opt = {"host_path": "/opt", "container_path": "/opt", "readonly": True}
    journal = {"envs": [{"key": "JOURNAL", "value": "/scratch/journal"}], "mounts": [opt, mount]}
    old.server("web", **journal)
    old.server("side", port=9090)
    old.exec("web", "sh", "-c", "echo layer >/root/file; echo shared >/dev/shm/file")
    before = old.get("/digest")
    directory = saver.save(old)
    assert old.get()["count"] == before["count"] + 1, "it went on"
    saver.bring(directory)
    for _ in range(2):
        new = new_pod(policy=policy("web", "side"))
        target = EMPTY_DIR.format(uid=new.name)
        saver.node.run("mkdir", "-p", target)
        mount["host_path"] = target
        new.start("web", "python3", "-u", "/opt/memory.py", "4", "8080", **journal)
        assert not new.answers(), "it waits for the other one"
        new.start("side", "python3", "-u", "/opt/memory.py", "4", "9090")
        eventually(new.answers, what="an answer of the one that goes on")
        after = new.get("/digest")
        assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
        assert after["host"] == new.name
        assert after["count"] > before["count"]
        assert new.get(port=9090)["host"] == new.name
        assert new.exec("web", "cat", "/root/file", "/dev/shm/file") == "layer\nshared"
        lines = saver.node.run("cat", f"{target}/journal").split()
        assert lines[::2] == [before["identity"]] * (len(lines) // 2)
        assert int(lines[-1]) == after["count"], "the file goes on where it was"
        assert not saver.has_come(new.name)
        assert new.stop("web") == 7, "its own handler"
