"""A managed container in a network namespace of its own, below the real keeper and CRIU.

The node's directories are those of a private mount namespace (:class:`support.runtime.Host`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from architect.core import wire
from architect.core.errors import Rejected, Unavailable
from support import runtime
from support.patience import patient

DEADLINE_SECONDS = patient(90.0)
UID = "11111111-2222-3333-4444-555555555555"


class Node:
    """A host with a real keeper, started by the first container."""

    def __init__(self, directory: Path, *, bundle: Path) -> None:
        self.host = runtime.Host(directory, bundle=bundle)
        self._containers: list[runtime.Container] = []

    def run(
        self, argv: Sequence[str], *, netns: str, policy: dict[str, Any] | None = None
    ) -> runtime.Container:
        """Start a pod's only container in the network namespace at path *netns*."""
        app = {"idle_seconds": 3600.0, **(policy or {}).get("app", {})}
        whole = {"version": 1, "containers": {"app": app}}
        whole |= {k: v for k, v in (policy or {}).items() if k != "app"}
        made = runtime.spec(
            argv,
            annotations={
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.container-name": "app",
                "io.kubernetes.cri.sandbox-id": "sandbox",
                "io.kubernetes.cri.sandbox-uid": UID,
                "io.kubernetes.cri.sandbox-name": "web-0",
                "io.kubernetes.cri.sandbox-namespace": "shop",
                "architect.dev/policy": json.dumps(whole),
            },
        )
        capabilities = made["process"]["capabilities"]
        for name in capabilities:
            capabilities[name] = [*capabilities[name], "CAP_NET_RAW"]
        for namespace in made["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = netns
        container = self.host.container(made, has_pipes=True)
        self._containers.append(container)
        container.start()
        return container

    @property
    def pod_directory(self) -> Path:
        """Where the keeper keeps the pod's state and images."""
        return self.host.state / "architect/pods" / UID

    # The keeper

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Ask the keeper, also right after its restart."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                with wire.Client(
                    self.host.run_directory / "keeper.sock", timeout_seconds=DEADLINE_SECONDS
                ) as client:
                    return client.call(op, **arguments)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise AssertionError(f"no keeper: {self.log()[-4000:]}") from None
                time.sleep(0.02)

    def try_sleep(self, *, patience_seconds: float = 5.0) -> bool:
        """Put the pod to sleep; false if it did not come to rest."""
        try:
            self.ask("sleep", pod=UID, patience_seconds=patience_seconds, reason="test")
        except Rejected as error:
            assert error.reason in ("Busy", "Waking"), f"{error}\n{self._processes()}{self.log()}"
            return False
        return True

    def _processes(self) -> str:
        """Return what the containers consist of, and what they said."""
        told = ""
        for container in self._containers:
            words = [
                "ps",
                "-o",
                "pid,ppid,stat,wchan:20,args",
                "--forest",
                "-g",
                f"{container.pid}",
            ]
            told += subprocess.run(words, capture_output=True, text=True, check=False).stdout
            told += container.said()[-2000:]
        return told

    def begin_sleep(self) -> None:
        """Ask for a sleep and do not wait for the answer."""
        path = self.host.run_directory / "keeper.sock"
        with wire.Client(path, timeout_seconds=DEADLINE_SECONDS) as client:
            client.send("sleep", pod=UID, patience_seconds=5.0, reason="test")

    def sleep(self) -> None:
        """Put the pod to sleep, however often that takes."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.try_sleep():
            assert time.monotonic() < deadline, self.log()[-4000:]

    def wake(self) -> None:
        """Wake the pod by command."""
        self.ask("wake", pod=UID, reason="test")

    def status(self) -> dict[str, Any]:
        """Return the pod's status."""
        return dict(self.ask("status", pod=UID)["status"])

    def until_state(self, state: str) -> dict[str, Any]:
        """Wait for the pod to be in *state*."""
        return dict(
            runtime.eventually(
                lambda: (s := self.status())["state"] == state and s,
                what=f"{state}: {self.log()[-4000:]}",
            )
        )

    def log(self) -> str:
        """Return what the keeper said."""
        file = self.host.run_directory / "keeper.log"
        return file.read_text() if file.exists() else ""

    def keeper_pid(self) -> int:
        """Return the keeper's pid."""
        return int(self.ask("version")["pid"])

    def kill_keeper(self, before: int | None = None) -> None:
        """Kill the keeper, and wait for the next one that its warden starts."""
        before = before or self.keeper_pid()
        os.kill(before, signal.SIGKILL)
        runtime.eventually(lambda: self.keeper_pid() != before, what="another keeper")

    def close(self) -> None:
        """Remove the containers, the keeper and what it held."""
        for container in self._containers:
            container.remove()
        self.host.end_keeper()
        self.host.close()


@contextlib.contextmanager
def node(directory: Path, *, bundle: Path) -> Iterator[Node]:
    """A node that is gone afterwards."""
    made = Node(directory, bundle=bundle)
    try:
        yield made
    finally:
        made.close()
