"""A container's cgroups, in either version.

Version 1 has one hierarchy per group of controllers and a process is in each of them; version 2
has one. Paths in ``/proc/PID/cgroup`` are relative to the reader's cgroup namespace, and so are the
mounts, so both agree wherever the keeper runs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a container has used and uses."""

    cpu_seconds: float
    memory_bytes: int
    processes: int


def of_process(pid: int) -> dict[str, Path]:
    """Return the cgroup directories of *pid* by controller; ``""`` is version 2's only one."""
    found: dict[str, Path] = {}
    mounts = _mounts()
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            name = controller.removeprefix("name=")
            if (mount := mounts.get(name)) is not None:
                found[name] = mount / path.lstrip("/")
    return found


def entrances(directories: Mapping[str, Path]) -> list[Path]:
    """Return what the fork server needs in order to start CRIU in the container's cgroups.

    Each hierarchy once: the ``tasks`` file of version 1, the directory of version 2, into which
    clone3(2) places a child. A write to ``cgroup.procs`` would wait for an RCU grace period in
    either.
    """
    unique: dict[str, Path] = {}
    for controller, directory in directories.items():
        entrance = directory / "tasks" if controller else directory
        unique[os.path.realpath(directory)] = entrance
    return list(unique.values())


def members(directories: Mapping[str, Path]) -> list[int]:
    """Return the pids in the container's cgroup; empty when it is gone."""
    directory = directories.get("pids") or directories.get("memory") or directories.get("")
    if directory is None:
        return []
    try:
        return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno == errno.ENODEV:  # it was removed between open and read
            return []
        # A threaded cgroup of version 2 lists threads only: the lower runtime makes one where the
        # parent has processes of its own, as a login session has.
        if error.errno != errno.EOPNOTSUPP:
            raise
    threads = (directory / "cgroup.threads").read_text().split()
    return sorted({pid for thread in threads if (pid := _process(int(thread)))})


def usage(directories: Mapping[str, Path]) -> Usage:
    """Return the container's use of CPU and memory; zero for what is not accounted."""
    processes = len(members(directories))
    if (cpuacct := directories.get("cpuacct")) is not None:
        cpu_seconds = _number(cpuacct / "cpuacct.usage") / 1e9
    else:
        cpu_seconds = (
            _field(directories.get("", Path("/nonexistent")) / "cpu.stat", "usage_usec") / 1e6
        )
    if (memory := directories.get("memory")) is not None:
        memory_bytes = _number(memory / "memory.usage_in_bytes")
    else:
        memory_bytes = _number(directories.get("", Path("/nonexistent")) / "memory.current")
    return Usage(cpu_seconds=cpu_seconds, memory_bytes=memory_bytes, processes=processes)


def own_memory_bytes(directories: Mapping[str, Path]) -> int:
    """Return what of the container's memory lies in no file, in memory or swapped out: its image.

    Files that its processes have read, and what the kernel keeps for them, are not dumped.
    """
    if (memory := directories.get("memory")) is not None:
        found = _fields(memory / "memory.stat")
        return sum(found.get(f"total_{name}", 0) for name in ("rss", "shmem", "swap"))
    unified = directories.get("", Path("/nonexistent"))
    found = _fields(unified / "memory.stat")
    return found.get("anon", 0) + found.get("shmem", 0) + _number(unified / "memory.swap.current")


@cache
def _mounts() -> dict[str, Path]:
    """Where each controller is mounted in our mount namespace; read once, mounts do not move."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount_point = Path(before.split()[4])
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault("", mount_point)
        elif kind == "cgroup":
            for option in options.rsplit(" ", 1)[-1].split(","):
                found.setdefault(option.removeprefix("name="), mount_point)
    return found


def _process(thread: int) -> int:
    """Return the pid of the process that *thread* is one of; 0 if it has ended."""
    return _field(Path(f"/proc/{thread}/status"), "Tgid:")


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _field(path: Path, name: str) -> int:
    return _fields(path).get(name, 0)


def _fields(path: Path) -> dict[str, int]:
    """Return a file's lines of a name and a number; nothing if it is gone."""
    try:
        lines = map(str.split, path.read_text().splitlines())
    except FileNotFoundError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
