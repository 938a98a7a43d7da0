"""A pod falls asleep: the order of effects that keeps every packet and every byte.

Hold new packets, let conversations drain, dump each container's tree, stand in for it. Whatever
fails on the way is undone: what was dumped comes back, and what was held is let go.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from architect.api.keeper import Event, PodState
from architect.core.durations import render
from architect.core.errors import ArchitectError, Rejected
from architect.shim.keeper import failures, images, lifecycle
from architect.shim.keeper.container import FRESH_STATUS, Container
from architect.shim.keeper.dumping import TreeLost
from architect.shim.keeper.failures import Refusal
from architect.shim.keeper.lifecycle import Patience, Step
from architect.shim.keeper.loop import Task
from architect.shim.keeper.stopwatch import Stopwatch

if TYPE_CHECKING:
    from architect.shim.keeper.pod import Pod

log = logging.getLogger(__name__)

DRAIN_STEP_SECONDS: Final = 0.002


def fall_asleep(pod: Pod, *, reason: str, patience_seconds: float) -> Task[None]:
    """Put an awake pod to sleep. Raises Rejected (nothing changed), NodeError, OSError (undone)."""
    watch = Stopwatch()
    pod.sleeps_to_leave = pod.is_leaving
    members = _members(pod)
    pod.admission.sleep(members, is_leaving=pod.is_leaving)
    pod.step(Step.SLEEP, reason)
    dumped: list[Container] = []
    try:
        # While everything still runs: it takes as long as there are files.
        watched = []
        for container in members:
            watched.append((yield from container.find_watched(pod.loop)))
            yield from container.refuse_removed(pod.loop)
        pod.network.hold(members)
        yield from _drain(pod, patience_seconds)
        watch.done("drain")
        for container, paths in zip(members, watched, strict=True):
            yield from container.dump(
                pod.loop, pod.server, watched=paths, is_leaving=pod.is_leaving
            )
            dumped.append(container)
        watch.done("dump")
        pod.image_bytes = images.size_bytes(images.pod_directory(pod.uid))
        pod.step(Step.DUMPED, reason)
        pod.network.sleep(members)
        watch.done("stand-in")
    except (ArchitectError, OSError) as error:
        yield from _undo(pod, dumped, error)
        raise
    except Exception as error:
        # Whatever it was: what is dumped must come back, and what is held must go.
        log.exception("%s falls asleep no further, by a defect", pod)
        problem = failures.defect(error)
        # Also one of which it was not noted any more that it is dumped.
        dumped = [c for c in members if images.is_complete(c.directory)]
        yield from _undo(pod, dumped, problem)
        raise problem from error
    pod.last_sleep_seconds = watch.total_seconds
    if not (pod.is_leaving or pod.sleeps_for_copy):
        pod.note_return(members)
    pod.save()
    if not pod.is_leaving:  # or its successor would wait behind the disk: MovingPod.depart()
        pod.sync_in_background()
    if not pod.sleeps_for_copy:  # or nobody is told: it is awake again in a moment
        pod.tell(
            Event.SLEPT,
            duration_seconds=watch.total_seconds,
            image_bytes=pod.image_bytes,
            reason=reason,
            steps=watch.seconds,
        )
    log.info("%s sleeps after %s (%s)", pod, render(watch.total_seconds), watch.seconds)


def _members(pod: Pod) -> list[Container]:
    members = list(pod.containers.values())
    for container in members:
        if container.find_init() is None or container.tree_root() is None:
            raise pod.not_running(container)
    if not members:
        raise Rejected(f"{pod} has no managed container", reason="NotRunning")
    return members


def _drain(pod: Pod, patience_seconds: float) -> Task[None]:
    """Wait until nothing is under way that a dump would cut; then let nothing more begin."""
    began = time.monotonic()
    while True:
        waited, is_for_copy = time.monotonic() - began, pod.sleeps_for_copy
        is_brief = lifecycle.is_brief(
            waited, patience_seconds=patience_seconds, is_for_copy=is_for_copy
        )
        busy = pod.network.busy(is_brief=is_brief)
        if busy is None and pod.network.freeze(is_brief=is_brief) is None:
            return
        match lifecycle.while_busy(
            waited,
            patience_seconds=patience_seconds,
            is_leaving=pod.is_leaving,
            is_for_copy=is_for_copy,
        ):
            case Patience.CUT:
                log.info("%s leaves in the middle of a conversation: %s", pod, busy)
                pod.network.cut()
                return
            case Patience.GIVE_UP:
                raise Rejected(
                    f"{pod} does not come to rest: {busy or 'a packet came in between'}",
                    reason="Busy",
                    hint="it is tried again",
                )
            case Patience.WAIT:
                yield pod.loop.sleep(DRAIN_STEP_SECONDS)


def _undo(pod: Pod, dumped: list[Container], error: ArchitectError | OSError) -> Task[None]:
    """Bring back what was dumped already, release packets, remember why."""
    lost: list[Container] = []
    names = [error.container] if isinstance(error, TreeLost) else []
    for container in dumped:
        try:
            container.has_company = container is not dumped[0] or len(dumped) < len(pod.containers)
            yield from container.restore(pod.loop, pod.server)
            container.forget_image()
        except Exception as second:  # noqa: BLE001  # a defect must not keep what is held either
            log.error("%s: %s cannot be brought back: %r", pod, container.name, second)
            if not container.is_running():  # else it is back, whatever failed after that
                lost.append(container)
    if pod.state is PodState.FALLING:
        pod.step(Step.UNDONE, "sleep failed")
    else:
        pod.step(Step.WAKE, "sleep failed")
        pod.step(Step.RESTORED, "sleep failed")
    yield from pod.network.release()
    for container in lost:
        images.set_aside(container.directory)
        container.end(FRESH_STATUS)
    failure = Refusal.of(error)
    if failure.stands:
        pod.refused = failure
    pod.save()
    pod.tell(Event.SLEEP_FAILED, **failure.as_dict(), lost=[*names, *(c.name for c in lost)])
    log.warning("%s goes on running: %s", pod, error)
