"""A pod is picked up where an earlier keeper left it, as :mod:`.recovery` decides.

Whatever an earlier keeper held is let go or held again; until it is known which, requests wait.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any, Final

from architect.api.keeper import Event, PodState
from architect.api.policy import OnRestoreFailure
from architect.core import clocks
from architect.core.errors import FormatError, NodeError
from architect.shim.keeper import images, podstate, recovery
from architect.shim.keeper.container import FRESH_STATUS
from architect.shim.keeper.loop import Task
from architect.shim.keeper.pod import Pod
from architect.shim.keeper.podstate import Remembered
from architect.shim.keeper.recovery import Recovery

log = logging.getLogger(__name__)

STEP_SECONDS: Final = 0.1


def resume(pod: Pod) -> Task[None]:
    """Pick up *pod*, whose containers are registered. Raises NodeError, OSError."""
    saved = _remembered(pod.uid)
    phase = saved.phase
    for name, container in pod.containers.items():
        if saved.signalled.get(name) == container.record.id:
            pod.signalled.add(name)
    pod.sleeps_to_leave = saved.sleeps_to_leave
    if phase is PodState.CAPTURED:
        _captured(pod)
        return
    has_ended_lost = False
    while True:
        try:
            facts = [container.facts() for container in pod.containers.values()]
        except NodeError as error:
            log.error("%s is not picked up: %s", pod, error)
            return
        decision = recovery.decide(phase, facts, goes_on=saved.goes_on)
        if decision is Recovery.LOST and not has_ended_lost:
            has_ended_lost = True
            _end_lost(pod)
        elif decision is not Recovery.WAIT and decision is not Recovery.LOST:
            break
        # CRIU is at work, or what is lost ends: what is left is decided on then.
        yield pod.loop.sleep(STEP_SECONDS)
    log.info("%s: was %s, %s", pod, phase.value if phase else "never asleep", decision.value)
    match decision:
        case Recovery.AWAKE | Recovery.GONE:
            # Gone: created a moment ago (no init yet), or ended while no keeper ran; a later
            # `removed` or `register` tells which. What is held goes to whom is there then.
            _awake(pod, saved.network, was_falling=phase is PodState.FALLING)
        case Recovery.ASLEEP:
            _asleep(pod, saved, has_failed=phase is PodState.FAILED)
        case Recovery.FINISH_SLEEP | Recovery.FINISH_WAKE:
            _asleep(pod, replace(saved, since=time.time(), since_boot=clocks.boot_seconds()))
            pod.woken_by_network("keeper restarted")


def _remembered(uid: str) -> Remembered:
    try:
        return podstate.read(uid)
    except FileNotFoundError:
        pass
    except FormatError as error:
        log.error("pod %s: its saved state cannot be read, its processes tell: %s", uid, error)
    return Remembered(phase=None, since=time.time())


def _awake(pod: Pod, network: dict[str, Any] | None, *, was_falling: bool) -> None:
    """Go on running: release what is held.

    *was_falling*: whether a CRIU that was killed may have had it in its hands.
    """
    pod.state, pod.reason = PodState.AWAKE, "keeper restarted"
    for container in pod.containers.values():
        if container.find_init() is not None and not container.is_starting():
            container.settle_awake()
            if was_falling:
                container.mend_connections()
            container.forget_image()
    pod.network.resume_awake(list(pod.containers.values()), network)
    pod.save()


def _asleep(pod: Pod, saved: Remembered, *, has_failed: bool = False) -> None:
    """Sleep on: hold packets again, and look for a reason to wake.

    *has_failed* says that its last restore had failed, so that the policy for that goes on.
    """
    pod.state = PodState.FAILED if has_failed else PodState.ASLEEP
    pod.since, pod.reason = saved.since, "keeper restarted"
    pod.since_boot = _since_boot(saved)
    pod.image_bytes = images.size_bytes(images.pod_directory(pod.uid))
    pod.network.resume_sleep(pod.begun(), saved.network)
    if has_failed:
        pod.failed_wakes = 1
        pod.network.fail("the last restore failed")
        if pod.policy.on_restore_failure is not OnRestoreFailure.FAIL:
            pod.retry_later()
    pod.save_for_good()


def _since_boot(saved: Remembered) -> float:
    """Return since when it sleeps. The wall clock tells only where an earlier version wrote."""
    now = clocks.boot_seconds()
    if saved.since_boot is not None and saved.since_boot <= now:
        return saved.since_boot
    return now - max(0.0, time.time() - saved.since)


def _captured(pod: Pod) -> None:
    """It was saved for its successor: its containers only have to end."""
    pod.state, pod.reason = PodState.CAPTURED, "keeper restarted"
    pod.network.resume_awake(list(pod.containers.values()), None)
    pod.save()


def _end_lost(pod: Pod) -> None:
    """End containers whose tree is gone and has no image; kubelet restarts them.

    Those that have an image are still to be picked up.
    """
    for container in pod.containers.values():
        facts = container.facts()
        if facts.is_starting:
            continue
        if facts.is_init_alive and not facts.is_tree_alive and not facts.is_image_complete:
            log.error("%s: the memory of container %s is lost", pod, container.name)
            images.set_aside(container.directory)
            container.end_with_tree(FRESH_STATUS)
            pod.tell(
                Event.WAKE_FAILED,
                reason="ImageLost",
                message=f"container {container.name} has neither processes nor an image",
                hint="a process was killed in the middle of a dump; see the keeper's log",
                policy=OnRestoreFailure.FRESH.value,
            )
