"""Whether an engine has paused a container: what joins a frozen cgroup freezes with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def is_paused(directories: Mapping[str, Path]) -> bool:
    """Whether the cgroup of *directories* (:func:`.cgroups.of_process`) is frozen or freezing."""
    if (freezer := directories.get("freezer")) is not None:
        return _read(freezer / "freezer.state") in ("FROZEN", "FREEZING")
    if (unified := directories.get("")) is not None:
        return _read(unified / "cgroup.freeze") == "1"
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
