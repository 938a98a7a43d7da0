"""Engines' calls for a container that sleeps: it is running, as far as they can see."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from architect.shim.keeper import cgroups, cpuquota
from support.mover import numbers
from support.runtime import IDLE, Container, Host, children, eventually, spec

Run = Callable[..., Container]

COUNTING = (
    "trap 'echo got TERM; exit 5' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
)


@pytest.fixture(params=["runc", "crun"])
def lower(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def asleep(node: Host, run: Run) -> Container:
    config = spec(["sh", "-c", COUNTING], annotations=IDLE)
    config["linux"]["resources"] = {"memory": {"limit": 64 << 20, "swap": 64 << 20}}
    container = run(config)
    container.until("3\n")
    node.runtime("sleep", container.id)
    return container


def state(node: Host, container: Container) -> str:
    return str(node.ask("status", container.id)["state"])


def goes_on(container: Container, before: str) -> None:
    """The next numbers follow the last one."""
    eventually(lambda: len(container.output()) > len(before) + 8, what="output after the wake")
    seen = numbers(container)
    assert seen == list(range(1, len(seen) + 1))


def test_state_and_ps_tell_of_a_running_container(node: Host, asleep: Container) -> None:
    told = json.loads(asleep.call("state", asleep.id).stdout)
    assert (told["status"], told["pid"]) == ("running", asleep.pid)
    assert json.loads(asleep.call("ps", "--format", "json", asleep.id).stdout) == [asleep.pid]
    assert state(node, asleep) == "asleep"


def test_limits_that_change_meanwhile_hold_after_the_wake(node: Host, asleep: Container) -> None:
    asleep.call("update", "--memory", str(40 << 20), asleep.id)
    assert state(node, asleep) == "asleep"
    before = asleep.output()
    node.runtime("wake", asleep.id)
    goes_on(asleep, before)
    # What came back is where the limit is. Its short-lived children may end meanwhile.
    cgroups = set()
    for pid in (asleep.pid, *json.loads(asleep.call("ps", "-f", "json", asleep.id).stdout)):
        with suppress(FileNotFoundError, ProcessLookupError):
            cgroups.add(Path(f"/proc/{pid}/cgroup").read_text())
    assert len(cgroups) == 1
    (inner,) = children(asleep.pid)
    assert Path(f"/proc/{inner}/cgroup").read_text() in cgroups


def test_a_cpu_quota_holds_again_after_the_wake(node: Host, asleep: Container) -> None:
    asleep.call("update", "--cpu-period", "100000", "--cpu-quota", "10000", asleep.id)
    before = asleep.output()
    node.runtime("wake", asleep.id)
    goes_on(asleep, before)
    (quota,) = cpuquota.found(asleep.id, [cgroups.of_process(asleep.pid)])
    assert quota.value.split()[0] == "10000"


def test_forced_delete_ends_it_without_a_wake(node: Host, asleep: Container) -> None:
    before = asleep.output()
    asleep.call("delete", "--force", asleep.id)
    assert asleep.wait() == 137
    assert asleep.output() == before
    eventually(lambda: node.ask("list")["pods"] == [], what="an empty list")
    assert list((node.run_directory / "containers").iterdir()) == []


@pytest.mark.parametrize("words", [("KILL",), ("9",)])
def test_sigkill_needs_no_wake(node: Host, asleep: Container, words: tuple[str, ...]) -> None:
    before = asleep.output()
    asleep.call("kill", asleep.id, *words)
    assert asleep.wait() == 137
    assert asleep.output() == before


@pytest.mark.parametrize("words", [("TERM",), ()])
def test_a_signal_wakes_and_arrives(asleep: Container, words: tuple[str, ...]) -> None:
    asleep.call("kill", asleep.id, *words)
    assert asleep.wait() == 5
    assert asleep.output().endswith("got TERM\n")


def test_a_paused_one_does_not_wake_before_it_is_resumed(node: Host, asleep: Container) -> None:
    asleep.call("pause", asleep.id)
    refused = asleep.call("exec", asleep.id, "true", check=False)
    assert refused.returncode != 0 and "paused" in refused.stderr
    assert state(node, asleep) == "asleep"
    before = asleep.output()
    asleep.call("kill", asleep.id, "USR1")  # waits in init; unhandled, it will end the application
    eventually(lambda: state(node, asleep) == "waking", what="a wake that waits")
    assert asleep.output() == before
    asleep.call("resume", asleep.id)
    assert asleep.wait() == 128 + signal.SIGUSR1


def test_a_paused_one_does_not_fall_asleep(node: Host, run: Run) -> None:
    container = run(spec(["sleep", "1000"], annotations=IDLE))
    container.call("pause", container.id)
    refused = node.runtime("sleep", container.id, check=False)
    assert refused.returncode == 2
    assert "container main is paused" in refused.stderr
    container.call("resume", container.id)
    node.runtime("sleep", container.id)
    assert state(node, container) == "asleep"


def test_a_keeper_that_comes_between_create_and_start_knows_it(node: Host) -> None:
    container = node.container(spec(["sh", "-c", COUNTING], annotations=IDLE), has_pipes=True)
    container.create()
    (warden,) = node.wardens()
    (keeper,) = children(warden)
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: set(children(warden)) - {keeper}, what="the next keeper")
    assert state(node, container) == "awake"
    container.call("start", container.id)
    container.until("3\n")
    node.runtime("sleep", container.id)
    before = container.output()
    node.runtime("wake", container.id)
    goes_on(container, before)
    container.remove()


def test_the_end_of_a_sleeping_ones_init_is_the_end(node: Host, asleep: Container) -> None:
    os.kill(asleep.pid, signal.SIGKILL)
    assert asleep.wait() == 137
    asleep.call("delete", asleep.id)
    eventually(lambda: node.ask("list")["pods"] == [], what="an empty list")
