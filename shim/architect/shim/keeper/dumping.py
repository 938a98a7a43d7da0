"""A container's tree becomes an image: the order of effects, and what a failure has left.

Nothing may fail any more once the tree is gone, so all that has to be written beside the image is
written before. What CRIU reports is not what counts: the image and the tree tell whether the
container is asleep, goes on, or has lost both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from architect.core.errors import NodeError, Rejected
from architect.shim import installation
from architect.shim.keeper import criu, images, processes, recovery, runs, sysvshm, watches
from architect.shim.keeper.loop import Loop, Task
from architect.shim.keeper.recovery import AfterDump

if TYPE_CHECKING:
    from architect.shim.keeper.container import Container

log = logging.getLogger(__name__)

DUMP_LIMIT_SECONDS: Final = 600.0
"""A bound for what a disk may take; a CRIU that hangs longer is a failure to be told."""

SETTLE_LIMIT_SECONDS: Final = 2.0
SETTLE_STEP_SECONDS: Final = 0.0002
"""Init reacts within one scheduling of a waiting process."""


class TreeLost(NodeError):
    """The tree of :attr:`container` is gone and there is no image of it."""

    def __init__(self, message: str, *, container: str) -> None:
        super().__init__(
            message,
            reason="ImageLost",
            hint="a process was killed in the middle of a dump; see the keeper's log",
        )
        self.container = container


def dump(
    container: Container,
    loop: Loop,
    server: criu.Server,
    *,
    watched: Mapping[watches.Inode, str],
    is_leaving: bool,
) -> Task[None]:
    """Write the image of *container*'s tree and remove the tree: see :meth:`.Container.dump`."""
    init = container.init()
    if container.is_criu_working():
        raise Rejected(f"CRIU works on container {container.name} already", reason="Busy")
    root = container.tree_root()
    if root is None:
        raise Rejected(f"container {container.name} runs no application now", reason="NotRunning")
    tree = list(processes.tree(root))
    highest = processes.highest_ns_pid(tree)
    segments = sysvshm.attached(tree)
    sysvshm.refuse_shared(init.pid, segments)
    page = container.page()
    target = page.read().target
    image = images.prepare(container.directory)
    # Before the dump: once the tree is gone nothing may fail any more, a full disk included.
    images.Meta(
        tree_pid=target,
        highest_pid=highest,
        pipes=processes.stdio_pipes(init.pid),
        init_sha=container.record.init_sha,
        slept_at=time.time(),
        criu=installation.criu_version(),
    ).write(container.directory)
    watches.write(image, watched)
    page.fall_asleep()
    try:
        yield from _settle(container, loop)
    except BaseException:
        page.wake()
        raise
    problem = yield from runs.finish(
        loop,
        server,
        criu.Request.dump(
            init_pid=init.pid,
            image=image,
            tree_pid=target,
            highest_pid=highest,
            is_leaving=is_leaving,
        ),
        is_working=container.is_criu_working,
        limit_seconds=DUMP_LIMIT_SECONDS,
        what=f"dump of container {container.name}",
    )
    left = recovery.after_dump(container.facts())
    if left is not AfterDump.ASLEEP:
        # Where the tree is gone init now ends, with the status that the tree ended with.
        page.wake()
        container.mend_connections()
        if left is AfterDump.LOST:
            raise (yield from _loss(container, loop, problem))
        raise problem or NodeError(
            f"CRIU left no image of container {container.name}", reason="Criu"
        )
    if problem is not None:
        log.warning("container %s is asleep all the same: %s", container.name, problem)
    try:
        sysvshm.remove(init.pid, segments)
    except (NodeError, OSError) as error:
        log.error("container %s: %s", container.name, error)


def _settle(container: Container, loop: Loop) -> Task[None]:
    """Wait until init keeps signals, so that none is lost with the dumped tree."""
    deadline = time.monotonic() + SETTLE_LIMIT_SECONDS
    while not container.page().is_settled:
        if time.monotonic() > deadline:
            raise NodeError(
                f"init {container.init().pid} of container {container.name} does not react",
                reason="InitUnreachable",
                hint="is the container paused?",
            )
        yield loop.sleep(SETTLE_STEP_SECONDS)


def _loss(container: Container, loop: Loop, problem: NodeError | None) -> Task[NodeError]:
    """Tell an application that ended by itself before it was frozen from one that was lost."""
    page = container.page()
    deadline = time.monotonic() + SETTLE_LIMIT_SECONDS
    # The page outlives init, which ends as soon as it has reaped the tree.
    while True:
        is_gone, found = container.find_init() is None, page.read()
        if found.is_reaped or time.monotonic() > deadline:
            break
        if is_gone:
            return NodeError(
                f"container {container.name} ended during its dump", reason="ContainerGone"
            )
        yield loop.sleep(SETTLE_STEP_SECONDS)
    why = "" if problem is None else problem.reason
    if recovery.has_ended_itself(found.status if found.is_reaped else None, reason=why):
        return NodeError(
            f"the application of container {container.name} ended with status {found.status} "
            "when it was about to be dumped",
            reason="NotRunning",
        )
    return TreeLost(
        f"container {container.name} has neither processes nor an image: {problem}",
        container=container.name,
    )
