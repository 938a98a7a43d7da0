"""One managed container: its init, its tree, its image."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from architect.api.policy import ContainerPolicy
from architect.core import releases
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected
from architect.shim import installation
from architect.shim.keeper import (
    cgroups,
    claims,
    criu,
    ghosts,
    images,
    pages,
    privileges,
    processes,
    projected,
    recovery,
    repair,
    runs,
    sysvipc,
    sysvshm,
    watches,
)
from architect.shim.keeper.failures import ACCIDENTS
from architect.shim.keeper.initpage import InitPage, InitState, NotOurInit
from architect.shim.keeper.loop import Loop, Task
from architect.shim.keeper.recovery import AfterDump, Facts
from architect.shim.layers import places
from architect.shim.packets import rebinding
from architect.shim.records import Record

log = logging.getLogger(__name__)

DUMP_LIMIT_SECONDS: Final = 600.0
RESTORE_LIMIT_SECONDS: Final = 600.0
"""Bounds for what a disk may take; a CRIU that hangs longer is a failure to be told."""

SETTLE_LIMIT_SECONDS: Final = 2.0
SETTLE_STEP_SECONDS: Final = 0.0002
"""Init reacts within one scheduling of a waiting process."""

INIT_LIMIT_SECONDS: Final = 10.0
INIT_STEP_SECONDS: Final = 0.001
"""Between the engine's start and the first instructions of our init."""

CLEAR_LIMIT_SECONDS: Final = 30.0
CLEAR_STEP_SECONDS: Final = 0.0002
CLEAR_LONGEST_STEP_SECONDS: Final = 0.02
"""Large memory takes the kernel long to free, and init reaps only after that."""

PIDS_LIMIT_SECONDS: Final = 2.0
PIDS_STEP_SECONDS: Final = 0.02
"""For pids that the kernel gives back late; who else has one keeps it longer than this."""

RESTORE_ATTEMPTS: Final = 3
"""With the same image, as long as what fails is not the image."""

FRESH_STATUS: Final = 137
"""Exit status of a container ended because its image cannot be restored: as if it was killed."""


class TreeLost(NodeError):
    """The tree of :attr:`container` is gone and there is no image of it."""

    def __init__(self, message: str, *, container: str) -> None:
        super().__init__(
            message,
            reason="ImageLost",
            hint="a process was killed in the middle of a dump; see the keeper's log",
        )
        self.container = container


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
        own = {init.pid, *self.tree(), *(_remains(init.pid, pids) if pids else ())}
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
        if init is None or not _remains(init.pid, pids):
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
        init = self.init()
        if self.is_criu_working():
            raise Rejected(f"CRIU works on container {self.name} already", reason="Busy")
        root = self.tree_root()
        if root is None:
            raise Rejected(f"container {self.name} runs no application now", reason="NotRunning")
        tree = list(processes.tree(root))
        highest = processes.highest_ns_pid(tree)
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
            criu=installation.criu_version(),
        ).write(self.directory)
        watches.write(image, watched)
        page.fall_asleep()
        try:
            yield from self._settle(loop)
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
            is_working=self.is_criu_working,
            limit_seconds=DUMP_LIMIT_SECONDS,
            what=f"dump of container {self.name}",
        )
        left = recovery.after_dump(self.facts())
        if left is not AfterDump.ASLEEP:
            # Where the tree is gone init now ends, with the status that the tree ended with.
            page.wake()
            self.mend_connections()
            if left is AfterDump.LOST:
                raise (yield from self._loss(loop, problem))
            raise problem or NodeError(
                f"CRIU left no image of container {self.name}", reason="Criu"
            )
        if problem is not None:
            log.warning("container %s is asleep all the same: %s", self.name, problem)
        try:
            sysvshm.remove(init.pid, segments)
        except (NodeError, OSError) as error:
            log.error("container %s: %s", self.name, error)

    def _loss(self, loop: Loop, problem: NodeError | None) -> Task[NodeError]:
        """Tell an application that ended by itself before it was frozen from one that was lost."""
        page = self.page()
        deadline = time.monotonic() + SETTLE_LIMIT_SECONDS
        # The page outlives init, which ends as soon as it has reaped the tree.
        while True:
            is_gone, found = self.find_init() is None, page.read()
            if found.is_reaped or time.monotonic() > deadline:
                break
            if is_gone:
                return NodeError(
                    f"container {self.name} ended during its dump", reason="ContainerGone"
                )
            yield loop.sleep(CLEAR_STEP_SECONDS)
        why = "" if problem is None else problem.reason
        if recovery.has_ended_itself(found.status if found.is_reaped else None, reason=why):
            return NodeError(
                f"the application of container {self.name} ended with status {found.status} "
                "when it was about to be dumped",
                reason="NotRunning",
            )
        return TreeLost(
            f"container {self.name} has neither processes nor an image: {problem}",
            container=self.name,
        )

    def mend_connections(self) -> None:
        """Give the application its connections back that a killed CRIU had in its hands."""
        if mended := repair.mend(self.tree()):
            log.warning("container %s: %d connections are its own again", self.name, mended)

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

        Raises NodeError with CRIU's reason, OSError where the disk takes no changes; the image is
        then as good as before and half a tree removed.
        """
        give_up = time.monotonic() + PIDS_LIMIT_SECONDS
        for attempt in itertools.count(1):
            problem = yield from self._restore_once(loop, server)
            if images.is_restored(self.directory):
                break
            yield from self._clear(loop)
            if problem is None:
                # CRIU has succeeded, and could not write that down: the image is as good as before.
                images.try_to_write(self.directory)
            problem = problem or NodeError(
                f"CRIU says nothing about container {self.name}", reason="Criu"
            )
            if problem.reason == "PidTaken" and time.monotonic() < give_up:
                # Since Linux 6.15 a reaped process is gone for everybody to see before its pid is
                # free: whoever reaps it may lose the processor in between.
                yield loop.sleep(PIDS_STEP_SECONDS)
            elif (
                problem.reason not in ACCIDENTS or attempt >= RESTORE_ATTEMPTS
            ) and not self._follow_projections():
                raise problem
            log.warning("container %s: restored once more: %s", self.name, problem)
        self.page().wake()

    def _follow_projections(self) -> int:
        """Have what was open in a ConfigMap or its like looked for where kubelet has it now.

        kubelet goes on writing these while a pod sleeps. That matters to few, so the image is only
        read for it once a restore has failed. Return of how many files that is another place.
        """
        image = self.directory / "image"
        with contextlib.suppress(ArchitectError, OSError):  # why the restore failed says more
            return projected.follow(image, init_pid=self.init().pid, pod_uid=self.record.pod)
        return 0

    def _restore_once(self, loop: Loop, server: criu.Server) -> Task[NodeError | None]:
        try:
            meta = images.Meta.read(self.directory)
        except FileNotFoundError as error:
            raise NodeError(
                f"container {self.name} has no image in {self.directory}", reason="ImageMissing"
            ) from error
        if not images.is_complete(self.directory):
            raise NodeError(
                f"the image of container {self.name} in {self.directory} is not whole",
                reason="ImageMissing",
            )
        pages.check(self.directory / "image")
        init = self.init()
        yield from self._clear(loop)
        image = self.directory / "image"
        sysvipc.make_way(init.pid, image, has_company=self.has_company)
        ghosts.settle(image, init_pid=init.pid, is_again=images.has_begun_restore(self.directory))
        images.begin_restore(self.directory)
        self.page().set_target(meta.tree_pid)
        problem = yield from runs.finish(
            loop,
            server,
            criu.Request.restore(
                init_pid=init.pid,
                image=self.directory / "image",
                pipes=meta.pipes,
                highest_pid=images.highest_pid(self.directory, meta),
                cgroups=cgroups.entrances(self.cgroups()),
                is_moved=meta.is_moved,
            ),
            is_working=self.is_criu_working,
            limit_seconds=RESTORE_LIMIT_SECONDS,
            what=f"restore of container {self.name}",
        )
        return problem

    def _clear(self, loop: Loop) -> Task[None]:
        """Wait until the image's pids are free, and end what a cut restore left on them.

        Init reaps the dumped tree in its own time; a tree restored before that meets its own pids
        ("Can't fork: File exists"). Raises NodeError.
        """
        init = self.init()
        pids: frozenset[int] | None = None
        deadline = time.monotonic() + CLEAR_LIMIT_SECONDS
        step = CLEAR_STEP_SECONDS
        while processes.children(init.pid):
            if pids is None:
                yield from runs.over(loop, self.is_criu_working, what=f"container {self.name}")
                pids = images.tree_pids(self.directory)
            left = _remains(init.pid, pids)
            if not left:
                return
            if time.monotonic() > deadline:
                raise NodeError(
                    f"pids of container {self.name} are not free: "
                    + ", ".join(f"{pid} ({processes.command(pid)})" for pid in left[:8]),
                    reason="PidTaken",
                    hint="is the container paused?",
                )
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            yield loop.sleep(step)
            step = min(2 * step, CLEAR_LONGEST_STEP_SECONDS)

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
        arrival = images.arrival(self.record.pod, self.record.container)
        old = frozenset(images.Meta.read(arrival).addresses)
        spec = places.spec_in(self.record.bundle)
        allowed = privileges.allowance(spec, machine=os.uname().machine)
        privileges.check(claims.read(arrival / "image"), allowed)
        rebinding.rebind(arrival / "image", rebinding.pairs(old, addresses), old=old)
        projected.follow(arrival / "image", init_pid=self.init().pid, pod_uid=self.record.pod)
        images.adopt(self.directory, arrival=arrival)
        try:
            self.note_return(addresses=addresses)
        except (ArchitectError, OSError) as error:
            log.info("container %s: it would not outlive a reboot: %s", self.name, error)

    def note_return(self, *, addresses: frozenset[str]) -> None:
        """Write down what it needs to go on in a new container, should the machine be rebooted.

        Raises NodeError, FormatError, Rejected, OSError.
        """
        spec = places.spec_in(self.record.bundle)
        volatile, upper = places.in_memory(spec, self.record.pod), ""
        if not (spec.get("root") or {}).get("readonly"):
            try:
                upper = str(places.upper_directory(self.init().pid))
            except NodeError as error:
                log.info("container %s: its files would not outlive a reboot: %s", self.name, error)
                volatile.append("/")
        images.note_return(self.directory, addresses=addresses, upper=upper, volatile=volatile)

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


def _remains(init_pid: int, pids: frozenset[int]) -> list[int]:
    """Return what a dump or a cut restore left below init: processes on *pids*, CRIU's helpers.

    Others are there, too: what exec sessions left behind.
    """
    return [
        pid
        for pid in list(processes.tree(init_pid))[1:]
        if pids.intersection(processes.ns_pids(pid)[-1:]) or criu.is_own(pid)
    ]


def total_resident_bytes(containers: Sequence[Container]) -> int:
    """Return the memory that images of all *containers* would hold."""
    return sum(container.resident_bytes() for container in containers)
