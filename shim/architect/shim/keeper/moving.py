"""A pod that can leave for another node, and come from one, or be copied where it is.

Leaving: :meth:`MovingPod.capture` puts it to sleep whatever is under way, its files are packed by
others, and :meth:`MovingPod.depart` makes that final. Until then a wake undoes it. Coming: a hollow
container takes the image that came for it as its own and wakes from it, like any sleeping one: at
once, or whenever somebody asks for it if its predecessor slept, too (:meth:`MovingPod.adopt`).

Copied: :meth:`MovingPod.copy` has it asleep while others read its image and its files, and
:meth:`MovingPod.go_on` wakes it, with its connections in place.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Final

from architect.api.keeper import REASON_ARRIVED, Event, PodState
from architect.api.policy import OnRestoreFailure
from architect.core.errors import ArchitectError, FormatError, Rejected
from architect.shim.keeper import falling, hooks, images, lifecycle, podstate
from architect.shim.keeper.container import FRESH_STATUS, Container
from architect.shim.keeper.failures import Refusal
from architect.shim.keeper.hooks import Hooks
from architect.shim.keeper.lifecycle import Answer, Step
from architect.shim.keeper.loop import Task
from architect.shim.keeper.pod import Copying, Pod
from architect.shim.keeper.volumes import Volumes

log = logging.getLogger(__name__)

TERMINATED_STATUS: Final = 143
"""Exit status of a container whose successor goes on elsewhere: as if SIGTERM had ended it."""

DEPARTED_SYNC_SECONDS: Final = 30.0
"""From a departure until what is left of it is written to the disk, which the kernel does about
then, too (``vm.dirty_expire_centisecs``). A power cut before that takes it: whoever looks for it
finds that it is damaged, and begins anew."""


class MovingPod(Pod):
    """The pods of the keeper's service, which sets :attr:`hooks` and :attr:`volumes`."""

    hooks: Hooks
    volumes: Volumes

    ends_with: Sequence[Sequence[str]] = ()
    """The commands that kubelet runs in a container before it ends it (preStop hooks)."""

    def capture(
        self,
        *,
        reason: str,
        patience_seconds: float,
        ends_with: Sequence[Sequence[str]] = (),
    ) -> Task[None]:
        """Put the pod to sleep for its successor: whatever is under way, and packets do not wake.

        Conversations that do not come to rest in time are cut. Until :meth:`depart` a wake undoes
        it. Raises Rejected or NodeError; the pod then is as it was, or awake.
        """
        yield from self.recovered()
        while self.copying is not None:
            yield self.copying
        self._refuse_signalled()
        yield from self._renew_image()
        self.is_leaving = True
        self.ends_with = ends_with
        self.save()  # the runtime waits for a daemon that has begun this and was killed
        try:
            yield from self._rest(reason, patience_seconds)
        except BaseException:
            self.is_leaving = False
            self.save()
            raise

    def copy(self, *, reason: str, patience_seconds: float) -> Task[Copying]:
        """Have the pod asleep until :meth:`go_on`: its image may be read, and packets wait.

        Nothing is cut: after *patience_seconds* conversations wait in the middle, and what has no
        image, such as a connection that was not accepted yet, has as long once more to pass. A wake
        undoes it. Raises Rejected or NodeError; the pod then is as it was, or awake.
        """
        yield from self.recovered()
        self._refuse_signalled()
        if self.is_leaving or self.state is PodState.CAPTURED:
            raise lifecycle.left()
        if self.copying is not None:
            raise Rejected(f"{self} is being copied already", reason="Busy", hint="ask again later")
        yield from self._renew_image()
        copying = self.copying = Copying()
        try:
            yield from self._rest(reason, patience_seconds)
            if self.copying is not copying:
                raise self._not_captured()
        except BaseException:
            if self.copying is copying:
                self._end_copying(copying)
            raise
        return copying

    def go_on(self, copying: Copying | None = None) -> Task[None]:
        """End *copying*, or whatever copy is made: awake again, or asleep if it was before.

        Raises Rejected with reason ``NotCaptured`` if the pod was woken in between, so that files
        and memory that were copied are of different times; what :meth:`wake` raises.
        """
        yield from self.recovered()
        if self.copying is None or copying not in (None, self.copying):
            raise self._not_captured()
        copying = self.copying
        if copying.was_awake:
            yield from self.wake(reason="its image was copied", event=Event.COPIED)
        else:
            self._end_copying(copying)
            self.network.look_for_wake()

    def _rest(self, reason: str, patience_seconds: float) -> Task[None]:
        """Be asleep, whatever is under way."""
        while (answer := lifecycle.capture_request(self.state)) is not Answer.DONE:
            if answer is Answer.START:
                if self.copying is not None:
                    self.copying.was_awake = True
                task = falling.fall_asleep(self, reason=reason, patience_seconds=patience_seconds)
                self._work = self.loop.spawn(task, name=f"capture {self}")
                yield self._work
            else:
                assert self._work is not None
                with contextlib.suppress(ArchitectError, OSError):  # told by whoever asked
                    yield self._work
        if self.state is PodState.ASLEEP:
            # Now, since what is saved is hashed before the pod departs.
            for container in self.containers.values():
                if container.is_starting():  # beside those that came asleep
                    raise self.not_running(container)
                images.note_addresses(container.directory, self.network.addresses())

    def _renew_image(self) -> Task[None]:
        """Wake a pod that has slept since before CRIU was upgraded: it is saved as of today.

        Its nodes restore what their own CRIU has written, and this one what an earlier one has.
        Raises NodeError.
        """
        if self.state is PodState.ASLEEP and any(
            c.is_of_other_criu for c in self.containers.values()
        ):
            yield from self.wake(reason="another CRIU wrote its image")

    def _refuse_signalled(self) -> None:
        if self.signalled:
            raise Rejected(
                f"{self}: container {', '.join(sorted(self.signalled))} got a signal already",
                reason="Signalled",
                hint="what ends by itself is not saved",
            )

    def _not_captured(self) -> Rejected:
        return Rejected(
            f"{self} is {self.state.value} and not captured",
            reason="NotCaptured",
            hint="it was woken in between: capture it again",
        )

    def begin_anew(self) -> None:
        """Note that a container comes, whatever became of the pod in an earlier life.

        A node that ended before kubelet could tell what it had ended runs the same pod again.
        """
        with contextlib.suppress(FileNotFoundError, FormatError):
            was = podstate.read(self.uid).phase
            if was is PodState.CAPTURED and self.state is not PodState.CAPTURED:
                log.warning("%s was saved for its successor, and runs again", self)
                self.save()

    def depart(self, *, reason: str) -> None:
        """Leave the captured pod to its successor: it never runs here again, its peers are told.

        Repeated it does nothing. Raises Rejected if it is not asleep, OSError if it cannot be
        written down: it is asleep then, and still this node's.
        """
        if self.state is PodState.CAPTURED:
            return
        if self.state is not PodState.ASLEEP or not self.is_leaving:
            raise self._not_captured()
        self._leave(reason)

    def _leave(self, reason: str) -> None:
        was = self.state, self.since, self.since_boot, self.reason
        self.enter(Step.CAPTURE, reason)
        # Before anybody acts upon it: nothing else tells a new keeper that the pod is not to wake,
        # and its successor goes on with the same memory.
        try:
            self.write_down()
        except OSError:
            self.state, self.since, self.since_boot, self.reason = was
            raise
        self.network.leave(list(self.containers.values()))
        # Its successor waits for what would be written now, and has mostly got it by then: what was
        # fetched and removed never reaches the disk.
        self.loop.call_later(DEPARTED_SYNC_SECONDS, self._make_safe)
        self.tell(
            Event.CAPTURED,
            duration_seconds=self.last_sleep_seconds or 0.0,
            image_bytes=self.image_bytes,
            reason=reason,
        )
        log.info("%s is saved for its successor: %s", self, reason)

    def _make_safe(self) -> None:
        self.sync_in_background()

    def note_signal(self, identity: str) -> None:
        """Remember that a signal goes to container *identity*, also across keepers."""
        self.signalled |= {n for n, c in self.containers.items() if c.record.id == identity}
        if self.namespace:  # nobody else's moves
            self.save()

    def end_captured(self, identity: str) -> bool:
        """End the container *identity* of a captured pod; whether the pod is one."""
        if self.state is not PodState.CAPTURED:
            return False
        for container in self.containers.values():
            if container.record.id == identity and container.find_init() is not None:
                container.end(TERMINATED_STATUS)
        return True

    def adopt(self, name: str) -> Task[None]:
        """Make container *name* go on with what came for it from another pod.

        If that one slept, so does this one until somebody asks for it (:func:`.stays_asleep`).
        Raises Rejected if nothing came; where it cannot be restored the pod's policy decides, and
        that is told.
        """
        yield from self.recovered()
        container = self.containers[name]
        yield from container.wait_for_init(self.loop)
        while self._work is not None and not self._work.is_done:
            with contextlib.suppress(ArchitectError, OSError):  # told by whoever asked
                yield self._work
        if self.state is PodState.CAPTURED:
            raise lifecycle.left()
        if container.is_running():
            return
        is_own = not container.has_come and not container.is_newcomer
        if is_own and images.is_complete(container.directory):
            return  # asked once more: it went on, and sleeps by now
        stays = self._stays_asleep(container)
        if container.has_come or not container.is_newcomer:  # else it was asked before
            self._take(container, stays=stays)
            self.step(Step.ADOPT, "came asleep" if stays else "restored")
            try:
                self.network.adopt(self.begun(), container)
            except (ArchitectError, OSError) as error:
                log.error("%s wakes, for its packets cannot wait: %s", self, error)
                stays = False
        has_returned = images.forget_return(self.uid)
        if stays:
            log.info("%s: container %s came asleep, and sleeps on", self, name)
            self.note_return([container])
            told = self._tell_once_safe(name, has_returned=has_returned)
            self.loop.spawn(told, name=f"arrival of {self}")
            return
        yield from self.wake(reason=REASON_ARRIVED)
        self.tell(Event.RESTORED, container=name, returned=has_returned)

    def _tell_once_safe(self, name: str, *, has_returned: bool) -> Task[None]:
        # What lies elsewhere is removed once this is told.
        if (yield self.sync_in_background()):
            self.tell(Event.RESTORED, container=name, returned=has_returned)

    def _stays_asleep(self, newcomer: Container) -> bool:
        return lifecycle.stays_asleep(
            self.state,
            has_slept=images.came_asleep(self.uid),
            may_move_asleep=self.policy.move_asleep,
            is_running=any(c.is_running() for c in self.containers.values() if c is not newcomer),
        )

    def _take(self, container: Container, *, stays: bool) -> None:
        """Make what came for *container* its own, or do what the policy says, and raise why."""
        try:
            if not container.has_come:
                raise Rejected(
                    f"{self}: nothing came for container {container.name}", reason="NothingCame"
                )
            self.network.open(container.init().pid)
            if stays:
                images.keep_data(self.uid)
            container.adopt(addresses=self.network.addresses())
        except (ArchitectError, OSError) as error:
            failure = Refusal.of(error)
            self.refuse(container.name, reason=failure.reason, message=failure.message)
            raise
        self.image_bytes = images.size_bytes(images.pod_directory(self.uid))

    def before_first_run(self, newcomers: Sequence[Container]) -> Task[None]:
        """See that the volumes hold what the memory that came knows. Raises as Volumes.check()."""
        # Once one of them runs, what is written there is the pod's own.
        has_begun = any(c.is_newcomer and c.is_running() for c in self.containers.values())
        if newcomers and not has_begun and images.kept_data(self.uid).exists():
            yield from self.volumes.check(self.uid)

    def after_failed_wake(self, members: Sequence[Container]) -> None:
        """Keep what is needed to look at the volumes before the next attempt."""
        has_begun = any(c.is_running() for c in self.containers.values())
        is_newcomer = any(c.is_newcomer for c in members) and not has_begun
        if self.state is PodState.FAILED and is_newcomer:
            # It may be woken much later, and others may write to its volumes until then.
            with contextlib.suppress(ArchitectError, OSError):
                images.keep_data(self.uid)

    def after_first_run(self, newcomers: Sequence[Container]) -> None:
        """Run the hooks of *newcomers*; their volumes are the pod's own now."""
        if newcomers:
            images.kept_data(self.uid).unlink(missing_ok=True)
        for container in newcomers:
            if container.policy.after_restore:
                self.loop.spawn(self._run_hook(container), name=f"hook of {self}")

    def _run_hook(self, container: Container) -> Task[None]:
        """Run what the user wants done once memory has moved, and tell how it ended."""
        argv = container.policy.after_restore
        said = yield from hooks.told(self.hooks.run(container.record, argv))
        log.info("%s: hook of container %s: %s", self, container.name, said)
        self.tell(Event.HOOK, container=container.name, **said)

    def _wake_beside(self, name: str) -> None:
        """Have the pod awake, one of whose containers runs: it sleeps and wakes as one."""
        if self.state not in (PodState.AWAKE, PodState.CAPTURED):
            wake = self.wake(reason=f"container {name} begins afresh")
            self.loop.spawn(wake, name=f"wake {self}").when_done(self._report_unwatched)

    def refuse(self, name: str, *, reason: str, message: str, is_dirty: bool = False) -> None:
        """Say that a hollow container cannot go on with what came for it.

        With the policy ``fresh`` its application starts; otherwise it waits for whoever looks.
        *is_dirty*: part of its predecessor's files is there, so only a new container is fresh.
        """
        policy = self.policy.on_restore_failure
        if policy is OnRestoreFailure.FRESH:
            try:
                self.containers[name].refuse_arrival()
            except OSError as error:
                log.error("%s: what came for container %s is not set aside: %s", self, name, error)
            images.forget_return(self.uid)
            if is_dirty:
                self.containers[name].end(FRESH_STATUS)
            else:
                self.containers[name].start_fresh()
                self._wake_beside(name)
        self.tell(
            Event.WAKE_FAILED,
            reason=reason,
            message=message,
            hint="what came for it from its predecessor is kept",
            policy=policy.value,
        )
        log.error("%s: container %s cannot go on: %s", self, name, message)
