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
from typing import Final

from architect.core.errors import NodeError
from architect.shim import procfs

_GONE: Final = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
"""Of a file of a cgroup or process that is not there, or was removed between open and read."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a container has used and uses."""

    cpu_seconds: float
    memory_bytes: int
    processes: int


def of_process(pid: int) -> dict[str, Path]:
    """Return the cgroup directories of *pid* by controller; ``""`` is version 2's only one.

    Raises NodeError if it has ended: of a process that ends, version 1 tells the node's own ones.
    """
    found: dict[str, Path] = {}
    mounts = _mounts()
    try:
        lines = procfs.lines(f"/proc/{pid}/cgroup")
    except procfs.GONE:
        lines = []
    if not lines or procfs.is_ending(pid):
        raise NodeError(f"process {pid} has ended", reason="ContainerGone")
    for line in lines:
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
        return [int(pid) for pid in text(directory / "cgroup.procs").split()]
    except OSError as error:
        # A threaded cgroup of version 2 lists threads only: the lower runtime makes one where the
        # parent has processes of its own, as a login session has.
        if error.errno != errno.EOPNOTSUPP:
            raise
    threads = text(directory / "cgroup.threads").split()
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


def text(path: Path) -> str:
    """Return what a file says; nothing if its cgroup or process is gone. Raises OSError."""
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        if error.errno in _GONE:
            return ""
        raise


def _number(path: Path) -> int:
    try:
        return int(text(path))
    except ValueError:
        return 0


def _field(path: Path, name: str) -> int:
    return _fields(path).get(name, 0)


def _fields(path: Path) -> dict[str, int]:
    """Return a file's lines of a name and a number; nothing if it is gone."""
    lines = map(str.split, text(path).splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
