"""A container's tree comes back from its image: one attempt, and which failure is worth another.

The image stays as good as before whatever happens here. An attempt begins and ends with a container
in which nothing is on the image's pids (:mod:`.remains`).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from typing import TYPE_CHECKING, Final

from architect.core.errors import ArchitectError, NodeError
from architect.shim.keeper import (
    cgroups,
    criu,
    ghosts,
    images,
    pages,
    projected,
    remains,
    runs,
    sysvipc,
)
from architect.shim.keeper.failures import ACCIDENTS
from architect.shim.keeper.loop import Loop, Task

if TYPE_CHECKING:
    from architect.shim.keeper.container import Container

log = logging.getLogger(__name__)

RESTORE_LIMIT_SECONDS: Final = 600.0
"""A bound for what a disk may take; a CRIU that hangs longer is a failure to be told."""

PIDS_LIMIT_SECONDS: Final = 2.0
PIDS_STEP_SECONDS: Final = 0.02
"""For pids that the kernel gives back late; who else has one keeps it longer than this."""

RESTORE_ATTEMPTS: Final = 3
"""With the same image, as long as what fails is not the image."""


def restore(container: Container, loop: Loop, server: criu.Server) -> Task[None]:
    """Bring *container*'s tree back from its image: see :meth:`.Container.restore`."""
    give_up = time.monotonic() + PIDS_LIMIT_SECONDS
    for attempt in itertools.count(1):
        problem = yield from _restore_once(container, loop, server)
        if images.is_restored(container.directory):
            break
        yield from remains.clear(container, loop)
        if problem is None:
            # CRIU has succeeded, and could not write that down: the image is as good as before.
            images.try_to_write(container.directory)
        problem = problem or NodeError(
            f"CRIU says nothing about container {container.name}", reason="Criu"
        )
        if problem.reason == "PidTaken" and time.monotonic() < give_up:
            # Since Linux 6.15 a reaped process is gone for everybody to see before its pid is
            # free: whoever reaps it may lose the processor in between.
            yield loop.sleep(PIDS_STEP_SECONDS)
        elif (
            problem.reason not in ACCIDENTS or attempt >= RESTORE_ATTEMPTS
        ) and not _follow_projections(container):
            raise problem
        log.warning("container %s: restored once more: %s", container.name, problem)
    container.page().wake()


def _follow_projections(container: Container) -> int:
    """Have what was open in a ConfigMap or its like looked for where kubelet has it now.

    kubelet goes on writing these while a pod sleeps. That matters to few, so the image is only
    read for it once a restore has failed. Return of how many files that is another place.
    """
    image = container.directory / "image"
    with contextlib.suppress(ArchitectError, OSError):  # why the restore failed says more
        return projected.follow(image, init_pid=container.init().pid, pod_uid=container.record.pod)
    return 0


def _restore_once(container: Container, loop: Loop, server: criu.Server) -> Task[NodeError | None]:
    try:
        meta = images.Meta.read(container.directory)
    except FileNotFoundError as error:
        raise NodeError(
            f"container {container.name} has no image in {container.directory}",
            reason="ImageMissing",
        ) from error
    if not images.is_complete(container.directory):
        raise NodeError(
            f"the image of container {container.name} in {container.directory} is not whole",
            reason="ImageMissing",
        )
    image = container.directory / "image"
    pages.check(image)
    init = container.init()
    yield from remains.clear(container, loop)
    sysvipc.make_way(init.pid, image, has_company=container.has_company)
    is_again = images.has_begun_restore(container.directory)
    ghosts.settle(image, init_pid=init.pid, is_again=is_again)
    images.begin_restore(container.directory)
    container.page().set_target(meta.tree_pid)
    problem = yield from runs.finish(
        loop,
        server,
        criu.Request.restore(
            init_pid=init.pid,
            image=image,
            pipes=meta.pipes,
            highest_pid=images.highest_pid(container.directory, meta),
            cgroups=cgroups.entrances(container.cgroups()),
            is_moved=meta.is_moved,
        ),
        is_working=container.is_criu_working,
        limit_seconds=RESTORE_LIMIT_SECONDS,
        what=f"restore of container {container.name}",
    )
    return problem
