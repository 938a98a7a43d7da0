"""Processes beside a container's own that could reach CRIU while it works there.

``kubectl debug --target`` puts a container into the pid namespace of another one, and its profile
may give it ``SYS_PTRACE``; an engine's ``exec --privileged`` does the same. CRIU, root on the node,
must not run while such a process is there. ``create`` leaves a note before such a container exists,
so that there is no moment in which it is not known.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from architect.core import capabilities
from architect.shim import oci, procfs, records
from architect.shim.keeper import processes
from architect.shim.keeper.container import Container


def found(
    pod: str, containers: Iterable[Container], *, awaited: Collection[str] = ()
) -> str | None:
    """Return what could reach CRIU in the pod with uid *pod*, for people; None if nothing can.

    The containers *awaited*, by id, have a note and do not exist yet.
    """
    for note in records.unmanaged():
        if note.pod == pod and note.reason == oci.TRACER and note.id not in awaited:
            return f"container {note.container}: {note.message}"
    for container in containers:
        if container.find_init() is None:
            continue
        for pid in container.exec_sessions():
            if refused := capabilities.refused_of_mask(held(pid)):
                return f"exec session {processes.command(pid)!r} has {', '.join(refused)}"
    return None


def held(pid: int) -> int:
    """Return the mask of capabilities that *pid* has or can get among the node's processes.

    0 if it has ended, or is in a user namespace of its own: what it holds counts in there only.
    """
    try:
        if os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user"):
            return 0
    except procfs.GONE:
        return 0
    status = procfs.status(pid)
    return int(status.get("CapPrm", "0"), 16) | int(status.get("CapBnd", "0"), 16)
