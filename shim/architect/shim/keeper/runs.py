"""One run of CRIU from its request to the moment when it is certainly over.

Whoever reports how CRIU ended may be killed, and a time-out says nothing about CRIU at all. While
one is at work in an image nothing else may touch the image or the tree: not a second restore
beside the first, not a release of packets to processes that are about to be removed. So a run is
over when the lock on its image is free, and what became of it is told by what it left on disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from architect.core.errors import NodeError
from architect.shim.keeper import criu, images
from architect.shim.keeper.loop import Loop, Task

log = logging.getLogger(__name__)

SHORTEST_STEP_SECONDS: Final = 0.0005
LONGEST_STEP_SECONDS: Final = 0.1
COMPLAINT_SECONDS: Final = 60.0
"""How often the log says that a killed CRIU does not end (the disk does not answer)."""


def finish(
    loop: Loop,
    server: criu.Server,
    request: criu.Request,
    *,
    is_working: Callable[[], bool],
    limit_seconds: float,
    what: str,
) -> Task[NodeError | None]:
    """Run CRIU and return once it is over: None, or why it did not report success.

    *is_working* tells whether CRIU is at work; after *limit_seconds* it is killed. That it did not
    report success does not mean that it had none: look at the image and the tree.
    """
    # The supervisor of the run before may not have ended yet.
    yield from over(loop, lambda: criu.is_working(request.image), what=what)
    problem: NodeError | None = None
    try:
        outcome = yield loop.within(server.run(request), limit_seconds, what=what)
    except TimeoutError as error:
        log.error("%s; CRIU is killed", error)
        if (pid := criu.find(request.init_pid, highest_pid=request.highest_pid)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        yield from over(loop, is_working, what=what)
        return NodeError(
            str(error), reason="Timeout", hint="is the disk of /var/lib/architect overloaded?"
        )
    except NodeError as error:
        log.error("%s: %s", what, error)
        yield from over(loop, is_working, what=what)
        status = images.exit_status(request.image, request.kind)
        problem = error
    else:
        status = outcome.status
        log.debug("%s: %.1f ms in CRIU", what, outcome.seconds * 1000)
    if status == 0:
        return None
    if status is None or (status == images.NOT_REACHED and problem is not None):
        return problem
    return criu.failure(request.image, request.kind, status)


def over(loop: Loop, is_working: Callable[[], bool], *, what: str) -> Task[None]:
    """Return when no CRIU is at work.

    There is no bound: a process that SIGKILL does not end waits in the kernel for its disk, and
    until it goes on or ends its tree is neither running nor asleep. The log says so.
    """
    step, complaint = SHORTEST_STEP_SECONDS, time.monotonic() + COMPLAINT_SECONDS
    while is_working():
        if time.monotonic() > complaint:
            complaint += COMPLAINT_SECONDS
            log.error("%s: CRIU is still at work", what)
        yield loop.sleep(step)
        step = min(2 * step, LONGEST_STEP_SECONDS)
