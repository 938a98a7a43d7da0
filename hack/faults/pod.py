"""A pod of one container in its own network, its clients, and what engine and API do for it."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from architect.api.keeper import Event
from architect.api.policy import Migrate
from architect.core import wire
from architect.core.errors import ArchitectError, Rejected, Unavailable
from architect.shim.keeper import processes
from faults import leaks
from faults.errors import FaultError
from faults.node import DEADLINE_SECONDS, RUN_NAME, Node, remove_cgroups
from kernel.packets.topology import POD, Topology
from support import runtime, traffic

APPLICATION: Final = Path(__file__).with_name("application.py")
MEBIBYTES: Final = 32
PORT: Final = 8080
EXIT_STATUS: Final = 7
"""Of the application, when it leaves by itself."""
_PASSING: Final = ("Busy", "Waking", "InFlight", "NotRunning", "UnheldSocket")
_numbers = itertools.count(1)


class Hook:
    """An OCI hook in which the lower runtime waits: the specification's own way to stop it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._reached = directory / f"{name}.reached"
        self._go = directory / f"{name}.go"
        self._enabled = directory / f"{name}.stop"

    def spec(self) -> dict[str, Any]:
        """Return it as config.json has it; it does nothing unless :meth:`stopping`."""
        words = (
            f"[ -e {self._enabled} ] || exit 0; rm {self._enabled}; touch {self._reached}; "
            f"while [ ! -e {self._go} ]; do sleep 0.02; done"
        )
        return {"path": "/bin/sh", "args": ["sh", "-c", words]}

    def stop_there(self) -> None:
        """Have the next one that comes wait."""
        self._enabled.touch()

    def has_come(self) -> bool:
        """Whether the runtime waits."""
        return self._reached.exists()

    def let_go(self) -> None:
        """Let it go on."""
        self._enabled.unlink(missing_ok=True)
        self._go.touch()


class Pod:
    """One pod; :meth:`close` removes it as engine and API do."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.uid = str(uuid.uuid4())
        number = next(_numbers)
        self.topology = Topology(prefix=f"{RUN_NAME}{os.getpid()}-{number}")
        self._cgroup = f"/{RUN_NAME}-{os.getpid()}-{number}"
        self.directory = node.directory / f"pod-{number}"
        self.directory.mkdir()
        self.hooks = {name: Hook(self.directory, name) for name in ("createRuntime", "poststop")}
        self.container: runtime.Container | None = None
        self.generation = 0
        """How many containers it has had."""
        self.statuses: list[int] = []
        """How those that ended did."""
        self.clients: list[traffic.Client] = []
        self.told: list[str] = []
        """What the keeper has told of losses."""
        self.returned = threading.Event()
        """Whether it was told that the pod is back after a loss of power."""
        self._listening = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    # As an engine

    def new_container(self) -> runtime.Container:
        """Return the next container, which is not created yet."""
        # No daemon is there to say that something comes for it.
        policy: dict[str, Any] = {"version": 1, "migrate": Migrate.NEVER.value}
        policy["containers"] = {"app": {"idle_seconds": 3600.0}}
        made = runtime.spec(
            [runtime.SYSTEM_PYTHON, "-Su", str(APPLICATION), str(MEBIBYTES)],
            annotations=runtime.in_pod(self.uid, policy=policy),
        )
        for namespace in made["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = f"/proc/{os.getpid()}/fd/{self.topology.pod.fileno()}"
        made["linux"]["cgroupsPath"] = f"{self._cgroup}-{self.generation}"
        made["hooks"] = {name: [hook.spec()] for name, hook in self.hooks.items()}
        self.generation += 1
        self.container = self.node.host.container(made, has_pipes=True)
        return self.container

    def run(self) -> None:
        """Create and start a container, and wait until its application serves."""
        container = self.new_container()
        container.start()
        container.until("serving")

    def serves_or_ends(self) -> bool:
        """Wait for either; whether it serves. Raises FaultError."""
        assert self.container is not None
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.has_ended():
            if "serving" in self.container.output():
                return True
            if time.monotonic() > deadline:
                raise FaultError(f"it neither serves nor ends: {self.said()}")
            time.sleep(0.01)
        return False

    def returns(self) -> bool:
        """Run a container after its node's power failed; whether it sleeps on. Raises FaultError.

        Else its application serves afresh.
        """
        self.returned.clear()
        container = self.new_container()
        container.start()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while "serving" not in container.output():
            if self.state() == "asleep":
                return True
            if self.has_ended() or time.monotonic() > deadline:
                raise FaultError(f"it neither serves nor sleeps: {self.said()}\n{self.node.log()}")
            time.sleep(0.01)
        return False

    def has_ended(self) -> bool:
        """Whether the container has been started and its PID 1 is gone."""
        container = self.container
        if container is None or not container.pid:
            return True
        try:
            stat = Path(f"/proc/{container.pid}/stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return True
        return stat.rpartition(")")[2].split()[0] in "ZX"

    def replace(self) -> None:
        """Remove a container that has ended and run another one, as kubelet does."""
        self.discard()
        self.run()

    def discard(self) -> None:
        """Remove the container, in whatever state it is."""
        container, self.container = self.container, None
        if container is None:
            return
        if not container.pid and (file := container.bundle / "init.pid").exists():
            container.pid = int(file.read_text() or 0)
        container.remove()
        if not container.pid:  # its creation failed half-way: see runc
            remove_cgroups(self._cgroup.lstrip("/"))
        if container.status is not None:
            self.statuses.append(container.status)

    def move_to(self, node: Node) -> None:
        """Be on *node*, where nothing of it runs: its old one's power failed."""
        assert self.container is not None
        with contextlib.suppress(ChildProcessError):
            if self.container.pid:
                self.statuses.append(self.container.wait())
        self.container.end_output()
        self.container = None
        self.topology.close()
        self.topology = Topology(prefix=f"{self.topology.prefix}b")
        self.node = node

    def said(self) -> str:
        """Return what its container and the runtime wrote."""
        return "" if self.container is None else self.container.said()

    def init(self) -> int:
        """Return the pid of its PID 1."""
        assert self.container is not None
        if self.container.pid:
            return self.container.pid
        # Still being created: the only one of all that is.
        for pid in leaks.below(os.getpid()):
            words = processes.arguments(pid)
            if len(words) == 2 and Path(words[0]).name in ("runc", "exe") and words[1] == "init":
                return pid
        raise FaultError(f"no PID 1 of {self.container.id} is there")

    def root(self) -> int:
        """Return the pid of the root of the application's tree. Raises FaultError if it is away."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (children := list(runtime.children(self.init()))):
            if time.monotonic() > deadline:
                raise FaultError(f"no application is below init {self.init()}")
            time.sleep(0.005)
        return children[0]

    def cgroup(self, controller: str) -> Path:
        """Return a cgroup of the container."""
        for line in Path(f"/proc/{self.init()}/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if controller in names.split(","):
                return Path("/sys/fs/cgroup") / controller / path.lstrip("/")
        unified = Path(f"/proc/{self.init()}/cgroup").read_text().partition("::")[2].strip()
        return Path("/sys/fs/cgroup") / unified.lstrip("/")

    # As a daemon

    def try_sleep(self) -> bool:
        """Put it to sleep; false where it was only busy. Raises ArchitectError."""
        try:
            self.node.ask("sleep", pod=self.uid, patience_seconds=5.0, reason="test", force=True)
        except Rejected as error:
            if error.reason not in _PASSING:
                raise
            return False
        return True

    def sleep(self) -> None:
        """Put it to sleep, however often that takes."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.try_sleep():
            if time.monotonic() > deadline:
                raise FaultError(f"it does not fall asleep: {self.node.log()[-3000:]}")
            time.sleep(0.02)

    def send(self, op: str) -> None:
        """Ask the keeper for something and do not wait for its answer."""
        with contextlib.suppress(Unavailable), self.node.client() as client:
            client.send(op, pod=self.uid, patience_seconds=5.0, reason="test", force=True)

    def state(self) -> str:
        """Return its state, as the keeper says."""
        return str(self.node.ask("status", pod=self.uid)["status"]["state"])

    @property
    def images(self) -> Path:
        """Where its images lie."""
        return self.node.state / "pods" / self.uid / "app"

    # As clients

    def start_clients(self, *, has_datagrams: bool, seed: int = 1) -> None:
        """Have clients ask without a pause."""
        kinds = (traffic.NewConnections, traffic.KeepAlive, traffic.Uploads)
        made: list[traffic.Client] = [
            kind(self.topology.client, POD[4], seed=seed + n)
            for n, kind in enumerate[Callable[..., traffic.Client]](kinds)
        ]
        made.append(traffic.NewConnections(self.topology.client, POD[6], seed=seed + 10))
        if has_datagrams:
            made.append(traffic.Datagrams(self.topology.client, POD[4], seed=seed + 20))
        for client in made:
            client.start()
        self.clients += made

    def pause_clients(self) -> None:
        """Have the clients ask nothing for a while."""
        for client in self.clients:
            client.pause()

    def resume_clients(self) -> None:
        """Have them go on."""
        for client in self.clients:
            client.resume()

    def stop_clients(self) -> list[str]:
        """End the clients; return what went wrong with them."""
        stopped, self.clients = self.clients, []
        for client in stopped:
            client.resume()
            client.stop()
        return [f"{client}" for client in stopped if client.errors]

    def abandon_clients(self) -> None:
        """End the clients of a server that is gone; they may wait for answers in vain."""
        abandoned, self.clients = self.clients, []
        for client in abandoned:
            client.abandon()

    def until_answered(self, more: int = 3) -> None:
        """Wait until each client has some more answers. Raises FaultError."""
        wanted = {id(client): client.answers + more for client in self.clients}
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(c.answers < wanted[id(c)] and not c.errors for c in self.clients):
            if time.monotonic() > deadline:
                told = "\n".join(map(str, self.clients))
                raise FaultError(f"clients get no answers:\n{told}\n{self.node.log()[-3000:]}")
            time.sleep(0.01)

    def ask(self, words: str, *, seconds: float = DEADLINE_SECONDS) -> str:
        """Ask the application once. Raises OSError."""
        with self.topology.client.open_socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(seconds)
            sock.connect((POD[4], PORT))
            sock.sendall(words.encode() + b"\n")
            heard = b""
            while not heard.endswith(b"\n"):
                data = sock.recv(4096)
                if not data:
                    raise ConnectionError(f"the connection ended after {heard!r}")
                heard += data
        return heard.decode().strip()

    def who(self) -> str:
        """Return the application's identity and the digest of its memory."""
        return self.ask("who")

    # What the keeper tells

    def _listen(self) -> None:
        """Follow what the keeper tells, whichever keeper it is."""
        while not self._listening.is_set():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as stream:
                stream.settimeout(0.2)
                stream.connect(str(self.node.socket))
                request = {"v": wire.PROTOCOL_VERSION, "op": "subscribe", "missed": True}
                stream.sendall(wire.encode(request))
                self._follow(stream)
            self._listening.wait(0.02)

    def _follow(self, stream: socket.socket) -> None:
        decoder = wire.Decoder()
        while not self._listening.is_set():
            with contextlib.suppress(TimeoutError):
                data = stream.recv(65536)
                if not data:
                    return
                for message in decoder.feed(data):
                    for each in (*message.get("missed", ()), message):
                        self._note(each)

    def _note(self, event: dict[str, Any]) -> None:
        losses = (Event.WAKE_FAILED.value, Event.SLEEP_FAILED.value)
        if event.get("pod") == self.uid and event.get("event") in losses:
            self.told.append(f"{event['event']} {event.get('reason')}: {event.get('message')}")
        is_ours = event.get("pod") == self.uid
        if is_ours and event.get("event") == Event.RESTORED.value and event.get("returned"):
            self.returned.set()

    # The end

    def close(self) -> None:
        """Remove everything of it, as when the API says that it is gone."""
        for hook in self.hooks.values():
            hook.let_go()
        self.abandon_clients()
        self.discard()
        self._listening.set()
        self._listener.join()
        with contextlib.suppress(ArchitectError):
            self.node.ask("forget", pod=self.uid)
        self.topology.close()


@contextlib.contextmanager
def opened(node: Node) -> Iterator[Pod]:
    """A pod that is gone afterwards."""
    made = Pod(node)
    try:
        yield made
    finally:
        made.close()
