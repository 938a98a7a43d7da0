"""What processes take, read from a machine's /proc. Parsing is pure."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import BenchError

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a process holds, in bytes."""

    private: int
    """Would be free without it."""
    proportional: int
    """With its share of what it has in common with others (PSS)."""
    resident: int

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            private=self.private + other.private,
            proportional=self.proportional + other.proportional,
            resident=self.resident + other.resident,
        )


NOTHING: Final = Memory(private=0, proportional=0, resident=0)


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process by what the tables of /proc say of it."""

    pid: int
    parent: int
    command: str
    cgroups: str


def memory_of(rollup: str) -> Memory:
    """Return what ``smaps_rollup`` says. Raises BenchError for a text that is none."""
    kib: dict[str, int] = {}
    for line in rollup.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            kib[name] = int(words[0])
    try:
        private = kib["Private_Clean"] + kib["Private_Dirty"] + kib.get("Private_Hugetlb", 0)
        return Memory(
            private=private * 1024,
            proportional=kib["Pss"] * 1024,
            resident=kib["Rss"] * 1024,
        )
    except KeyError as error:
        raise BenchError(f"smaps_rollup has no {error}") from error


def ticks_of(stat: str) -> int:
    """Return the processor time of a process and its ended, reaped children from its ``stat``."""
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])


def parent_of(stat: str) -> int:
    """Return the parent from ``stat``."""
    return int(stat.rpartition(")")[2].split()[1])


def descendants(processes: Iterable[Process], top: int) -> list[Process]:
    """Return *top* and everything below it."""
    by_parent: dict[int, list[Process]] = {}
    found: list[Process] = []
    for process in processes:
        by_parent.setdefault(process.parent, []).append(process)
        if process.pid == top:
            found.append(process)
    for process in found:
        found += by_parent.get(process.pid, [])
    return found


def cpu_seconds(files: Mapping[str, str]) -> float:
    """Return the processor time of a cgroup from its files: version 1's or version 2's."""
    if "cpuacct.usage" in files:
        return int(files["cpuacct.usage"]) / 1e9
    for line in files.get("cpu.stat", "").splitlines():
        if line.startswith("usage_usec "):
            return int(line.split()[1]) / 1e6
    raise BenchError(f"no processor time in {sorted(files)}")


class ProcTable:
    """The processes of a machine. What has ended in between is left out."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc

    def processes(self) -> list[Process]:
        """Return every process."""
        found = []
        for entry in self._proc.iterdir():
            if not entry.name.isdigit():
                continue
            try:
                found.append(
                    Process(
                        pid=int(entry.name),
                        parent=parent_of((entry / "stat").read_text()),
                        command=(entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(),
                        cgroups=(entry / "cgroup").read_text(),
                    )
                )
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def memory(self, processes: Iterable[Process]) -> Memory:
        """Return what *processes* hold together."""
        total = NOTHING
        for process in processes:
            try:
                text = (self._proc / str(process.pid) / "smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            total += memory_of(text)
        return total

    def cpu_seconds(self, processes: Iterable[Process]) -> float:
        """Return the processor time that *processes* have used together."""
        ticks = 0
        for process in processes:
            try:
                ticks += ticks_of((self._proc / str(process.pid) / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
        return ticks / TICKS_PER_SECOND


class Peak:
    """The most memory that one process of a machine has held at once since the last look."""

    def __init__(self, proc: Path, command: str) -> None:
        """Find the process by a part of its command. Raises BenchError unless it is one."""
        found = [p for p in ProcTable(proc).processes() if command in p.command]
        if len(found) != 1:
            raise BenchError(f"{len(found)} processes run {command!r} instead of one")
        self._process = proc / str(found[0].pid)
        self._forget()

    def take(self) -> int:
        """Return the peak in bytes, and begin anew. Raises BenchError if the process is gone."""
        try:
            peak = peak_of((self._process / "status").read_text())
            self._forget()
        except (FileNotFoundError, ProcessLookupError) as error:
            raise BenchError(f"{self._process} ended while it was measured") from error
        return peak

    def _forget(self) -> None:
        # proc(5): 5 sets the peak to what the process holds now.
        (self._process / "clear_refs").write_text("5")


def peak_of(status: str) -> int:
    """Return the peak of a process's resident memory, in bytes, from its ``status``."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    raise BenchError("status has no VmHWM")


def cpu_cgroup(top: Path, container_id: str) -> Path:
    """Return the directory below *top* that counts a container's processor time.

    Raises BenchError if there is none.
    """
    for directory, names, _ in os.walk(top):
        if container_id in os.path.basename(directory):
            names.clear()
            with contextlib.suppress(BenchError):  # another hierarchy's
                read_cpu_seconds(Path(directory))
                return Path(directory)
    raise BenchError(f"no cgroup of container {container_id:.12} counts its processor time")


def read_cpu_seconds(directory: Path) -> float:
    """Return the processor time of the cgroup *directory*."""
    files = {}
    for name in ("cpuacct.usage", "cpu.stat"):
        path = directory / name
        if path.exists():
            files[name] = path.read_text()
    return cpu_seconds(files)
