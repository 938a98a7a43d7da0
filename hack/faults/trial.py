"""One pair of the matrix is tried, and judged."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from architect.core.errors import ArchitectError
from faults.breaking import BREAKERS
from faults.errors import FaultError
from faults.matrix import Bound, Pair, Step, Tried
from faults.node import DEADLINE_SECONDS, Node
from faults.pod import EXIT_STATUS, Pod
from faults.results import GOES_ON, RESTARTED, RETURNED, WAITS, Result
from faults.steps import Scene, reached
from support.patience import patient

SAYS_IT_ITSELF: Final = frozenset({"init", "inner-init", "no-memory"})
"""Faults that end the application: its exit status says so, as under runc."""
LOST_SECONDS: Final = patient(60.0)
"""How long an application may answer whose memory was destroyed."""

Renew = Callable[[], Node]
"""Gives a pod a node with the disk of its old one, whose power failed."""


def run(pair: Pair, node: Node, *, renew: Renew) -> Result:
    """Try *pair* on *node*; never raises for what the product does."""
    plan = pair.plan
    assert isinstance(plan, Tried)
    started, log_bytes = time.monotonic(), node.log_bytes()
    node.start_keeper()
    before = node.snapshot()
    failures: list[str] = []
    outcome, told = "", []
    pod = Pod(node)
    try:
        outcome = _broken(pair, plan, pod, failures, renew)
        told = pod.told + [f"exit status {status}" for status in pod.statuses]
    except (FaultError, ArchitectError, OSError, AssertionError) as error:
        failures.append(f"{type(error).__name__}: {error}")
    finally:
        try:
            pod.close()
        except (FaultError, ArchitectError, OSError, AssertionError) as error:
            failures.append(f"its removal: {type(error).__name__}: {error}")
    if not pair.fault.ends_host:
        if pair.fault.name == "warden":
            node.renew_keeper()
        failures += [f"leak of {text}" for text in node.leaked(before)]
    said = node.log(since=log_bytes)
    if "Traceback" in said:
        failures.append(f"a defect: {said[said.index('Traceback') :][:1500]}")
    return Result(
        fault=pair.fault.name,
        step=pair.step,
        outcome=outcome,
        seconds=round(time.monotonic() - started, 1),
        failures=failures,
        told=told,
    )


def _broken(pair: Pair, plan: Tried, pod: Pod, failures: list[str], renew: Renew) -> str:
    has_datagrams = not pair.fault.loses_datagrams and pair.fault.name != "flood"
    with reached(pair.step, pod, has_datagrams=has_datagrams) as scene:
        with BREAKERS[pair.fault.name](scene):
            scene.go_on()
        if pair.fault.name == "power":
            pod.abandon_clients()
            pod.move_to(renew())
            if pair.step not in (Step.CREATE, Step.START):
                return _after_power(scene, plan, failures, has_datagrams=has_datagrams)
            pod.run()
        if pair.step is Step.DELETE:
            return GOES_ON
        pod.resume_clients()
        if plan.bound is Bound.WAITS:
            _waits(pod)
            return WAITS
        has_restarted = _came_through(scene, plan, has_datagrams=has_datagrams)
        if has_restarted and plan.bound is Bound.GOES_ON:
            failures.append(f"its memory is lost: {pod.told or pod.statuses}")
        if has_restarted and pair.fault.name not in SAYS_IT_ITSELF and not pod.told:
            failures.append("its memory is lost, and nobody said so")
        if pair.step is Step.STOP and not has_restarted:
            _leaves(pod, failures)
        elif pair.fault.name == "disk-broken":
            failures += pod.stop_clients()
        else:
            _sleeps_once_more(pod)
            failures += pod.stop_clients()
    return RESTARTED if has_restarted else GOES_ON


def _came_through(scene: Scene, plan: Tried, *, has_datagrams: bool) -> bool:
    """Wait until the application serves; whether it is another one. Raises FaultError."""
    pod = scene.pod
    if scene.step in (Step.CREATE, Step.START):
        pod.who()
        pod.start_clients(has_datagrams=has_datagrams)
        pod.until_answered()
        # What an engine repeats is no restart where nothing had begun.
        return scene.is_repeated and plan.bound is not Bound.GOES_ON
    must_end = plan.bound is Bound.RESTARTS
    deadline = time.monotonic() + (LOST_SECONDS if must_end else DEADLINE_SECONDS)
    while not pod.has_ended():
        who = _answer(pod)
        if who is not None and not must_end:
            # It may have answered with its last breath.
            pod.until_answered()
            if pod.has_ended():
                break
            if scene.who and who != scene.who:
                raise FaultError(f"it is not the same: {who}, was {scene.who}")
            return False
        if time.monotonic() > deadline:
            what = "it goes on" if who else "it neither serves nor ends"
            raise FaultError(f"{what}: {pod.told} {pod.node.log()[-3000:]}")
        time.sleep(0.05)
    pod.abandon_clients()  # what they saw is the end of their server
    pod.replace()
    # Nor does the next keeper find anything of the one before.
    pod.node.renew_keeper()
    who = pod.who()
    if who == scene.who:
        raise FaultError("the restarted application has the memory of the one before")
    pod.start_clients(has_datagrams=has_datagrams, seed=100)
    pod.until_answered()
    return True


def _after_power(scene: Scene, plan: Tried, failures: list[str], *, has_datagrams: bool) -> str:
    """Run the pod on a node with what was on its disk; return what came of it. FaultError.

    With its memory it is one that slept, and its memory is that of its last moment. Whatever else
    was on the disk is none, and leaves nothing to the pod that begins anew.
    """
    pod = scene.pod
    has_returned = pod.returns()
    if has_returned and plan.bound is Bound.RESTARTS:
        raise FaultError("it goes on with a memory that is not its last")
    if not has_returned and plan.bound is Bound.RETURNS:
        raise FaultError(f"its memory is lost: {pod.told} {pod.node.log()[-3000:]}")
    if not has_returned:
        # Nor does the next keeper find anything of the one before.
        pod.node.renew_keeper()
    who = pod.who()
    if (who == scene.who) is not has_returned:
        raise FaultError(f"sleeps on: {has_returned}; it is {who}, was {scene.who}")
    if has_returned and not pod.returned.wait(DEADLINE_SECONDS):
        failures.append("it came back, and nobody said so")
    pod.start_clients(has_datagrams=has_datagrams, seed=100)
    pod.until_answered()
    _sleeps_once_more(pod)
    failures += pod.stop_clients()
    return RETURNED if has_returned else RESTARTED


def _waits(pod: Pod) -> None:
    """It says that it cannot be woken, and nothing of it is thrown away. Raises FaultError."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not pod.told:
        if time.monotonic() > deadline:
            raise FaultError(f"nobody says that it cannot be woken: {pod.node.log()[-3000:]}")
        time.sleep(0.05)
    if pod.has_ended():
        raise FaultError(f"it was ended: {pod.told}")
    if not (pod.images / "image" / "inventory.img").exists():
        raise FaultError(f"its image is gone: {pod.told}")
    pod.abandon_clients()


def _answer(pod: Pod) -> str | None:
    try:
        return pod.ask("who", seconds=2.0)
    except OSError:
        return None


def _sleeps_once_more(pod: Pod) -> None:
    """It can sleep and wake as before, by what its clients ask, and is the same afterwards."""
    before = pod.who()
    pod.pause_clients()
    pod.sleep()
    pod.resume_clients()
    pod.until_answered()
    if (after := pod.who()) != before:
        raise FaultError(f"after one more sleep it is not the same: {after}, was {before}")


def _leaves(pod: Pod, failures: list[str]) -> None:
    """The application ends in its own time, and with its own status."""
    failures += pod.stop_clients()
    pod.ask("leave")
    assert pod.container is not None
    if (status := pod.container.wait()) != EXIT_STATUS:
        failures.append(f"exit status {status}, not the application's {EXIT_STATUS}")
