"""One pod: what is asked of it, and what is told and written down of it.

What it does for that takes its time: :mod:`.falling` and :mod:`.waking` are tasks of the loop, and
while one runs, requests join it or wait (:mod:`.lifecycle`). :mod:`.moving` has what else it can.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from architect.api.keeper import Event, PodState
from architect.api.policy import Policy
from architect.core import clocks
from architect.core.errors import ArchitectError, Rejected
from architect.shim.inspection.findings import Finding
from architect.shim.keeper import criu, failures, falling, images, lifecycle, podstate, waking
from architect.shim.keeper.admission import Admission
from architect.shim.keeper.container import Container
from architect.shim.keeper.failures import Refusal
from architect.shim.keeper.lifecycle import Answer, Step
from architect.shim.keeper.loop import Future, Loop, Task
from architect.shim.keeper.network import PodNetwork
from architect.shim.keeper.podstate import Remembered

SYNC_LIMIT_SECONDS: Final = 10.0
"""For a few hundred bytes. Packets wait meanwhile, and a disk that is worse would lose as much."""

log = logging.getLogger(__name__)

Emit = Callable[[Event, dict[str, Any]], None]


class Copying(Future[None]):
    """Done once the image is not needed any more, or the pod was woken before that."""

    was_awake = False
    """Whether the pod sleeps for this alone."""


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
        self.since_boot = clocks.boot_seconds()
        self.reason = "started"
        self.network = network
        self.refused: Refusal | None = None
        """Why the last attempt to sleep failed: it is not made again until something changes."""
        self.note: list[str] = []
        """Why it does not sleep, in the daemon's words."""
        self.found: list[Finding] = []
        """What keeps its processes from being dumped, when they were last looked at."""
        self.last_sleep_seconds: float | None = None
        self.last_wake_seconds: float | None = None
        self.failed_wakes = 0
        """Since the last one that worked."""
        self.image_bytes = 0
        self.loop = loop
        self.server = server
        self._emit = emit
        self._work: Future[None] | None = None
        self._recovery: Future[None] | None = None
        self._is_closed = False
        self.admission = Admission(
            self, uid=uid, containers=self.containers, network=network, loop=loop, tell=self.tell
        )
        self.signalled: set[str] = set()
        """Containers to which an engine's signal went: the application may be ending."""
        self.is_leaving = False
        """It is being saved for its successor: packets have no say any more."""
        self.sleeps_to_leave = False
        """While it sleeps: it was awake when it was to be saved, and sleeps for nothing else."""
        self.copying: Copying | None = None
        """Its image is being copied, and it goes on where it is: packets have no say meanwhile."""
        network.on_wake = self.woken_by_network

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.name else self.uid

    # Requests

    def sleep(self, *, reason: str, patience_seconds: float, is_forced: bool = False) -> Task[None]:
        """Put the pod to sleep. Raises Rejected (nothing changed) or NodeError (undone)."""
        yield from self.recovered()
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
        task = falling.fall_asleep(self, reason=reason, patience_seconds=patience_seconds)
        self._work = self.loop.spawn(task, name=f"sleep {self}")
        yield self._work

    def wake(self, *, reason: str, event: Event = Event.WOKE) -> Task[None]:
        """Wake the pod, and tell *event*.

        Raises NodeError when a restore failed; the image is then kept.
        """
        yield from self.recovered()
        while True:
            answer = lifecycle.wake_request(self.state)
            if answer is Answer.DONE:
                return
            if answer is Answer.START:
                self.is_leaving = False
                if self.copying is not None:  # what is copied of it is of no use any more
                    self._end_copying(self.copying)
                self._begin_wake(reason, event)
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
        self.admission.settling.add(container)
        try:
            yield from self.wake(reason="a debugger comes")
        finally:
            self.admission.settling.discard(container)

    def _end_copying(self, copying: Copying) -> None:
        self.copying = None
        copying.set_result(None)

    def recover(self, recovery: Future[None]) -> None:
        """Make requests wait for *recovery*: until then our state is only a guess."""
        self._recovery = recovery
        recovery.when_done(self._report_unwatched)

    def recovered(self) -> Task[None]:
        """Wait until it is known where an earlier keeper left the pod."""
        if self._recovery is not None and not self._recovery.is_done:
            with contextlib.suppress(ArchitectError, OSError):  # told by whoever watches it
                yield self._recovery

    def woken_by_network(self, reason: str) -> None:
        """Packets ask for a wake; called by the network side, any number of times.

        After a failed restore they have no say: what waits asks at once again, and again.
        """
        if self.state is PodState.ASLEEP and not self.is_leaving and self.copying is None:
            self._begin_wake(reason).when_done(self._report_unwatched)

    def _begin_wake(self, reason: str, event: Event = Event.WOKE) -> Future[None]:
        self._work = self.loop.spawn(
            waking.wake(self, reason=reason, event=event), name=f"wake {self}"
        )
        return self._work

    def retry_later(self) -> None:
        """Try to wake again after a pause, unless a command has tried meanwhile."""
        attempt = self.failed_wakes

        def retry() -> None:
            is_due = self.state is PodState.FAILED and self.failed_wakes == attempt
            if is_due and not self._is_closed:
                self._begin_wake("retry").when_done(self._report_unwatched)

        self.loop.call_later(failures.pause_seconds(attempt), retry)

    def _report_unwatched(self, done: Future[None]) -> None:
        try:
            done.result()
        except (ArchitectError, OSError) as error:
            log.error("%s: %s", self, error)

    # Containers

    def not_running(self, container: Container) -> Rejected:
        """Return the refusal of what needs the application of *container*, which is not there."""
        return Rejected(
            f"{self}: container {container.name} runs no application now",
            reason="NotRunning",
            hint="it is being created or restarted",
        )

    def begun(self) -> list[Container]:
        """Return the living containers whose application runs or sleeps: not those yet to start."""
        return [
            c for c in self.containers.values() if c.find_init() is not None and not c.is_starting()
        ]

    def before_first_run(self, newcomers: Sequence[Container]) -> Task[None]:
        """See that containers may run whose images are another pod's. Raises NodeError."""
        yield from ()

    def after_first_run(self, newcomers: Sequence[Container]) -> None:
        """Do what is due once containers run whose images were another pod's."""

    def after_failed_wake(self, members: Sequence[Container]) -> None:
        """Do what is due once *members* could not be woken."""

    # What is told and written down

    def step(self, step: Step, reason: str) -> None:
        """Take *step*, and write that down."""
        self.enter(step, reason)
        self.save()

    def enter(self, step: Step, reason: str) -> None:
        """Take *step*; it is written down later."""
        self.state = lifecycle.after(self.state, step)
        if step is Step.DUMPED:
            self.found = []
        self.since, self.since_boot, self.reason = time.time(), clocks.boot_seconds(), reason

    def save(self) -> None:
        """Write the phase down; a full disk does not matter, processes and images tell as much."""
        try:
            self.write_down()
        except OSError as error:
            log.error("%s: its state cannot be written: %s", self, error)

    def save_for_good(self) -> Future[None]:
        """As :meth:`save`, and on the disk: nothing else tells after a power cut.

        Done once it is there. A disk that does not take it, or not in time, is only told of.
        """
        self.save()
        saved: Future[None] = Future()
        timer = self.loop.call_later(
            SYNC_LIMIT_SECONDS,
            lambda: ended(f"the disk has not taken it in {SYNC_LIMIT_SECONDS:g} s"),
        )

        def ended(problem: str) -> None:
            timer.cancel()
            if problem and not saved.is_done:
                log.error("%s: its state is not safe against a power cut: %s", self, problem)
            saved.set_result(None)

        def sync() -> None:
            problem = ""
            try:
                podstate.sync(self.uid)
            except OSError as error:
                problem = str(error)
            self.loop.call_from_thread(lambda: ended(problem))

        threading.Thread(target=sync, name=f"sync {self.uid}", daemon=True).start()
        return saved

    def write_down(self) -> None:
        """As :meth:`save`, for what nothing else tells. Raises OSError."""
        remembered = Remembered(
            namespace=self.namespace,
            name=self.name,
            phase=self.state,
            since=self.since,
            since_boot=self.since_boot,
            reason=self.reason,
            refused=self.refused.as_dict() if self.refused else None,
            network=self.network.state(),
            is_leaving=self.is_leaving,
            sleeps_to_leave=self.sleeps_to_leave,
            goes_on=self.sleeps_for_copy,
            signalled={n: c.record.id for n, c in self.containers.items() if n in self.signalled},
        )
        podstate.write(self.uid, remembered)

    def note_return(self, members: Sequence[Container]) -> None:
        """Write down what sleeping *members* need to go on after a reboot of the machine."""
        for container in members:
            try:
                container.note_return(addresses=self.network.addresses())
            except (ArchitectError, OSError) as error:
                log.warning("%s: %s would not outlive a reboot: %s", self, container.name, error)

    def sync_in_background(self) -> Future[bool]:
        """Have the images safe against a power cut, some time later; whether they are."""
        # All images are on one file system, and this pod's may be gone by then.
        directory = images.pod_directory(self.uid).parent
        synced: Future[bool] = Future()

        def sync() -> None:
            try:
                images.sync(directory)
                is_safe = True
            except OSError as error:
                log.error("%s: the image is not safe against a power cut yet: %s", self, error)
                is_safe = False
            self.loop.call_from_thread(lambda: synced.set_result(is_safe))

        threading.Thread(target=sync, name=f"sync {self.uid}", daemon=True).start()
        return synced

    def tell(self, event: Event, **details: Any) -> None:
        """Tell those who follow the node's pods what has happened."""
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
    def sleeps_for_copy(self) -> bool:
        """Whether it sleeps for a copy alone, and not one that was made while it slept anyway."""
        return self.copying is not None and self.copying.was_awake

    @property
    def _shown_state(self) -> PodState:
        """What others act upon: who sleeps to be copied or saved alone is not one that sleeps."""
        sleeps_to_leave = self.is_leaving and self.sleeps_to_leave
        if self.state is PodState.ASLEEP and (self.sleeps_for_copy or sleeps_to_leave):
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
            "since_boot": self.since_boot,
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
