"""One managed container: its init, its tree, its image."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from architect.api.policy import ContainerPolicy
from architect.core.errors import NodeError, Rejected
from architect.shim.keeper import cgroups, criu, images, processes, sysvshm
from architect.shim.keeper.initpage import InitPage, InitState
from architect.shim.keeper.loop import Loop, Task
from architect.shim.keeper.recovery import Facts
from architect.shim.records import Record

log = logging.getLogger(__name__)

DUMP_LIMIT_SECONDS: Final = 600.0
RESTORE_LIMIT_SECONDS: Final = 600.0
"""Bounds for what a disk may take; a CRIU that hangs longer is a failure to be told."""

SETTLE_LIMIT_SECONDS: Final = 2.0
SETTLE_STEP_SECONDS: Final = 0.0002
"""Init reacts within one scheduling of a waiting process."""

PID_GAP: Final = 64
"""CRIU's own processes get pids this far above the tree's highest."""


class Container:
    """A living container that was registered."""

    def __init__(self, record: Record, policy: ContainerPolicy) -> None:
        self.record = record
        self.policy = policy
        self.directory = images.container_directory(record.pod, record.container)
        self._init: processes.Init | None = None
        self._page: InitPage | None = None
        self._cgroups: dict[str, Path] = {}

    @property
    def name(self) -> str:
        """The container's name in its pod."""
        return self.record.container

    def find_init(self) -> processes.Init | None:
        """Return the container's living init; None before ``create`` is done and after the end."""
        if self._init is None:
            self._init = processes.find_init(self.record.runc_root, self.record.id)
        if self._init is not None and not self._init.is_alive:
            return None
        return self._init

    def init(self) -> processes.Init:
        """Return the container's living init. Raises NodeError if there is none."""
        found = self.find_init()
        if found is None:
            raise NodeError(
                f"container {self.name} ({self.record.id:.12}) has no living init",
                reason="ContainerGone",
            )
        return found

    def page(self) -> InitPage:
        """Return the page shared with init. Raises NodeError."""
        if self._page is None:
            self._page = InitPage(self.init().pid)
        return self._page

    def cgroups(self) -> dict[str, Path]:
        """Return the container's cgroup directories by controller."""
        if not self._cgroups:
            self._cgroups = cgroups.of_process(self.init().pid)
        return self._cgroups

    def tree_root(self) -> int | None:
        """Return the host's pid of the application's tree; None while it is not there."""
        init = self.find_init()
        if init is None:
            return None
        target = self.page().read().target
        return processes.child_with_ns_pid(init.pid, target) if target else None

    def tree(self) -> list[int]:
        """Return the pids of the application's tree; empty while it is not there."""
        root = self.tree_root()
        return [] if root is None else list(processes.tree(root))

    def exec_sessions(self) -> list[int]:
        """Return the first processes of exec sessions: in the container, outside of its tree."""
        init = self.init()
        own = {init.pid, *self.tree()}
        members = set(cgroups.members(self.cgroups())) - own
        return sorted(pid for pid in members if processes.parent(pid) not in members)

    def resident_bytes(self) -> int:
        """Return the memory that an image would hold."""
        return processes.resident_bytes(self.tree())

    def facts(self) -> Facts:
        """Return what recovery needs to know."""
        is_init_alive = self.find_init() is not None
        return Facts(
            is_init_alive=is_init_alive,
            is_tree_alive=is_init_alive and self.tree_root() is not None,
            is_image_complete=images.is_complete(self.directory),
            is_criu_working=criu.is_working(self.directory / "image"),
        )

    def dump(self, loop: Loop, server: criu.Server) -> Task[None]:
        """Write the tree's image and remove the tree; on failure the tree goes on running.

        Raises NodeError with CRIU's reason.
        """
        init = self.init()
        root = self.tree_root()
        if root is None:
            raise Rejected(f"container {self.name} runs no application now", reason="NotRunning")
        tree = list(processes.tree(root))
        highest = max(pid for pids in map(processes.ns_pids, tree) for pid in pids[-1:])
        segments = sysvshm.attached(tree)
        sysvshm.refuse_shared(init.pid, segments)
        page = self.page()
        target = page.read().target
        image = images.prepare(self.directory)
        # Before the dump: once the tree is gone nothing may fail any more, a full disk included.
        images.Meta(
            tree_pid=target,
            highest_pid=highest,
            pipes=processes.stdio_pipes(init.pid),
            init_sha=self.record.init_sha,
            slept_at=time.time(),
        ).write(self.directory)
        page.fall_asleep()
        try:
            yield from self._settle(loop)
            outcome = yield loop.within(
                server.dump(
                    init_pid=init.pid,
                    image=image,
                    arguments=criu.dump_arguments(tree_pid=target),
                    own_pid=highest + PID_GAP,
                ),
                DUMP_LIMIT_SECONDS,
                what=f"dump of container {self.name}",
            )
            if outcome.status != 0:
                raise criu.failure(image, "dump", outcome)
        except BaseException:
            page.wake()
            raise
        try:
            sysvshm.remove(init.pid, segments)
        except (NodeError, OSError) as error:
            log.error("container %s: %s", self.name, error)

    def _settle(self, loop: Loop) -> Task[None]:
        """Wait until init keeps signals, so that none is lost with the dumped tree."""
        deadline = time.monotonic() + SETTLE_LIMIT_SECONDS
        while not self.page().is_settled:
            if time.monotonic() > deadline:
                raise NodeError(
                    f"init {self.init().pid} of container {self.name} does not react",
                    reason="InitUnreachable",
                    hint="is the container paused?",
                )
            yield loop.sleep(SETTLE_STEP_SECONDS)

    def restore(self, loop: Loop, server: criu.Server) -> Task[None]:
        """Bring the tree back from its image, which stays until :meth:`forget_image`.

        Raises NodeError with CRIU's reason; the image is then unchanged and half a tree removed.
        """
        init = self.init()
        try:
            meta = images.Meta.read(self.directory)
        except FileNotFoundError as error:
            raise NodeError(
                f"container {self.name} has no image in {self.directory}", reason="ImageMissing"
            ) from error
        image = self.directory / "image"
        (image / "restore.exit").unlink(missing_ok=True)
        arguments, inherited = criu.restore_arguments(pipes=meta.pipes, has_own_ipc=True)
        page = self.page()
        page.set_target(meta.tree_pid)
        outcome = yield loop.within(
            server.restore(
                init_pid=init.pid,
                image=image,
                arguments=arguments,
                own_pid=meta.highest_pid + PID_GAP,
                cgroups=cgroups.process_files(self.cgroups()),
                inherited=inherited,
            ),
            RESTORE_LIMIT_SECONDS,
            what=f"restore of container {self.name}",
        )
        if outcome.status != 0:
            self._remove_half_restored(meta.tree_pid)
            raise criu.failure(image, "restore", outcome)
        page.wake()

    def settle_awake(self) -> None:
        """Make init end with its tree again, where a restart of the keeper left it waiting."""
        page = self.page()
        if page.read().state is InitState.ASLEEP:
            page.wake()

    def end(self, status: int) -> None:
        """End the container with exit status *status*, so that kubelet restarts it."""
        self.page().end(status)

    def forget_image(self) -> None:
        """Remove the image of a tree that runs again: old memory must never be used twice."""
        images.discard(self.directory)

    def _remove_half_restored(self, tree_pid: int) -> None:
        root = processes.child_with_ns_pid(self.init().pid, tree_pid)
        if root is None:
            return
        for pid in list(processes.tree(root)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def close(self) -> None:
        """Release what is held open of the container."""
        if self._page is not None:
            self._page.close()
            self._page = None


def total_resident_bytes(containers: Sequence[Container]) -> int:
    """Return the memory that images of all *containers* would hold."""
    return sum(container.resident_bytes() for container in containers)
