"""One managed container: its init, its tree, its image, and which of them there are now.

What takes the tree away and brings it back is in :mod:`.dumping` and :mod:`.restoring`, and what
an image needs that runs in another container in :mod:`.adopting`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from architect.api.policy import ContainerPolicy
from architect.core import releases
from architect.core.errors import FormatError, NodeError
from architect.shim import installation
from architect.shim.keeper import (
    adopting,
    cgroups,
    criu,
    dumping,
    ghosts,
    images,
    processes,
    remains,
    repair,
    restoring,
    watches,
)
from architect.shim.keeper.initpage import InitPage, InitState, NotOurInit
from architect.shim.keeper.loop import Loop, Task
from architect.shim.keeper.recovery import Facts
from architect.shim.records import Record

log = logging.getLogger(__name__)

INIT_LIMIT_SECONDS: Final = 10.0
INIT_STEP_SECONDS: Final = 0.001
"""Between the engine's start and the first instructions of our init."""

FRESH_STATUS: Final = 137
"""Exit status of a container ended because its image cannot be restored: as if it was killed."""


class Container:
    """A living container that was registered."""

    def __init__(self, record: Record, policy: ContainerPolicy) -> None:
        self.record = record
        self.policy = policy
        self.directory = images.container_directory(record.pod, record.container)
        self._init: processes.Init | None = None
        self._page: InitPage | None = None
        self._cgroups: dict[str, Path] = {}
        self.has_company = False
        """Whether another container of its pod runs already when it is restored."""

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

    def is_starting(self) -> bool:
        """Whether its init lives, and its application neither began nor came yet. NodeError."""
        if self.find_init() is None:
            return False
        try:
            reading = self.page().read()
        except NotOurInit:
            return True
        if reading.target:
            return False
        return reading.state is InitState.AWAKE or (self.record.hollow and self.has_come)

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
        """Return the first processes of exec sessions: in the container, outside of its tree.

        What a killed CRIU left of itself and of a tree is none: the next restore ends it.
        """
        init = self.init()
        pids = images.tree_pids(self.directory)
        own = {init.pid, *self.tree(), *(remains.find(init.pid, pids) if pids else ())}
        members = {pid for pid in cgroups.members(self.cgroups()) if not criu.is_own(pid)} - own
        return sorted(pid for pid in members if processes.parent(pid) not in members)

    def resident_bytes(self) -> int:
        """Return the memory that an image would hold."""
        return processes.resident_bytes(self.tree())

    def is_running(self) -> bool:
        """Whether the application's tree runs.

        Its root alone does not tell: a dumped tree takes its time to die, and half a tree is left
        where a restore was cut.
        """
        if self.tree_root() is None:
            return False
        return not images.is_complete(self.directory) or images.is_restored(self.directory)

    def is_criu_working(self) -> bool:
        """Whether CRIU has the tree in its hands, or is about to."""
        if not criu.is_working(self.directory / "image"):
            return False
        if not images.is_complete(self.directory) or images.is_restored(self.directory):
            return True
        # A restore: half a tree whose CRIU was killed holds the lock, and waits for nobody.
        try:
            meta = images.Meta.read(self.directory)
            pids = images.tree_pids(self.directory)
        except FileNotFoundError:
            return True
        init = self.find_init()
        if init is None or not remains.find(init.pid, pids):
            return True
        highest = images.highest_pid(self.directory, meta)
        return criu.find(init.pid, highest_pid=highest) is not None

    def facts(self) -> Facts:
        """Return what recovery needs to know."""
        is_init_alive = self.find_init() is not None
        is_starting = self.is_starting()
        # First: once CRIU is seen to have ended, the others are what it left.
        is_criu_working = self.is_criu_working()
        return Facts(
            is_init_alive=is_init_alive,
            is_starting=is_starting,
            is_hollow=self.record.hollow,
            is_tree_alive=is_init_alive and not is_starting and self.is_running(),
            is_image_complete=images.is_complete(self.directory),
            is_criu_working=is_criu_working,
        )

    def find_watched(self, loop: Loop) -> Task[dict[watches.Inode, str]]:
        """Return the paths of what the application watches and CRIU could not find again."""
        init_pid = self.init().pid
        wanted = watches.on_overlays(init_pid, self.tree())
        return (yield from watches.find(loop, init_pid, wanted))

    def refuse_removed(self, loop: Loop) -> Task[None]:
        """Raise Rejected if the application has removed files open that could not come back."""
        yield from ghosts.refuse(loop, self.init().pid, self.tree())

    def dump(
        self,
        loop: Loop,
        server: criu.Server,
        *,
        watched: Mapping[watches.Inode, str] = watches.NOTHING,
        is_leaving: bool = False,
    ) -> Task[None]:
        """Write the tree's image and remove the tree; *is_leaving*: for another pod.

        *watched* is what :meth:`find_watched` found.

        Raises NodeError with CRIU's reason: the tree goes on running, or the application has ended
        by itself. Raises TreeLost if the tree is gone without an image; the container then ends.
        """
        yield from dumping.dump(self, loop, server, watched=watched, is_leaving=is_leaving)

    def mend_connections(self) -> None:
        """Give the application its connections back that a killed CRIU had in its hands."""
        if mended := repair.mend(self.tree()):
            log.warning("container %s: %d connections are its own again", self.name, mended)

    def restore(self, loop: Loop, server: criu.Server) -> Task[None]:
        """Bring the tree back from its image, which stays until :meth:`forget_image`.

        Raises NodeError with CRIU's reason, OSError where the disk takes no changes; the image is
        then as good as before and half a tree removed.
        """
        yield from restoring.restore(self, loop, server)

    def settle_awake(self) -> None:
        """Make init end with its tree again, where a restart of the keeper left it waiting."""
        page = self.page()
        if page.read().state is InitState.ASLEEP:
            page.wake()

    @property
    def has_come(self) -> bool:
        """Whether what came for it from another pod still waits to be adopted."""
        return (images.arrival(self.record.pod, self.record.container) / "image").is_dir()

    def wait_for_init(self, loop: Loop) -> Task[None]:
        """Wait until init has its page: ``start`` returns a moment before. Raises NodeError."""
        deadline = time.monotonic() + INIT_LIMIT_SECONDS
        while True:
            try:
                self.page()
                return
            except NotOurInit:
                if time.monotonic() > deadline:
                    raise
            yield loop.sleep(INIT_STEP_SECONDS)

    def adopt(self, *, addresses: frozenset[str]) -> None:
        """Take what came from another pod as its own image, in a pod that has *addresses*.

        Raises Rejected for a socket that has no place here and for processes that claim more than
        the container may; NodeError, FormatError, OSError.
        """
        adopting.adopt(self, addresses=addresses)

    def note_return(self, *, addresses: frozenset[str]) -> None:
        """Write down what it needs to go on in a new container, should the machine be rebooted.

        Raises NodeError, FormatError, Rejected, OSError.
        """
        adopting.note_return(self, addresses=addresses)

    def refuse_arrival(self) -> None:
        """Keep what came for it aside: not even a restart of the container takes it. OSError."""
        arrival = images.arrival(self.record.pod, self.record.container)
        images.refuse(self.directory, arrival=arrival)

    @property
    def is_newcomer(self) -> bool:
        """Whether its image came from another pod and has never run in this one."""
        return images.has_moved(self.record.pod, self.record.container)

    @property
    def is_of_other_criu(self) -> bool:
        """Whether another release of CRIU than this keeper's is known to have written its image."""
        try:
            wrote = images.Meta.read(self.directory).criu
        except (FileNotFoundError, FormatError):
            return False
        own = installation.criu_version()
        return bool(wrote and own) and not releases.are_equal(wrote, own)

    def start_fresh(self) -> None:
        """Begin the application of a container that was created to be restored, after all."""
        self.page().start()

    def end(self, status: int) -> None:
        """End the container with exit status *status*, so that kubelet restarts it."""
        self.page().end(status)

    def end_with_tree(self, status: int) -> None:
        """End a container whose tree is gone, as the tree ended; with *status* if it had none."""
        page = self.page()
        if page.read().target:
            page.wake()
        else:
            page.end(status)

    def leave_earlier(self, *, has_failed: bool) -> None:
        """Forget the image of the container before this one, which ended asleep; its memory, too.

        Else this one would look as if it slept, and be ended for that memory. *has_failed*: it
        could not be restored, and is kept out of the way for whoever looks why. Raises OSError.
        """
        if not images.is_complete(self.directory):
            return
        if has_failed:
            kept = images.set_aside(self.directory)
            log.warning("container %s begins anew: earlier memory is in %s", self.name, kept)
        else:
            images.discard(self.directory)
            log.warning("container %s begins without the memory of the one before", self.name)

    def forget_image(self) -> None:
        """Remove the image of a tree that runs again: old memory must never be used twice.

        A disk that takes no change keeps it, marked as one that was restored. The tree runs, and
        whoever waits for it must not wait for the disk's repair.
        """
        try:
            images.discard(self.directory)
        except OSError as error:
            log.error("container %s: its old image stays: %s", self.name, error)

    def close(self) -> None:
        """Release what is held open of the container."""
        if self._page is not None:
            self._page.close()
            self._page = None


def total_resident_bytes(containers: Sequence[Container]) -> int:
    """Return the memory that images of all *containers* would hold."""
    return sum(container.resident_bytes() for container in containers)
