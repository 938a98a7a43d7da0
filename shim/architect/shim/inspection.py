"""What in a running pod keeps CRIU from dumping it, as far as /proc tells.

This explains; it does not decide: the keeper tries, and CRIU's own reason is the truth.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.shim.records import Unmanaged

PROC: Final = Path("/proc")
HARMLESS_DEVICES: Final = frozenset({(1, 3), (1, 5), (1, 7), (1, 8), (1, 9)})
"""null, zero, full, random, urandom: Linux' admin-guide/devices.txt."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about one container."""

    container: str
    message: str
    is_blocking: bool


def of_unmanaged(note: Unmanaged) -> Finding:
    """Return why the container of *note* is not managed."""
    return Finding(
        container=note.container, message=f"{note.reason}: {note.message}", is_blocking=True
    )


def of_pod(status: Mapping[str, Any]) -> list[Finding]:
    """Return what stands out in the pod of a keeper's *status*."""
    found = []
    if refused := status.get("refused"):
        found.append(
            Finding(
                container="pod",
                message=f"{refused['reason']}: {refused['message']}",
                is_blocking=True,
            )
        )
    for name, container in sorted(status["containers"].items()):
        init = container["init_pid"]
        if init is None:
            found.append(Finding(container=name, message="has no living init", is_blocking=True))
            continue
        for pid in descendants(init):
            found += [
                Finding(container=name, message=f"{_title(pid)}: {text}", is_blocking=True)
                for text in sorted(set(_of_process(pid, init=init)))
            ]
    return found


def descendants(root: int) -> list[int]:
    """Return the living processes below *root*."""
    found: list[int] = []
    todo = [root]
    while todo:
        pid = todo.pop()
        try:
            text = (PROC / f"{pid}/task/{pid}/children").read_text()
        except OSError:
            continue  # it has ended
        below = [int(word) for word in text.split()]
        found += below
        todo += below
    return sorted(found)


def _of_process(pid: int, *, init: int) -> Iterator[str]:
    base = PROC / str(pid)
    for kind, what in (("mnt", "mount"), ("pid", "process")):
        try:
            if os.readlink(base / "ns" / kind) != os.readlink(PROC / f"{init}/ns/{kind}"):
                yield f"has a {what} namespace of its own"
        except OSError:
            return  # it has ended
    try:
        descriptors = list((base / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            target = os.readlink(descriptor)
            status = descriptor.stat()
        except OSError:
            continue
        if target == "anon_inode:[io_uring]":
            yield "uses io_uring"
        elif stat.S_ISCHR(status.st_mode):
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
            if device[0] in (4, 5) or 136 <= device[0] <= 143:
                yield f"has a terminal open ({target})"
            elif device not in HARMLESS_DEVICES:
                yield f"has the device {target} open"
        elif stat.S_ISBLK(status.st_mode):
            yield f"has the device {target} open"
    try:
        maps = (base / "maps").read_text()
    except OSError:
        return
    if "/anon_hugepage" in maps:
        yield "uses huge pages of a hugetlb pool"


def _title(pid: int) -> str:
    try:
        return f"process {pid} ({(PROC / f'{pid}/comm').read_text().strip()})"
    except OSError:
        return f"process {pid}"
