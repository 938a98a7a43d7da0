"""Pods of one host that count, below the real keeper, and what is done to those that move."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from architect.api import saved
from architect.core import wire
from support.runtime import (
    DEADLINE_SECONDS,
    Container,
    DaemonDouble,
    Host,
    children,
    eventually,
    in_pod,
    spec,
)

POLICY: dict[str, Any] = {"version": 1, "migrate": "true", "containers": {"app": {}}}
COUNTING = (
    "trap 'echo got TERM; exit 5' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
)


class Events:
    """The keeper's events, in order."""

    def __init__(self, client: wire.Client) -> None:
        self._client = client

    def until(self, event: str) -> dict[str, Any]:
        """Return the next one of that kind."""
        while (told := self._client.receive()).get("event") != event:
            pass
        return told


class Mover:
    """Does what the daemon does between two pods of one host, without its files."""

    def __init__(self, host: Host, daemon: DaemonDouble) -> None:
        self.host = host
        self.daemon = daemon
        self._uids: dict[Container, str] = {}
        self._slept: set[str] = set()
        """Pods that slept when they were to be saved."""

    def pod(
        self,
        uid: str,
        args: list[str] | None = None,
        *,
        policy: dict[str, Any] = POLICY,
        env: Sequence[str] = (),
        mounts: Sequence[dict[str, Any]] = (),
        container: str = "app",
        netns: Path | None = None,
        user: int = 0,
        is_restricted: bool = False,
        capabilities: Sequence[str] = (),
    ) -> Container:
        """Return a container that is not created yet; *capabilities*: beside those of `spec`."""
        annotations = in_pod(uid, container=container, policy=policy)
        config = spec(
            args or ["sh", "-c", COUNTING],
            annotations=annotations,
            env=env,
            uid=user,
            is_restricted=is_restricted,
        )
        for held in config["process"]["capabilities"].values():
            held += [name for name in capabilities if name not in held]
        config["mounts"] += mounts
        if netns is not None:
            (network,) = [n for n in config["linux"]["namespaces"] if n["type"] == "network"]
            network["path"] = str(netns)
        made = self.host.container(config, has_pipes=True)
        self._uids[made] = uid
        return made

    def counting(self, uid: str, **more: Any) -> Container:
        """Return a pod that has counted to three."""
        made = self.pod(uid, **more).start()
        made.until("3\n")
        return made

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        path = self.host.run_directory / "keeper.sock"
        with wire.Client(path, timeout_seconds=DEADLINE_SECONDS) as client:
            return client.call(op, **arguments)

    @contextlib.contextmanager
    def events(self) -> Iterator[Events]:
        """Subscribe to what the keeper tells."""
        path = self.host.run_directory / "keeper.sock"
        with wire.Client(path, timeout_seconds=DEADLINE_SECONDS) as client:
            client.call("subscribe")
            yield Events(client)

    def _saved_files(self, uid: str) -> Path:
        made = self.host.state / "architect" / "checkpoints" / uid
        made.mkdir(parents=True, exist_ok=True)
        return made

    def save_on_leaving(self, uid: str, *, with_data: bool = False, container: str = "app") -> None:
        """Answer `leaving` with yes, after the pod was saved, *with_data*: its volume, too."""

        def leaving(_: dict[str, Any]) -> dict[str, Any]:
            answer = self.ask("capture", pod=uid, reason="test", patience_seconds=0.2)
            if with_data:
                words = [
                    "--into",
                    str(self._saved_files(uid)),
                    "--volume",
                    "data",
                    container,
                    "/data",
                ]
                self.host.runtime("save-files", uid, *words)
            self._slept.discard(uid)
            if answer["has_slept"]:
                self._slept.add(uid)
            self.ask("depart", pod=uid, reason="test")
            return {"captured": True}

        self.daemon.answers["leaving"] = leaving

    def leave(self, pod: Container, *, with_data: bool = False, container: str = "app") -> None:
        """Have kubelet's signal find a daemon that saves this pod."""
        self.save_on_leaving(self._uids[pod], with_data=with_data, container=container)
        pod.kill("TERM")
        assert pod.wait() == 128 + signal.SIGTERM

    def moved(self, uid: str, *, to: str, **more: Any) -> tuple[Container, Path]:
        """Return a pod that counted and left, and where its files wait for another one."""
        old = self.counting(uid, **more)
        self.leave(old)
        return old, self.bring(uid, to=to)

    def bring(self, uid: str, *, to: str) -> Path:
        """Put what was saved of one pod where another one finds it."""
        state = self.host.state / "architect"
        arrival = state / "arrivals" / to
        for source in (state / "pods" / uid).glob("*/image"):
            target = arrival / "containers" / source.parent.name
            target.mkdir(parents=True)
            for entry in ("image", "meta.json"):
                source.with_name(entry).rename(target / entry)
        for file in self._saved_files(uid).iterdir():
            file.rename(arrival / file.name)
        if uid in self._slept:
            (arrival / saved.ASLEEP).write_text("{}")
        self.daemon.answers["arriving"] = {"restore": True}
        return arrival / "containers" / "app"

    def state(self, uid: str) -> str:
        return str(self.ask("status", pod=uid)["status"]["state"])

    def kill_keeper(self) -> None:
        (warden,) = self.host.wardens()
        (keeper,) = children(warden)
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: set(children(warden)) - {keeper}, what="the next keeper")
        self.host.ask("list")

    def close(self) -> None:
        for container in self._uids:
            container.remove()


def numbers(container: Container) -> list[int]:
    """Return what it has counted; the last line may be half there."""
    whole, _, _ = container.output().rpartition("\n")
    return [int(word) for word in whole.split() if word.isdigit()]
