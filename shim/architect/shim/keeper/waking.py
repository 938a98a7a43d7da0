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
from architect.shim.keeper.loop import Task
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
    pod.loop.call_soon(pod.save)
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
            for container in asleep:
                yield from container.restore(pod.loop, pod.server)
        watch.done("restore")
    except (ArchitectError, OSError) as error:
        _failed(pod, members, error)
        raise
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


def _failed(pod: Pod, members: list[Container], error: ArchitectError | OSError) -> None:
    failure = Refusal.of(error)
    policy = failures.after_failed_wake(pod.policy.on_restore_failure, error)
    pod.step(Step.RESTORE_FAILED, failure.reason)
    pod.failed_wakes += 1
    pod.tell(Event.WAKE_FAILED, **failure.as_dict(), policy=policy.value)
    log.error("%s cannot be restored (policy %s): %s", pod, policy.value, error)
    match policy:
        case OnRestoreFailure.FRESH:
            for container in members:
                if not container.is_running():
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
    images.set_aside(container.directory)
    if is_newcomer:
        container.start_fresh()
    else:
        container.end(FRESH_STATUS)
