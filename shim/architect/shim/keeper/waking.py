"""A pod wakes: the order of effects that keeps every packet and every byte.

Free the application's ports, restore each tree, release what was held. What cannot be restored is
given up, tried again later or left, as the pod's policy says (:mod:`.failures`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from architect.api.keeper import Event
from architect.api.policy import OnRestoreFailure
from architect.core.durations import render
from architect.core.errors import ArchitectError
from architect.shim.keeper import cpuquota, failures, images
from architect.shim.keeper.container import FRESH_STATUS, Container
from architect.shim.keeper.failures import Refusal
from architect.shim.keeper.lifecycle import Step
from architect.shim.keeper.loop import Future, Task
from architect.shim.keeper.stopwatch import Stopwatch

if TYPE_CHECKING:
    from architect.shim.keeper.pod import Pod

log = logging.getLogger(__name__)


def wake(pod: Pod, *, reason: str, event: Event = Event.WOKE) -> Task[None]:
    """Wake a sleeping pod, and tell *event*. Raises NodeError, OSError: its policy was followed."""
    watch = Stopwatch()
    pod.enter(Step.WAKE, reason)
    # Written while CRIU works: nobody waits for the disk. A keeper that is killed before finds
    # the pod asleep, or CRIU at work.
    noted: Future[None] = Future()
    pod.loop.call_soon(lambda: pod.save_for_good().when_done(lambda _: noted.set_result(None)))
    members = [c for c in pod.containers.values() if c.find_init() is not None]
    try:
        members = pod.begun()
        yield from pod.admission.wake(members, image_bytes=pod.image_bytes)
        asleep = [c for c in members if not c.is_running()]
        newcomers = [c for c in asleep if c.is_newcomer]
        yield from pod.before_first_run(newcomers)
        pod.network.prepare_wake()
        watch.done("prepare")
        with cpuquota.lifted(pod.uid, [c.cgroups() for c in asleep]):
            yield from _restore(pod, asleep, has_company=len(asleep) < len(members))
        watch.done("restore")
        # Else a machine whose power fails now would go on from the image, which is old by then:
        # what clients are told, and what is written elsewhere, would not be in that memory.
        yield noted
        watch.done("note")
    except (ArchitectError, OSError) as error:
        _failed(pod, members, error)
        raise
    except Exception as error:
        # Whatever it was: the pod must not stay as it is, with its packets held.
        log.exception("%s wakes no further, by a defect", pod)
        problem = failures.defect(error)
        _failed(pod, members, problem)
        raise problem from error
    pod.enter(Step.RESTORED, reason)
    held = yield from pod.network.release()
    watch.done("release")
    pod.failed_wakes = 0
    pod.last_wake_seconds = watch.total_seconds
    pod.image_bytes = 0
    for container in members:
        container.forget_image()
    pod.save()
    pod.tell(
        event,
        duration_seconds=watch.total_seconds,
        reason=reason,
        held_packets=held,
        steps=watch.seconds,
    )
    log.info("%s woke after %s: %s (%s)", pod, render(watch.total_seconds), reason, watch.seconds)
    pod.after_first_run(newcomers)


def _restore(pod: Pod, asleep: list[Container], *, has_company: bool) -> Task[None]:
    """Bring *asleep* back. Raises what the first says that cannot be; by then the others are back.

    Not so where the pod's policy gives nothing up: then it fails as a whole, at once.
    """
    first: ArchitectError | OSError | None = None
    for container in asleep:
        container.has_company = has_company
        try:
            yield from container.restore(pod.loop, pod.server)
            has_company = True
        except (ArchitectError, OSError) as error:
            if _policy(pod, error) is not OnRestoreFailure.FRESH:
                raise
            log.error("%s: %s cannot be restored: %s", pod, container.name, error)
            first = first or error
    if first is not None:
        raise first


def _policy(pod: Pod, error: ArchitectError | OSError) -> OnRestoreFailure:
    return failures.after_failed_wake(
        pod.policy.on_restore_failure, error, attempts=pod.failed_wakes + 1
    )


def _failed(pod: Pod, members: list[Container], error: ArchitectError | OSError) -> None:
    failure = Refusal.of(error)
    policy = _policy(pod, error)
    pod.step(Step.RESTORE_FAILED, failure.reason)
    pod.failed_wakes += 1
    pod.tell(Event.WAKE_FAILED, **failure.as_dict(), policy=policy.value)
    log.error("%s cannot be restored (policy %s): %s", pod, policy.value, error)
    match policy:
        case OnRestoreFailure.FRESH:
            for container in members:
                if container.is_running():
                    container.forget_image()
                elif container.find_init() is not None:  # else it has ended by itself meanwhile
                    _give_up(container)
            pod.enter(Step.GIVEN_UP, failure.reason)
            pod.network.release_now()
        case OnRestoreFailure.RETRY:
            pod.network.fail(failure.message)
            pod.retry_later()
        case OnRestoreFailure.FAIL:
            pod.network.fail(failure.message)
    pod.save()
    pod.after_failed_wake(members)


def _give_up(container: Container) -> None:
    """Go on without the memory: kubelet restarts the container, and counts that.

    What never ran in this pod simply starts.
    """
    is_newcomer = container.is_newcomer
    try:
        images.set_aside(container.directory)
    except OSError as error:  # the next container of that name leaves it behind
        log.error("container %s: its image stays where it is: %s", container.name, error)
    if is_newcomer:
        container.start_fresh()
    else:
        container.end(FRESH_STATUS)
