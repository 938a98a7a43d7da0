"""What this node is, as far as a checkpoint depends on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from architect.api import names
from architect.kube.checkpoints import Requirements

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""``uname -m`` → node label ``kubernetes.io/arch``."""

_CPU_FLAGS: Final = ("flags", "Features")
"""Of /proc/cpuinfo, on x86 and on ARM."""


def architecture() -> str:
    """Return the architecture as in the node label ``kubernetes.io/arch``."""
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)


def requirements(*, current: Path = names.CURRENT) -> Requirements:
    """Return what a node must have to go on with what runs on this one."""
    return Requirements(
        architecture=architecture(),
        cpu_features=cpu_features(Path("/proc/cpuinfo").read_text()),
        kernel=os.uname().release,
        criu=_criu(current),
    )


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """Return the CPU features that every processor has, sorted."""
    found: set[str] | None = None
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in _CPU_FLAGS:
            flags = set(value.split())
            found = flags if found is None else found & flags
    return tuple(sorted(found or ()))


def _criu(current: Path) -> str:
    """Return the version of the bundle's CRIU; empty if the bundle does not tell."""
    try:
        return (current / "criu.version").read_text().strip()
    except OSError:
        return ""
