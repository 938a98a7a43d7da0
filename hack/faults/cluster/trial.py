"""One pair of the matrix is tried: while a pod lives, while it is made, or while it ends."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import Any, Final

from faults import podsaid
from faults.cluster.breaking import BREAKERS
from faults.cluster.place import DEADLINE_SECONDS, Place
from faults.cluster.pod import EXIT_STATUS, TERM_SECONDS, Life, application
from faults.cluster.steps import bring, check, creates, deletes, starts, until_asked
from faults.errors import FaultError
from faults.matrix import Bound, Pair, Step, Tried
from faults.results import GOES_ON, RESTARTED
from lab import errors as lab_errors
from support import workloads
from support.workloads import BarePod, eventually

FINALIZER: Final = "faults.architect.dev/look"
"""Keeps a pod's object after its end: how it ended is told there."""


def bound(pair: Pair) -> Bound:
    """Return what may come of *pair*."""
    assert isinstance(pair.plan, Tried)
    return pair.plan.bound


def middle(pair: Pair, life: Life) -> tuple[str, list[str]]:
    """Try *pair* with a pod that runs: what came of it, and what was said of a loss."""
    place = life.place
    before = life.ask()
    restarts = life.pod.restarts()
    with ExitStack() as stack:
        asking = bring(life, pair.step, stack, has_clients=bound(pair) is Bound.GOES_ON)
        with BREAKERS[pair.fault.name](life, place):
            place.go_on()
        if bound(pair) is not Bound.GOES_ON and _is_restarted(life, before):
            return RESTARTED, _said_of_loss(life)
        until_asked(life, has_clients=bool(asking))
    after = life.ask()
    if (after["identity"], after["digest"]) != (before["identity"], before["digest"]):
        raise FaultError("it is not the same")
    check(asking, identity=before["identity"])
    eventually(life.pod.is_ready, what="it is ready", seconds=DEADLINE_SECONDS)
    if life.pod.restarts() != restarts:
        raise FaultError("its container was restarted")
    life.sleep()
    again = life.ask()
    if again["digest"] != before["digest"] or again["identity"] != before["identity"]:
        raise FaultError("after one more sleep it is not the same")
    return GOES_ON, []


def _is_restarted(life: Life, before: dict[str, Any]) -> bool:
    """Wait until it serves again; whether as another one."""
    found: list[dict[str, Any]] = []

    def serves() -> bool:
        with suppress(lab_errors.LabError):
            address = life.pod.pod_ip()
            found.append(workloads.ask(life.place.cluster, f"http://{address}:8080/digest"))
        return bool(found) and life.pod.is_ready()

    eventually(serves, what="it serves again", seconds=DEADLINE_SECONDS)
    return bool(found[-1]["identity"] != before["identity"])


def _said_of_loss(life: Life) -> list[str]:
    """Return what the API tells of a restart, once it tells something; else nothing."""
    found: list[str] = []

    def said() -> bool:
        uid = life.pod.uid()
        events = life.pod.get_json("events", fields=f"involvedObject.uid={uid}")
        found[:] = podsaid.losses(life.pod.pod(), events["items"])
        return bool(found)

    with suppress(AssertionError):
        eventually(said, what="the loss is said", seconds=DEADLINE_SECONDS)
    return found


def beginning(pair: Pair, place: Place) -> tuple[str, list[str]]:
    """Try *pair* while a pod is made; as :func:`middle`."""
    matches = creates if pair.step is Step.CREATE else starts(place)
    held = place.hold(place.run, matches)
    name = f"{pair.fault.name}-{pair.step}"
    made = BarePod(cluster=place.cluster, namespace=place.namespace, name=name)
    template = workloads.pod_template(name, [workloads.memory_server()], node=place.node.name)
    template["metadata"]["name"] = name
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    workloads.apply(made, workloads.code(name), pod)
    if not held.wait(DEADLINE_SECONDS):
        raise FaultError(f"{pair.step} is not reached")
    with BREAKERS[pair.fault.name](None, place):
        place.go_on()
    eventually(made.is_ready, what="it is ready", seconds=DEADLINE_SECONDS)
    life = Life.of(place, made)
    before = life.ask()
    life.sleep()
    if (life.ask())["digest"] != before["digest"]:
        raise FaultError("after a sleep it is not the same")
    made.kubectl("delete", "pod,configmap", name, "--wait=false")
    eventually(made.is_gone, what="it is gone", seconds=DEADLINE_SECONDS)
    return GOES_ON, []


def ending(pair: Pair, place: Place) -> tuple[str, list[str]]:
    """Try *pair* while a pod ends; as :func:`middle`."""
    kept = {"finalizers": [FINALIZER]}
    with ExitStack() as stack:
        pod = stack.enter_context(
            application(place, str(pair.step), fault=pair.fault, metadata=kept)
        )
        # However it ends: nobody else lets the object go.
        stack.callback(_let_go, pod)
        life = Life.of(place, pod)
        life.sandbox = life.find_sandbox()
        life.sleep()
        life.ask()
        if pair.step is Step.DELETE:
            held = place.hold(place.run, deletes(place))
            pod.kubectl("delete", "pod", pod.name, "--wait=false")
            if not held.wait(DEADLINE_SECONDS):
                raise FaultError(f"{pair.step} is not reached")
        else:
            pod.kubectl("delete", "pod", pod.name, "--wait=false")
            eventually(lambda: "got TERM" in pod.kubectl("logs", pod.name), what="its SIGTERM")
        with BREAKERS[pair.fault.name](life, place):
            place.go_on()
        _has_ended(pod, is_its_own=bound(pair) is Bound.GOES_ON)
        _let_go(pod)
        eventually(pod.is_gone, what="it is gone", seconds=DEADLINE_SECONDS)
    return GOES_ON, []


def _has_ended(pod: BarePod, *, is_its_own: bool) -> None:
    """Wait until the API tells the end, and see how it was. Raises FaultError, AssertionError."""
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        found[:] = [pod.pod()]
        return podsaid.has_ended(found[0])

    eventually(ended, what="its end is told", seconds=DEADLINE_SECONDS)
    if is_its_own:
        wrong = podsaid.wrong_with_end(found[0], status=EXIT_STATUS, used_seconds=TERM_SECONDS)
        if wrong:
            raise FaultError("; ".join(wrong))


def _let_go(pod: BarePod) -> None:
    """Let the object of a pod go that has a finalizer of ours."""
    if not pod.is_gone():
        change = json.dumps({"metadata": {"finalizers": None}})
        pod.kubectl("patch", "pod", pod.name, "--type=merge", "-p", change)
