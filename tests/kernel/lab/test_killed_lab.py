"""`lab machine up` killed in the middle: `machine down` finds and removes what it had made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cgroups, leftovers, rootfs
from lab.cache import Cache
from lab.machine import Machine
from lab.settings import Settings

ATTEMPTS = 20
"""A kill that comes after the last step has met nothing; it is repeated."""

GONE_SECONDS = 90.0


@pytest.fixture(scope="module", autouse=True)
def root() -> None:
    """Build what machines are made from, so that no build is killed."""
    rootfs.node_root(Cache(Settings.from_environment().cache))


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine(f"killed-{os.getpid()}", settings=Settings.from_environment())
    yield made
    made.destroy()


def _lab(machine: Machine, action: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "lab", "machine", action, machine.name, *words]


def _run(machine: Machine, action: str, *words: str) -> str:
    done = subprocess.run(
        _lab(machine, action, *words), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _kill_at(machine: Machine, mark: Path) -> bool:
    """Kill `machine up` once *mark* is there; return whether that was before its end."""
    with subprocess.Popen(_lab(machine, "up")) as process:
        while process.poll() is None and not mark.exists():
            time.sleep(0.001)
        process.kill()
    return process.returncode == -signal.SIGKILL


def _processes(machine: Machine) -> set[int]:
    """Return the processes in the machine's cgroups, and those that were started for it."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cgroup").read_text() + "\n"
            words = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended
        if f"/{machine.name}\n" in text or f"/{machine.name}/" in text + words:
            found.add(int(process.name))
    return found


def _hostnames() -> set[str]:
    """Return the hostnames of all UTS namespaces that a process is in.

    The machine's has its name in it. The number of a namespace would not do: it goes to the next
    one that anybody makes.
    """
    holders = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            holders[os.readlink(process / "ns/uts")] = process.name
        except OSError:
            continue  # it has ended
    found = set()
    for pid in holders.values():
        words = ["nsenter", "-t", pid, "-u", "hostname"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        found.add(done.stdout.strip())  # empty: it has ended meanwhile
    return found


def _left(machine: Machine) -> list[str]:
    """Return everything that is still there of the machine."""
    settings = machine.settings
    found = [f"process {pid}" for pid in sorted(_processes(machine))]
    if machine.name in cgroups.present(state=settings.state, found=cgroups.hierarchies()):
        found.append("a cgroup")
    if leftovers.is_mounted_anywhere(machine.directory):
        found.append("a mount")
    if machine.name in _hostnames():
        found.append("a namespace")
    if machine.exists:
        found.append(str(machine.directory))
    return found


def _assert_gone(machine: Machine) -> None:
    # What was killed with its parent takes a moment to be gone.
    deadline = time.monotonic() + GONE_SECONDS
    while (left := _left(machine)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


@pytest.mark.parametrize(
    "mark",
    [
        # Its cgroups are being made; nothing runs in them.
        "machine.json",
        # Its first process is on its way into the root file system.
        "pid.json",
    ],
)
def test_a_machine_whose_making_was_killed_is_removed_and_made_again(
    machine: Machine, mark: str
) -> None:
    for _ in range(ATTEMPTS):
        if _kill_at(machine, machine.directory / mark):
            break
        _run(machine, "down")
    else:
        pytest.fail(f"no kill of {ATTEMPTS} came before the machine was made")
    assert _left(machine), "the kill left nothing to remove"
    _run(machine, "down")
    _assert_gone(machine)
    _run(machine, "up")
    assert _run(machine, "exec", "--", "hostname").strip() == machine.name
    assert machine.name in _hostnames()
    assert leftovers.is_mounted_anywhere(machine.directory)
    _run(machine, "down")
    _assert_gone(machine)
