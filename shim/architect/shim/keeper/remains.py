"""What a dump or a cut restore has left of a tree below init, and its end.

A restored tree has the pids that it was dumped with, so they must be free before it comes back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from architect.core.errors import NodeError
from architect.shim.keeper import criu, images, processes, runs
from architect.shim.keeper.loop import Loop, Task

if TYPE_CHECKING:
    from architect.shim.keeper.container import Container

CLEAR_LIMIT_SECONDS: Final = 30.0
CLEAR_STEP_SECONDS: Final = 0.0002
CLEAR_LONGEST_STEP_SECONDS: Final = 0.02
"""Large memory takes the kernel long to free, and init reaps only after that."""


def find(init_pid: int, pids: frozenset[int]) -> list[int]:
    """Return what a dump or a cut restore left below init: processes on *pids*, CRIU's helpers.

    Others are there, too: what exec sessions left behind.
    """
    return [
        pid
        for pid in list(processes.tree(init_pid))[1:]
        if pids.intersection(processes.ns_pids(pid)[-1:]) or criu.is_own(pid)
    ]


def clear(container: Container, loop: Loop) -> Task[None]:
    """Wait until the pids of *container*'s image are free, and end what a cut restore left on them.

    Init reaps the dumped tree in its own time; a tree restored before that meets its own pids
    ("Can't fork: File exists"). Raises NodeError.
    """
    init = container.init()
    pids: frozenset[int] | None = None
    deadline = time.monotonic() + CLEAR_LIMIT_SECONDS
    step = CLEAR_STEP_SECONDS
    while processes.children(init.pid):
        if pids is None:
            what = f"container {container.name}"
            yield from runs.over(loop, container.is_criu_working, what=what)
            pids = images.tree_pids(container.directory)
        left = find(init.pid, pids)
        if not left:
            return
        if time.monotonic() > deadline:
            raise NodeError(
                f"pids of container {container.name} are not free: "
                + ", ".join(f"{pid} ({processes.command(pid)})" for pid in left[:8]),
                reason="PidTaken",
                hint="is the container paused?",
            )
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        yield loop.sleep(step)
        step = min(2 * step, CLEAR_LONGEST_STEP_SECONDS)
