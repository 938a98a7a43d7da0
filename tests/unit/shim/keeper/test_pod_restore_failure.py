"""After a failed restore: what may wake the pod, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from architect.api import names
from architect.api.keeper import PodState
from architect.api.policy import ContainerPolicy, OnRestoreFailure, Policy
from architect.core.errors import NodeError
from architect.shim.keeper import criu, failures
from architect.shim.keeper.container import Container
from architect.shim.keeper.loop import Future, Loop, Task, Timer
from architect.shim.keeper.network import PodNetwork
from architect.shim.keeper.pod import Pod


class NoTime(Loop):
    """Timers wait for the test."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []
        super().__init__()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self.timers.append((seconds, callback))
        return Timer(callback)

    def settle(self) -> None:
        while self._ready:
            self.run_once(at_most_seconds=0)


class Sleeper:
    """A container whose image can be restored once it is told so."""

    def __init__(self) -> None:
        self.restores = 0
        self.is_restorable = False
        self.reason = "Unknown"

    is_newcomer = False

    def find_init(self) -> object:
        return self

    def is_starting(self) -> bool:
        return False

    def is_running(self) -> bool:
        return False

    def exec_sessions(self) -> list[int]:
        return []

    def cgroups(self) -> dict[str, Path]:
        return {}

    def restore(self, loop: Loop, server: criu.Server) -> Task[None]:
        self.restores += 1
        if not self.is_restorable:
            raise NodeError("restore ended with status 1", reason=self.reason)
        yield from ()

    def forget_image(self) -> None: ...


class HeldPackets:
    """Packets that want the pod awake, at once and again with every turn."""

    def __init__(self) -> None:
        self.on_wake: Callable[[str], None] = lambda _: None
        self.failures: list[str] = []

    def prepare_wake(self) -> None: ...

    def release(self) -> Task[int]:
        yield from ()
        return 3

    def fail(self, reason: str) -> None:
        self.failures.append(reason)
        self.retransmit()

    def retransmit(self) -> None:
        for _ in range(3):
            self.on_wake("connection from 10.0.0.9:5000 to port 80")

    def state(self) -> None:
        return None


class SafePod(Pod):
    """What is written of it is on the disk at once."""

    def save_for_good(self) -> Future[None]:
        self.save()
        saved: Future[None] = Future()
        saved.set_result(None)
        return saved


class Bench:
    def __init__(self, policy: OnRestoreFailure) -> None:
        self.loop = NoTime()
        self.container = Sleeper()
        self.network = HeldPackets()
        self.events: list[str] = []
        self.pod = SafePod(
            uid="uid-1",
            namespace="shop",
            name="web-0",
            policy=Policy(containers={"app": ContainerPolicy()}, on_restore_failure=policy),
            loop=self.loop,
            server=cast(criu.Server, None),
            network=cast(PodNetwork, self.network),
            emit=lambda event, _: self.events.append(event.value),
        )
        self.pod.containers["app"] = cast(Container, self.container)
        self.pod.state = PodState.ASLEEP

    def packets(self) -> None:
        self.network.retransmit()
        self.loop.settle()

    def fire(self, number: int) -> None:
        self.loop.timers[number][1]()
        self.loop.settle()

    def command(self) -> Any:
        done = self.loop.spawn(self.pod.wake(reason="asked"), name="wake")
        self.loop.settle()
        return done.result()


@pytest.fixture(autouse=True)
def _directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(names, "STATE", tmp_path)
    monkeypatch.setattr(names, "PODS", tmp_path / "pods")


def test_packets_do_not_shorten_the_pause_between_attempts() -> None:
    bench = Bench(OnRestoreFailure.RETRY)
    for attempt in range(6):
        for _ in range(5):
            bench.packets()
        assert bench.container.restores == attempt + 1
        assert bench.pod.state is PodState.FAILED
        assert len(bench.loop.timers) == attempt + 1
        bench.fire(attempt)
    pauses = [seconds for seconds, _ in bench.loop.timers]
    assert pauses[:4] == list(failures.RETRY_SECONDS)
    assert set(pauses[4:]) == {failures.RETRY_SECONDS[-1]}


def test_what_no_pause_mends_is_not_tried_again() -> None:
    bench = Bench(OnRestoreFailure.RETRY)
    bench.container.reason = "VolumeChanged"
    for _ in range(5):
        bench.packets()
    assert bench.container.restores == 1
    assert bench.pod.state is PodState.FAILED
    assert bench.loop.timers == []


def test_a_retry_that_works_ends_the_pauses() -> None:
    bench = Bench(OnRestoreFailure.RETRY)
    bench.packets()
    bench.container.is_restorable = True
    bench.packets()
    assert bench.container.restores == 1
    bench.fire(0)
    assert bench.pod.state is PodState.AWAKE
    assert bench.events == ["wake-failed", "woke"]


def test_a_pause_that_a_command_has_overtaken_does_nothing() -> None:
    bench = Bench(OnRestoreFailure.RETRY)
    bench.packets()
    with pytest.raises(NodeError):
        bench.command()
    assert bench.container.restores == 2
    bench.fire(0)
    assert bench.container.restores == 2, "the second failure has a longer pause of its own"
    bench.fire(1)
    assert bench.container.restores == 3


def test_with_the_policy_fail_only_a_command_wakes() -> None:
    bench = Bench(OnRestoreFailure.FAIL)
    for _ in range(5):
        bench.packets()
    assert bench.container.restores == 1
    assert bench.loop.timers == []
    assert bench.network.failures == ["restore ended with status 1"]
    bench.container.is_restorable = True
    bench.packets()
    assert bench.container.restores == 1
    bench.command()
    assert bench.pod.state is PodState.AWAKE
