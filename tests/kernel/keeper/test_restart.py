"""A keeper that is killed in the middle of a sleep or a wake, and the one after it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from architect.api import names
from architect.api.keeper import PodState
from architect.shim import record_files
from architect.shim.keeper import processes
from architect.shim.keeper.loop import Future
from architect.shim.keeper.network import NodeNetwork
from architect.shim.keeper.pod import Pod
from architect.shim.keeper.programs import Children, Programs
from architect.shim.keeper.service import Service
from architect.shim.keeper.warden import Warden
from support.sleepers import Keeper, Sleeper

Make = Callable[..., Sleeper]


@pytest.fixture
def sleeper(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sleeper:
    """A container whose record the services find."""
    made = make(mebibytes=256)
    monkeypatch.setattr(names, "CONTAINER_RECORDS", tmp_path / "records")
    names.CONTAINER_RECORDS.mkdir()
    record = {"version": record_files.VERSION, **asdict(made.container.record)}
    record_files.path(made.container.record.id).write_text(json.dumps(record))
    return made


class Running:
    """One keeper and the pod that it knows."""

    def __init__(self, keeper: Keeper, sleeper: Sleeper) -> None:
        self.keeper = keeper
        self.network = NodeNetwork(keeper.loop, Warden())
        self.service = Service(
            loop=keeper.loop,
            server=keeper.server,
            network=self.network,
            programs=Programs(keeper.loop, Children(keeper.loop)),
            version="test",
        )
        self.service.recover()
        self.pod: Pod = self.service.pods.register(sleeper.container.record.id)
        keeper.on_close.append(self.die)

    def sleep(self) -> Future[None]:
        task = self.pod.sleep(reason="test", patience_seconds=5.0)
        return self.keeper.loop.spawn(task, name="sleep")

    def wake(self) -> Future[None]:
        return self.keeper.loop.spawn(self.pod.wake(reason="test"), name="wake")

    def die(self) -> None:
        """As by SIGKILL: what is under way is dropped, descriptors are closed."""
        self.pod.close()
        self.network.origins.close()
        self.keeper.server.close()


def stop_in(keeper: Keeper, kind: str, sleeper: Sleeper, of: Future[None]) -> tuple[int, int]:
    """Stop CRIU in the middle of its work; return its supervisor's pid and its own."""
    while True:
        supervisor, pid = keeper.working(kind, of=of)
        if kind == "dump":
            keeper.turn_until(
                lambda: of.is_done or sleeper.has_written_pages(), what="pages in the image"
            )
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            continue
        if processes.children(pid) if kind == "restore" else not of.is_done:
            return supervisor, pid
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("ending", ["CRIU goes on", "CRIU is killed"])
def test_a_keeper_killed_while_a_pod_falls_asleep(
    sleeper: Sleeper, keeper: Keeper, ending: str
) -> None:
    first = Running(keeper, sleeper)
    _, (_, pid) = keeper.caught(
        first.sleep,
        lambda work: stop_in(keeper, "dump", sleeper, work),
        undo=lambda: keeper.until(first.wake()),
    )
    first.die()
    second = Running(keeper.again(), sleeper)
    wake = second.wake()
    for _ in range(5):
        second.keeper.turn()
    assert not wake.is_done
    os.kill(pid, signal.SIGCONT if ending == "CRIU goes on" else signal.SIGKILL)
    second.keeper.until(wake)
    assert second.pod.state is PodState.AWAKE
    sleeper.goes_on()
    second.keeper.until(second.sleep())
    second.keeper.until(second.wake())
    sleeper.goes_on()


@pytest.mark.parametrize("ending", ["CRIU goes on", "CRIU is killed", "all are killed"])
def test_a_keeper_killed_while_a_pod_wakes(sleeper: Sleeper, keeper: Keeper, ending: str) -> None:
    first = Running(keeper, sleeper)
    keeper.until(first.sleep())
    _, (supervisor, pid) = keeper.caught(
        first.wake,
        lambda work: stop_in(keeper, "restore", sleeper, work),
        undo=lambda: keeper.until(first.sleep()),
    )
    first.die()
    second = Running(keeper.again(), sleeper)
    wake = second.wake()
    for _ in range(5):
        second.keeper.turn()
    assert not wake.is_done
    if ending == "all are killed":
        os.kill(supervisor, signal.SIGKILL)
    os.kill(pid, signal.SIGCONT if ending == "CRIU goes on" else signal.SIGKILL)
    second.keeper.until(wake)
    assert second.pod.state is PodState.AWAKE
    sleeper.goes_on()
    assert len(sleeper.everything()) == 4
    second.keeper.until(second.sleep())
    second.keeper.until(second.wake())
    sleeper.goes_on()
