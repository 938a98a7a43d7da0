"""Whether an engine has paused a container: what joins a frozen cgroup freezes with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from architect.shim.keeper import cgroups


def is_paused(directories: Mapping[str, Path]) -> bool:
    """Whether the cgroup of *directories* (:func:`.cgroups.of_process`) is frozen or freezing."""
    if (freezer := directories.get("freezer")) is not None:
        return cgroups.text(freezer / "freezer.state").strip() in ("FROZEN", "FREEZING")
    if (unified := directories.get("")) is not None:
        return cgroups.text(unified / "cgroup.freeze").strip() == "1"
    return False
