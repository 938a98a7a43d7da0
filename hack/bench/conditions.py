"""What every figure was measured under, as one line of text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

THP: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MEMORY: Final = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True)
class Host:
    """What does not change during a run."""

    kernel: str
    cgroup_version: int
    cores: int
    memory_gib: float
    huge_pages: str
    versions: Mapping[str, str]
    """Program to its version."""

    @classmethod
    def read(cls, *, cgroup_version: int, versions: Mapping[str, str]) -> Host:
        """Return this host's."""
        return cls(
            kernel=os.uname().release,
            cgroup_version=cgroup_version,
            cores=len(os.sched_getaffinity(0)),
            memory_gib=total_memory_bytes(MEMORY.read_text()) / (1 << 30),
            huge_pages=chosen(THP.read_text()) if THP.exists() else "not there",
            versions=versions,
        )

    def text(self) -> str:
        """Return it as part of a line."""
        programs = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"Linux {self.kernel}, cgroup v{self.cgroup_version}, {self.cores} cores, "
            f"{self.memory_gib:.0f} GiB, huge pages {self.huge_pages}; {programs}"
        )


class Load:
    """The load average from the beginning of a measure to its end."""

    def __init__(self) -> None:
        self._begin = os.getloadavg()[0]

    def text(self) -> str:
        """Return it as part of a line."""
        return f"load average {self._begin:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"


def line(host: Host, load: Load, *, notes: tuple[str, ...]) -> str:
    """Return the conditions of one measure: what is particular to it first."""
    return "; ".join([*notes, load.text(), host.text()])


def chosen(text: str) -> str:
    """Return the marked word of a kernel setting such as ``always [madvise] never``."""
    _, _, rest = text.partition("[")
    word, end, _ = rest.partition("]")
    return word if end else text.strip()


def total_memory_bytes(text: str) -> int:
    """Return the machine's memory from /proc/meminfo; 0 if it does not say."""
    for row in text.splitlines():
        if row.startswith("MemTotal:"):
            return int(row.split()[1]) * 1024
    return 0


def version_word(text: str) -> str:
    """Return the first word with a digit in it of what a program says about its version."""
    return next(
        (word for word in text.replace(",", " ").split() if any(c.isdigit() for c in word)),
        text.strip(),
    )
