"""What /proc and the lower runtime say about one managed container.

Everything is read anew when asked: a pid is only trusted together with its start time, since pids
are used again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from architect.core import clocks
from architect.core.errors import NodeError
from architect.shim import procfs
from architect.shim.keeper.initfiles import PIPE


@dataclass(frozen=True, kw_only=True)
class Init:
    """The living PID 1 of a container, seen from the host."""

    pid: int
    start_time: int
    """Clock ticks after boot, field 22 of /proc/PID/stat."""

    @property
    def is_alive(self) -> bool:
        """Whether the same process still runs (a zombie does not)."""
        found = _stat(self.pid)
        return found is not None and found.start_time == self.start_time and found.state != "Z"


@dataclass(frozen=True)
class _Stat:
    """What is used of /proc/PID/stat."""

    state: str
    parent: int
    start_time: int
    cpu_ticks: int


def age_seconds(init: Init) -> float:
    """Return how long ago *init* was started, to a tick of the kernel's clock."""
    return max(0.0, clocks.boot_seconds() - init.start_time / os.sysconf("SC_CLK_TCK"))


def find_init(runc_root: str, container: str) -> Init | None:
    """Return the container's init as the lower runtime recorded it; None if there is none yet.

    runc writes ``state.json``, crun ``status``; neither needs to be started to be asked.
    """
    directory = Path(runc_root) / container
    for name, pid_key, start_key in (
        ("state.json", "init_process_pid", "init_process_start"),
        ("status", "pid", "process-start-time"),
    ):
        try:
            state = json.loads((directory / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        pid = state.get(pid_key) if isinstance(state, dict) else None
        if not isinstance(pid, int) or pid <= 0:
            continue
        found = _stat(pid)
        recorded = state.get(start_key)
        if found is None or found.state == "Z":
            return None
        if isinstance(recorded, int) and recorded and recorded != found.start_time:
            return None
        return Init(pid=pid, start_time=found.start_time)
    return None


def child_with_ns_pid(init_pid: int, ns_pid: int) -> int | None:
    """Return the host's pid of init's child that is *ns_pid* in its own namespace, if it lives."""
    for pid in children(init_pid):
        if ns_pids(pid)[-1:] == [ns_pid]:
            found = _stat(pid)
            return pid if found is not None and found.state != "Z" else None
    return None


def children(pid: int) -> list[int]:
    """Return the pids of *pid*'s children (all threads'); empty if it has ended."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends in between
        return found
    for thread in threads:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def tree(pid: int) -> Iterator[int]:
    """Yield *pid* and all its living descendants, parents first.

    However deep it is: a process that forks and waits, and does so again, makes one of thousands.
    """
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        yield each
        waiting.extend(reversed(children(each)))


def ns_pids(pid: int) -> list[int]:
    """Return *pid*'s numbers from the host's namespace inwards; empty if it has ended."""
    return [int(word) for word in procfs.status(pid).get("NSpid", "").split()]


def highest_ns_pid(pids: Iterable[int]) -> int:
    """Return the highest number in its own namespace of any thread of *pids*; 0 without any."""
    return max((n for pid in pids for n in _thread_numbers(pid)), default=0)


def _thread_numbers(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return
    if len(threads) == 1:
        yield from ns_pids(pid)[-1:]
        return
    for thread in threads:
        yield from ns_pids(int(thread))[-1:]


def is_alive(pid: int) -> bool:
    """Whether *pid* runs; a zombie does not."""
    found = _stat(pid)
    return found is not None and found.state not in ("Z", "X")


def all_pids() -> list[int]:
    """Return the pids of all processes that we can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def pid_namespace(pid: int) -> int | None:
    """Return the inode of *pid*'s pid namespace; None if it has ended or is not ours to ask."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except procfs.GONE:
        return None


def is_in_own_network(pid: int) -> bool:
    """Whether *pid* has a network namespace other than ours. Raises OSError if it has ended."""
    return os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino


def stdio_pipes(pid: int) -> dict[str, int]:
    """Return init's stdio pipes: ``pipe:[inode]`` to the descriptor number (0, 1 or 2).

    The application inherited the same pipes; CRIU is given init's ends for them at restore.
    """
    pipes: dict[str, int] = {}
    for number in (2, 1, 0):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except procfs.GONE:
            continue
        if PIPE.fullmatch(target):
            pipes[target] = number
    return pipes


def socket_inodes(pids: Iterator[int] | list[int]) -> set[int]:
    """Return the inodes of all sockets that the processes *pids* hold open."""
    inodes: set[int] = set()
    for pid in pids:
        directory = f"/proc/{pid}/fd"
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, ProcessLookupError):
            continue
        for name in names:
            try:
                target = os.readlink(f"{directory}/{name}")
            except procfs.GONE:
                continue
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    return inodes


def resident_bytes(pids: Iterator[int] | list[int]) -> int:
    """Return the anonymous and shared memory of *pids* in bytes: about what an image will hold."""
    total = 0
    for pid in pids:
        status = procfs.status(pid)
        for key in ("RssAnon", "RssShmem", "VmSwap"):
            if key in status:  # kernel threads and zombies have none
                total += int(status[key].split()[0]) * 1024
    return total


def command(pid: int) -> str:
    """Return *pid*'s argument vector for people, at most 80 characters; empty if it has ended."""
    return " ".join(arguments(pid))[:80]


def arguments(pid: int) -> list[str]:
    """Return *pid*'s argument vector; empty if it has ended."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [word.decode(errors="replace") for word in raw.rstrip(b"\0").split(b"\0")]


def parent(pid: int) -> int | None:
    """Return *pid*'s parent in our pid namespace; 0 if it lies outside, None if *pid* ended."""
    found = _stat(pid)
    return None if found is None else found.parent


def available_memory_bytes() -> int:
    """Return what the kernel estimates can be allocated without swapping (MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise NodeError("/proc/meminfo has no MemAvailable", reason="Kernel")


def _stat(pid: int) -> _Stat | None:
    try:
        fields = procfs.stat_of(Path(f"/proc/{pid}/stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Stat(
        state=fields[0],
        parent=int(fields[1]),
        start_time=int(fields[19]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
    )
