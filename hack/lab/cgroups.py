"""A machine's cgroups, in every hierarchy of a host with cgroup v1, v2 or both.

With v1, children are made below the cgroup that this process is in: on a shared host the rest of
a hierarchy belongs to somebody else. With v2 they are made at the top of what is mounted, because
a cgroup with processes in it (a login session, say) cannot hand controllers to its children.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import errors, waiting

PARENT = "architect-lab"
"""Start of the name of the cgroup that holds those of all machines of one state directory."""

LEAF_INIT = "init"
LEAF_EXEC = "exec"
"""cgroup v2 forbids processes in a cgroup that hands controllers to its children: the machine's
services live in one leaf, commands run from outside in the other."""

MAKING_ATTEMPTS = 100

REQUIRED = frozenset({"cpu", "memory", "pids"})
"""v2 controllers without which kubelet does not start."""


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """One mounted hierarchy and the cgroup of this process in it."""

    version: int
    options: str
    """Mount options that name it: ``cpu,cpuacct``, ``none,name=systemd``, or "" for v2."""
    name: str
    mount: Path
    """Where it is mounted: the root of what this process can see of it."""
    own: Path
    """Directory of this process's own cgroup."""


def hierarchies(
    mountinfo: str | None = None, membership: str | None = None
) -> tuple[Hierarchy, ...]:
    """Read the hierarchies of this host from ``/proc/self/mountinfo`` and ``/proc/self/cgroup``."""
    mountinfo = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    membership = Path("/proc/self/cgroup").read_text() if membership is None else membership
    mounts: dict[frozenset[str], tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            mounts.setdefault(frozenset(), (root, point))
        elif kind == "cgroup":
            mounts.setdefault(_controllers(options.split(",")), (root, point))
    found = []
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        key = frozenset(names.split(",")) if names else frozenset()
        if key not in mounts:
            continue
        root, point = mounts[key]
        mount = Path(point)
        own = mount / os.path.relpath(path, root)
        if names:
            options = names if "name=" not in names else f"none,{names}"
            name = names.removeprefix("name=")
            found.append(Hierarchy(version=1, options=options, name=name, mount=mount, own=own))
        else:
            found.append(Hierarchy(version=2, options="", name="unified", mount=mount, own=own))
    if not found:
        raise errors.LabError("no cgroup hierarchy is mounted", hint="mount cgroup2")
    return tuple(found)


NOT_CONTROLLERS = frozenset({"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode"})


def _controllers(options: list[str]) -> frozenset[str]:
    return frozenset(
        o for o in options if o not in NOT_CONTROLLERS and not o.startswith("release_agent=")
    )


@dataclass(frozen=True, kw_only=True)
class MachineCgroups:
    """Where one machine's cgroups are. Kept on disk: another process may have to remove them."""

    version: int
    """The version that the machine sees."""
    directories: tuple[Path, ...]
    hierarchies: tuple[Mapping[str, Any], ...]

    @classmethod
    def plan(cls, name: str, *, state: Path, found: tuple[Hierarchy, ...]) -> MachineCgroups:
        """Decide where the cgroups of machine *name* of the lab in *state* go.

        A hybrid host counts as v1: the controllers are there.
        """
        v1 = tuple(h for h in found if h.version == 1)
        return cls(
            version=1 if v1 else 2,
            directories=tuple(parent / name for parent in parents(state=state, found=found)),
            hierarchies=tuple(
                {
                    "options": h.options,
                    "name": h.name,
                    "links": h.name.split(",") if "," in h.name else [],
                }
                for h in v1
            ),
        )

    def create(self) -> None:
        """Make the directories; those that exist are kept."""
        for directory in self.directories:
            _make(directory)
            self._inherit_cpuset(directory)
        if self.version == 2:
            (machine,) = self.directories
            # From the top: a child gets only what its parent hands down.
            for level in (machine.parent.parent, machine.parent):
                delegate(level)
            missing = REQUIRED - set((machine / "cgroup.controllers").read_text().split())
            if missing:
                raise errors.LabError(
                    f"{machine}: no controllers {', '.join(sorted(missing))}",
                    hint=f"{machine.parent.parent} has processes in it or lacks them itself",
                )
            (machine / LEAF_INIT).mkdir(exist_ok=True)
            (machine / LEAF_EXEC).mkdir(exist_ok=True)

    def hand_down(self) -> None:
        """Give the machine's own cgroups all controllers, once its processes are in their leaves.

        Not before: the first process enters the machine's cgroup itself, because that becomes the
        root of its cgroup namespace, and a cgroup that hands controllers down takes none.
        """
        if self.version == 2:
            (machine,) = self.directories
            delegate(machine)

    def join_files(self, *, leaf: str) -> list[str]:
        """Return the ``cgroup.procs`` files by which a process enters the machine."""
        below = leaf if self.version == 2 else ""
        return [str(directory / below / "cgroup.procs") for directory in self.directories]

    def destroy(self, *, timeout_seconds: float = 30) -> None:
        """Kill every process in the cgroups and remove them. What is gone already is no error."""
        waiting.until(
            lambda: not self._kill(),
            what=f"end of all processes in {self.directories[0]}",
            timeout_seconds=timeout_seconds,
            interval_seconds=0.05,
        )
        waiting.until(
            self._remove,
            what=f"removal of {self.directories[0]}",
            timeout_seconds=timeout_seconds,
            interval_seconds=0.05,
        )

    def _inherit_cpuset(self, directory: Path) -> None:
        # A new v1 cpuset is empty and takes no process.
        for level in (directory.parent, directory):
            for file in ("cpuset.cpus", "cpuset.mems"):
                path = level / file
                if self.version == 1 and path.exists() and not path.read_text().strip():
                    path.write_text((level.parent / file).read_text())
        clone = directory / "cgroup.clone_children"
        if (directory / "cpuset.cpus").exists() and clone.exists():
            clone.write_text("1")

    def _kill(self) -> bool:
        """Kill what is in the cgroups; return whether there was anything."""
        pids = set()
        for directory in self.directories:
            for folder, _, _ in os.walk(directory):
                _thaw(Path(folder))
                try:
                    pids.update(Path(folder, "cgroup.procs").read_text().split())
                except (FileNotFoundError, OSError):
                    continue  # removed while walking
        for pid in pids:
            try:
                # 0: a process of another pid namespace than ours, not ours to kill
                if pid != "0":
                    os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        return bool(pids)

    def _remove(self) -> bool:
        for directory in self.directories:
            for folder, _, _ in os.walk(directory, topdown=False):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    continue
                except OSError:
                    return False  # EBUSY: a dying process is still counted
            try:
                directory.parent.rmdir()
            except OSError:
                continue  # other machines are there
        return True


def parents(*, state: Path, found: tuple[Hierarchy, ...]) -> tuple[Path, ...]:
    """Return the cgroup, in each hierarchy, that holds those of all machines of the lab in *state*.

    A hybrid host counts as v1.
    """
    name = f"{PARENT}-{hashlib.sha256(str(state).encode()).hexdigest()[:8]}"
    is_first = any(h.version == 1 for h in found)
    return tuple((h.own if is_first else h.mount) / name for h in found)


def present(*, state: Path, found: tuple[Hierarchy, ...]) -> set[str]:
    """Return the names of the machines of the lab in *state* that have a cgroup somewhere."""
    names: set[str] = set()
    for parent in parents(state=state, found=found):
        with contextlib.suppress(FileNotFoundError):  # there are none, or the last one has ended
            names |= {entry.name for entry in parent.iterdir() if entry.is_dir()}
    return names


def _make(directory: Path) -> None:
    """Make a machine's cgroup, whose parent the end of the last other machine may remove."""
    for _ in range(MAKING_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            directory.mkdir(parents=True, exist_ok=True)
            return
    raise errors.LabError(f"{directory}: its parent is removed again and again")


def _thaw(directory: Path) -> None:
    """Let what is frozen in a cgroup run: with v1 it would not even die before.

    A container is frozen while it is dumped, and whoever froze it may have been killed.
    """
    state = directory / "freezer.state"
    try:
        if state.exists() and state.read_text().strip() != "THAWED":
            state.write_text("THAWED")
    except OSError:
        return  # removed meanwhile


def delegate(directory: Path) -> None:
    """Hand every controller of a v2 cgroup down to its children, as far as the kernel lets us.

    The host's own cgroup may hold processes and then refuses (EBUSY): what it hands down already
    must do.
    """
    available = (directory / "cgroup.controllers").read_text().split()
    for controller in available:
        try:
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue
