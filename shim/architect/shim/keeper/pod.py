"""One pod's sleep and wake: the order of effects that keeps every packet and every byte.

Falling asleep: hold packets, let conversations drain, dump each container's tree, stand in for it.
Waking: free the ports, restore each tree, release what was held. Each is a task of the loop; while
one runs, requests join it or wait (:mod:`.lifecycle`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from architect.api.keeper import Event, PodState
from architect.api.policy import OnRestoreFailure, Policy
from architect.core.durations import render
from architect.core.errors import ArchitectError, Rejected
from architect.shim.keeper import cpuquota, criu, images, lifecycle, runs
from architect.shim.keeper.admission import Admission
from architect.shim.keeper.container import Container, TreeLost
from architect.shim.keeper.lifecycle import Answer, Refusal, Step
from architect.shim.keeper.loop import Future, Loop, Task
from architect.shim.keeper.network import PodNetwork

log = logging.getLogger(__name__)

DRAIN_STEP_SECONDS: Final = 0.002
FAILED_RETRY_SECONDS: Final = (1.0, 5.0, 30.0, 60.0)
"""Pauses between attempts with ``on-restore-failure: retry``; the last one repeats."""
FRESH_STATUS: Final = 137
"""Exit status of a container ended because its image cannot be restored: as if it was killed."""

_TRANSIENT: Final = frozenset(
    {"Busy", "InFlight", "NotRunning", "NoSpace", "UnheldSocket", *runs.ACCIDENTS}
)
"""Reasons that say nothing about the next attempt; others are refused until the pod changes."""

Emit = Callable[[Event, dict[str, Any]], None]


class Copying(Future[None]):
    """Done once the image is not needed any more, or the pod was woken before that."""

    was_awake = False
    """Whether the pod sleeps for this alone."""


class Steps:
    """Measures the named parts of one sleep or wake."""

    def __init__(self) -> None:
        self.started = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def done(self, name: str) -> None:
        """Name what has just ended."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 6)
        self._last = now

    @property
    def total_seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.started


class Pod:
    """A pod with at least one managed container."""

    def __init__(
        self,
        *,
        uid: str,
        namespace: str,
        name: str,
        policy: Policy,
        loop: Loop,
        server: criu.Server,
        network: PodNetwork,
        emit: Emit,
    ) -> None:
        self.uid = uid
        self.namespace = namespace
        self.name = name
        self.policy = policy
        self.containers: dict[str, Container] = {}
        self.state = PodState.AWAKE
        self.since = time.time()
        self.reason = "started"
        self.network = network
        self.refused: Refusal | None = None
        self.last_sleep_seconds: float | None = None
        self.last_wake_seconds: float | None = None
        self.image_bytes = 0
        self._loop = loop
        self._server = server
        self._emit = emit
        self._work: Future[None] | None = None
        self._recovery: Future[None] | None = None
        self._failures = 0
        self._is_closed = False
        self._admission = Admission(
            self, uid=uid, containers=self.containers, network=network, loop=loop, tell=self._tell
        )
        self.signalled: set[str] = set()
        """Containers to which an engine's signal went: the application may be ending."""
        self.is_leaving = False
        """It is being saved for its successor: packets have no say any more."""
        self.sleeps_to_leave = False
        """While it sleeps: it was awake when it was to be saved, and sleeps for nothing else."""
        self.copying: Copying | None = None
        """Its image is being copied, and it goes on where it is: packets have no say meanwhile."""
        network.on_wake = self._woken_by_network

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.name else self.uid

    # Requests

    def sleep(self, *, reason: str, patience_seconds: float, is_forced: bool = False) -> Task[None]:
        """Put the pod to sleep. Raises Rejected (nothing changed) or NodeError (undone)."""
        yield from self._recovered()
        answer = lifecycle.sleep_request(self.state)
        if answer is Answer.DONE:
            return
        if answer is Answer.JOIN:
            assert self._work is not None
            yield self._work
            return
        if self.refused is not None and not is_forced:
            raise Rejected(
                f"{self}: the last attempt failed: {self.refused.message}",
                reason=self.refused.reason,
                hint=self.refused.hint,
            )
        self._work = self._loop.spawn(
            self._fall_asleep(reason, patience_seconds), name=f"sleep {self}"
        )
        yield self._work

    def wake(self, *, reason: str, event: Event = Event.WOKE) -> Task[None]:
        """Wake the pod, and tell *event*.

        Raises NodeError when a restore failed; the image is then kept.
        """
        yield from self._recovered()
        while True:
            answer = lifecycle.wake_request(self.state)
            if answer is Answer.DONE:
                return
            if answer is Answer.START:
                self.is_leaving = False
                if self.copying is not None:  # what is copied of it is of no use any more
                    self._end_copying(self.copying)
                self._work = self._loop.spawn(self._wake(reason, event), name=f"wake {self}")
            assert self._work is not None
            work = self._work
            try:
                yield work
            except (ArchitectError, OSError):
                if answer is not Answer.WAIT:
                    raise

    def settle(self, *, container: str) -> Task[None]:
        """Be awake, with no CRIU at work, before *container* comes, which could reach it.

        Its note keeps the pod from sleeping from then on. Raises NodeError as :meth:`wake` does.
        """
        self._admission.settling.add(container)
        try:
            yield from self.wake(reason="a debugger comes")
        finally:
            self._admission.settling.discard(container)

    def _end_copying(self, copying: Copying) -> None:
        self.copying = None
        copying.set_result(None)

    def recover(self, recovery: Future[None]) -> None:
        """Make requests wait for *recovery*: until then our state is only a guess."""
        self._recovery = recovery
        recovery.when_done(self._report_unwatched)

    def _recovered(self) -> Task[None]:
        if self._recovery is not None and not self._recovery.is_done:
            with contextlib.suppress(ArchitectError, OSError):  # told by whoever watches it
                yield self._recovery

    def _woken_by_network(self, reason: str) -> None:
        """Packets ask for a wake; called by the network side, any number of times.

        After a failed restore they have no say: what waits asks at once again, and again.
        """
        if self.state is PodState.ASLEEP and not self.is_leaving and self.copying is None:
            self._wake_unwatched(reason)

    def _wake_unwatched(self, reason: str) -> None:
        self._work = self._loop.spawn(self._wake(reason), name=f"wake {self}")
        self._work.when_done(self._report_unwatched)

    def _retry_later(self) -> None:
        """Try again after a pause, unless a command has tried meanwhile."""
        attempt = self._failures

        def retry() -> None:
            if self.state is PodState.FAILED and self._failures == attempt and not self._is_closed:
                self._wake_unwatched("retry")

        pause = FAILED_RETRY_SECONDS[min(attempt, len(FAILED_RETRY_SECONDS)) - 1]
        self._loop.call_later(pause, retry)

    def _report_unwatched(self, done: Future[None]) -> None:
        try:
            done.result()
        except (ArchitectError, OSError) as error:
            log.error("%s: %s", self, error)

    # Falling asleep

    def _fall_asleep(self, reason: str, patience_seconds: float) -> Task[None]:
        steps = Steps()
        self.sleeps_to_leave = self.is_leaving
        members = self._members()
        self._admission.sleep(members, is_leaving=self.is_leaving)
        self._step(Step.SLEEP, reason)
        dumped: list[Container] = []
        try:
            self.network.hold(members)
            yield from self._drain(patience_seconds)
            steps.done("drain")
            for container in members:
                yield from container.dump(self._loop, self._server, is_leaving=self.is_leaving)
                dumped.append(container)
            steps.done("dump")
            self.image_bytes = images.size_bytes(images.pod_directory(self.uid))
            self._step(Step.DUMPED, reason)
            self.network.sleep(members)
            steps.done("stand-in")
        except (ArchitectError, OSError) as error:
            yield from self._undo_sleep(dumped, error)
            raise
        self.last_sleep_seconds = steps.total_seconds
        self._save()
        self._sync_in_background()
        if not self._sleeps_for_copy:  # or nobody is told: it is awake again in a moment
            self._tell(
                Event.SLEPT,
                duration_seconds=steps.total_seconds,
                image_bytes=self.image_bytes,
                reason=reason,
                steps=steps.seconds,
            )
        log.info("%s sleeps after %s (%s)", self, render(steps.total_seconds), steps.seconds)

    def _members(self) -> list[Container]:
        members = list(self.containers.values())
        for container in members:
            if container.find_init() is None or container.tree_root() is None:
                raise self._not_running(container)
        if not members:
            raise Rejected(f"{self} has no managed container", reason="NotRunning")
        return members

    def _not_running(self, container: Container) -> Rejected:
        return Rejected(
            f"{self}: container {container.name} runs no application now",
            reason="NotRunning",
            hint="it is being created or restarted",
        )

    def _begun(self) -> list[Container]:
        """Return the living containers whose application runs or sleeps: not those yet to start."""
        return [
            c for c in self.containers.values() if c.find_init() is not None and not c.is_starting()
        ]

    def needed_bytes(self) -> int:
        """Return the room that a sleep asks for on the images' file system."""
        return self._admission.needed_bytes()

    @property
    def is_paused(self) -> bool:
        """Whether an engine has paused a container, so that a wake cannot end before `resume`."""
        return self._admission.is_paused

    def _drain(self, patience_seconds: float) -> Task[None]:
        """Wait until nothing is under way that a dump would cut; then let nothing more begin."""
        deadline = time.monotonic() + patience_seconds
        while True:
            now = time.monotonic()
            # Who is woken at once may have a request in its hands, which nobody notices then.
            is_brief = self._sleeps_for_copy and now >= deadline
            busy = self.network.busy(is_brief=is_brief)
            if busy is None and self.network.freeze(is_brief=is_brief) is None:
                return
            if now >= deadline and self.is_leaving:
                log.info("%s leaves in the middle of a conversation: %s", self, busy)
                self.network.cut()
                return
            if now >= deadline + (patience_seconds if is_brief else 0.0):
                raise Rejected(
                    f"{self} does not come to rest: {busy or 'a packet came in between'}",
                    reason="Busy",
                    hint="it is tried again",
                )
            yield self._loop.sleep(DRAIN_STEP_SECONDS)

    def _undo_sleep(self, dumped: list[Container], error: ArchitectError | OSError) -> Task[None]:
        """Bring back what was dumped already, release packets, remember why."""
        lost: list[Container] = []
        names = [error.container] if isinstance(error, TreeLost) else []
        for container in dumped:
            try:
                yield from container.restore(self._loop, self._server)
                container.forget_image()
            except (ArchitectError, OSError) as second:
                log.error("%s: %s cannot be brought back: %s", self, container.name, second)
                lost.append(container)
        if self.state is PodState.FALLING:
            self._step(Step.UNDONE, "sleep failed")
        else:
            self._step(Step.WAKE, "sleep failed")
            self._step(Step.RESTORED, "sleep failed")
        yield from self.network.release()
        for container in lost:
            images.set_aside(container.directory)
            container.end(FRESH_STATUS)
        failure = Refusal.of(error)
        if failure.reason not in _TRANSIENT:
            self.refused = failure
        self._save()
        self._tell(Event.SLEEP_FAILED, **failure.as_dict(), lost=[*names, *(c.name for c in lost)])
        log.warning("%s goes on running: %s", self, error)

    # Waking

    def _wake(self, reason: str, event: Event = Event.WOKE) -> Task[None]:
        steps = Steps()
        self._enter(Step.WAKE, reason)
        # Written while CRIU works: nobody waits for the disk. A keeper that is killed before finds
        # the pod asleep, or CRIU at work.
        self._loop.call_soon(self._save)
        members = [c for c in self.containers.values() if c.find_init() is not None]
        try:
            members = self._begun()
            yield from self._admission.wake(members, image_bytes=self.image_bytes)
            asleep = [c for c in members if not c.is_running()]
            newcomers = [c for c in asleep if c.is_newcomer]
            yield from self._before_first_run(newcomers)
            self.network.prepare_wake()
            steps.done("prepare")
            with cpuquota.lifted(self.uid, [c.cgroups() for c in asleep]):
                for container in asleep:
                    yield from container.restore(self._loop, self._server)
            steps.done("restore")
        except (ArchitectError, OSError) as error:
            self._wake_failed(members, error)
            raise
        self._enter(Step.RESTORED, reason)
        held = yield from self.network.release()
        steps.done("release")
        self._failures = 0
        self.last_wake_seconds = steps.total_seconds
        self.image_bytes = 0
        for container in members:
            container.forget_image()
        self._save()
        self._tell(
            event,
            duration_seconds=steps.total_seconds,
            reason=reason,
            held_packets=held,
            steps=steps.seconds,
        )
        log.info(
            "%s woke after %s: %s (%s)", self, render(steps.total_seconds), reason, steps.seconds
        )
        self._after_first_run(newcomers)

    def _before_first_run(self, newcomers: list[Container]) -> Task[None]:
        """See that containers may run whose images are another pod's. Raises NodeError."""
        yield from ()

    def _after_first_run(self, newcomers: list[Container]) -> None:
        """Do what is due once containers run whose images were another pod's."""

    def _wake_failed(self, members: list[Container], error: ArchitectError | OSError) -> None:
        failure = Refusal.of(error)
        policy = lifecycle.after_failed_wake(self.policy.on_restore_failure, error)
        self._step(Step.RESTORE_FAILED, failure.reason)
        self._failures += 1
        self._tell(Event.WAKE_FAILED, **failure.as_dict(), policy=policy.value)
        log.error("%s cannot be restored (policy %s): %s", self, policy.value, error)
        match policy:
            case OnRestoreFailure.FRESH:
                for container in members:
                    if container.is_running():
                        continue
                    self._give_up(container)
                self.state = PodState.AWAKE
                self.network.release_now()
            case OnRestoreFailure.RETRY:
                self.network.fail(failure.message)
                self._retry_later()
            case OnRestoreFailure.FAIL:
                self.network.fail(failure.message)
        self._save()

    def _give_up(self, container: Container) -> None:
        """Go on without the memory: kubelet restarts the container, and counts that.

        What never ran in this pod simply starts.
        """
        is_newcomer = container.is_newcomer
        images.set_aside(container.directory)
        if is_newcomer:
            container.start_fresh()
        else:
            container.end(FRESH_STATUS)

    # After a restart of the keeper

    def resume_awake(self, network: dict[str, Any] | None = None) -> None:
        """Pick up a running pod: release what an earlier keeper held.

        *network* is what :meth:`PodNetwork.state` gave it.
        """
        self.state, self.reason = PodState.AWAKE, "keeper restarted"
        for container in self.containers.values():
            if container.find_init() is not None and not container.is_starting():
                container.settle_awake()
                container.forget_image()
        self.network.resume_awake(list(self.containers.values()), network)
        self._save()

    def resume_asleep(
        self, since: float, network: dict[str, Any] | None, *, has_failed: bool = False
    ) -> None:
        """Pick up a sleeping pod: hold packets again and look for a reason to wake.

        *network* is what :meth:`PodNetwork.state` gave the earlier keeper; *has_failed* says that
        its last restore had failed, so that the policy for that goes on.
        """
        self.state = PodState.FAILED if has_failed else PodState.ASLEEP
        self.since, self.reason = since, "keeper restarted"
        self.image_bytes = images.size_bytes(images.pod_directory(self.uid))
        self.network.resume_sleep(self._begun(), network)
        if has_failed:
            self._failures = 1
            self.network.fail("the last restore failed")
            if self.policy.on_restore_failure is not OnRestoreFailure.FAIL:
                self._retry_later()
        self._save()

    def resume_waking(self, network: dict[str, Any] | None) -> None:
        """Finish a wake, or undo a half sleep, that an earlier keeper had begun."""
        self.resume_asleep(time.time(), network)
        self._woken_by_network("keeper restarted")

    def end_lost(self) -> None:
        """End containers whose tree is gone and has no image; kubelet restarts them.

        Those that have an image are still to be picked up.
        """
        for container in self.containers.values():
            facts = container.facts()
            if facts.is_starting:
                continue
            if facts.is_init_alive and not facts.is_tree_alive and not facts.is_image_complete:
                log.error("%s: the memory of container %s is lost", self, container.name)
                images.set_aside(container.directory)
                container.end_with_tree(FRESH_STATUS)
                self._tell(
                    Event.WAKE_FAILED,
                    reason="ImageLost",
                    message=f"container {container.name} has neither processes nor an image",
                    hint="a process was killed in the middle of a dump; see the keeper's log",
                    policy=OnRestoreFailure.FRESH.value,
                )

    # Common

    def _step(self, step: Step, reason: str) -> None:
        self._enter(step, reason)
        self._save()

    def _enter(self, step: Step, reason: str) -> None:
        self.state = lifecycle.after(self.state, step)
        self.since, self.reason = time.time(), reason

    def _save(self) -> None:
        """Write the phase down; a full disk does not matter, processes and images tell as much."""
        state = {
            "namespace": self.namespace,
            "name": self.name,
            "phase": self.state.value,
            "since": self.since,
            "reason": self.reason,
            "refused": self.refused.as_dict() if self.refused else None,
            "network": self.network.state(),
            "leaving": self.is_leaving,
            "sleeps_to_leave": self.sleeps_to_leave,
            "goes_on": self._sleeps_for_copy,
            "signalled": {
                name: container.record.id
                for name, container in self.containers.items()
                if name in self.signalled
            },
        }
        try:
            images.write_pod(self.uid, state)
        except OSError as error:
            log.error("%s: its state cannot be written: %s", self, error)

    def _sync_in_background(self) -> Future[bool]:
        """Have the images safe against a power cut, some time later; whether they are."""
        directory = images.pod_directory(self.uid)
        synced: Future[bool] = Future()

        def sync() -> None:
            try:
                images.sync(directory)
                is_safe = True
            except OSError as error:
                log.error("%s: the image is not safe against a power cut yet: %s", self, error)
                is_safe = False
            self._loop.call_from_thread(lambda: synced.set_result(is_safe))

        threading.Thread(target=sync, name=f"sync {self.uid}", daemon=True).start()
        return synced

    def _tell(self, event: Event, **details: Any) -> None:
        self._emit(
            event,
            {
                "pod": self.uid,
                "namespace": self.namespace,
                "name": self.name,
                "state": self.state.value,
                "at": time.time(),
                **details,
            },
        )

    @property
    def _sleeps_for_copy(self) -> bool:
        """Whether it sleeps for a copy alone, and not one that was made while it slept anyway."""
        return self.copying is not None and self.copying.was_awake

    @property
    def _shown_state(self) -> PodState:
        """What others act upon: who sleeps to be copied or saved alone is not one that sleeps."""
        sleeps_to_leave = self.is_leaving and self.sleeps_to_leave
        if self.state is PodState.ASLEEP and (self._sleeps_for_copy or sleeps_to_leave):
            return PodState.FALLING
        return self.state

    def status(self) -> dict[str, Any]:
        """Return the pod's status as the control protocol shows it."""
        return {
            "pod": self.uid,
            "namespace": self.namespace,
            "name": self.name,
            "state": self._shown_state.value,
            "since": self.since,
            "reason": self.reason,
            "image_bytes": self.image_bytes,
            "held_packets": self.network.held_packets,
            "last_sleep_seconds": self.last_sleep_seconds,
            "last_wake_seconds": self.last_wake_seconds,
            "refused": self.refused.as_dict() if self.refused else None,
            "containers": {
                name: {
                    "id": container.record.id,
                    "init_pid": init.pid if (init := container.find_init()) else None,
                }
                for name, container in self.containers.items()
            },
        }

    def close(self) -> None:
        """Let go of a pod whose containers are gone; its images stay until the API says so."""
        if not self._is_closed:
            self._is_closed = True
            if self.copying is not None:
                self._end_copying(self.copying)
            self.network.close()
            for container in self.containers.values():
                container.close()
