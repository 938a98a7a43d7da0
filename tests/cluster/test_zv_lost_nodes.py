"""A machine is lost in the middle of a move: memory goes on once, or its loss is said aloud.

The end is a real one: no process and no disk is left of the node, and nobody is told. So this runs
behind all that needs the nodes of before (``zv``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import pytest

from architect.api import names, saved
from architect.api.policy import Storage
from architect.kube import checkpoints, conditions
from architect.operator.machines import OUT_OF_SERVICE
from lab import links, netns, release, store_faults
from lab.cluster import Cluster
from lab.node import Node
from support import fleets, moves, nodefiles, parts
from support.fleets import Fleet, Known, Squad
from support.moves import Pod
from support.spotnodes import GONE_SECONDS, replace
from support.storing import leave
from support.watches import watch
from support.workloads import eventually

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

BYTES_PER_SECOND: Final = 6 << 20
"""From one node to another: slow enough for its end to come in the middle of a transfer."""
BOUND_SECONDS: Final = 60.0
"""For a pod to run that waits for a node that is lost: that is waited for for 20 s."""
SILENT_SECONDS: Final = 120.0
"""For Kubernetes to notice that a kubelet is silent."""
WITH_NODES: Final = {names.STORAGE: Storage.NODE.value}


@contextmanager
def lost(cluster: Cluster) -> Iterator[Node]:
    """Give the node whose machine is to end; afterwards there is another one in its place."""
    count, node = len(cluster.nodes), cluster.nodes[-1]
    try:
        yield node
    finally:
        if node.machine.pid is not None:  # the test has failed before
            node.end(cluster.plane.machine)
        replace(cluster, count)


def successor(fleet: Fleet, old: Known) -> Pod:
    """Return the pod that was made in place of *old*."""
    app = fleet.app(next(s for s in fleet.squads if s.name == old.squad))

    def found() -> Pod | None:
        new = [pod for pod in moves.pods(app) if pod["metadata"]["uid"] != old.uid]
        return new[0] if len(new) == 1 else None

    pod: Pod = eventually(found, what=f"a pod in place of {old.name}")
    return pod


def delete(fleet: Fleet, old: Known) -> Pod:
    """Delete a pod; return the one that is made in its place."""
    fleet.any_app.kubectl("delete", "pod", old.name, "--wait=false")
    return successor(fleet, old)


def conditions_of(fleet: Fleet, old: Known) -> dict[str, tuple[str, str]]:
    return moves.conditions(fleet.any_app, old.pod)


def message(fleet: Fleet, old: Known, kind: str) -> str:
    """Return what a condition of the pod's Checkpoint says."""
    return str(conditions.said(fleet.checkpoints()[old.uid], kind)["message"])


def half_come(node: Node) -> set[str]:
    """Return the uids of pods for which something is on its way to *node*."""
    return {
        name.removesuffix(".partial")
        for name in nodefiles.listing(node, names.ARRIVALS)
        if name.endswith(".partial")
    }


def said_to(fleet: Fleet, new: Known) -> str:
    """Return why a pod begins anew, from its event."""
    (told,) = eventually(
        partial(moves.events, fleet.any_app, new.pod, names.EVENT_RESTORE_FAILED),
        what=f"event RestoreFailed of {new.name}",
    )
    return str(told)


# The node that saved them


def test_of_a_source_that_is_lost_in_the_transfer_what_is_stored_goes_on(
    architect: Cluster, namespace: str
) -> None:
    squads = (
        Squad(name="stored", mebibytes=64),
        Squad(name="kept", mebibytes=64, annotations=WITH_NODES),
        Squad(name="unsent", mebibytes=64),
    )
    target = architect.nodes[0]
    with ExitStack() as stack:
        source = stack.enter_context(lost(architect))
        have_an_operator_elsewhere(architect, source.name)
        fleet = stack.enter_context(fleets.running(architect, namespace, squads, node=source.name))
        before = fleet.known()
        stored, kept, unsent = before
        stack.enter_context(moves.nowhere(architect))
        leave(fleet.app(squads[0]))
        leave(fleet.app(squads[1]), stored="False")
        failed = restores_failed(architect, target)
        with store_faults.failing(architect.plane, "refuses"):
            delete(fleet, unsent)
            eventually(
                lambda: conditions_of(fleet, unsent).get("Available") == ("True", "OnPeer"),
                what="the last one is saved",
            )
            with links.limited(
                source.machine, BYTES_PER_SECOND, links.from_port(parts.PEER_DATA_PORT)
            ):
                architect.kubectl("uncordon", target.name)
                new = {str(successor(fleet, old)["metadata"]["uid"]) for old in before}
                eventually(lambda: half_come(target) == new, what="all are on their way")
                for old in before:
                    assert conditions_of(fleet, old)["Claimed"] == ("True", "Claimed")
                    assert "keyRelease" not in fleet.checkpoints()[old.uid]["status"]
                netns.cut(architect.plane.machine, source.addresses)
                began = time.monotonic()
        source.end(architect.plane.machine)
        after = fleet.known(apart_from=[old.pod for old in before])
        took = time.monotonic() - began
        outcome = fleets.compare(before, after)
        assert set(outcome.went_on) == {stored.uid}
        assert {old.uid for old in outcome.lost} == {kept.uid, unsent.uid}
        assert moves.ended(fleet.any_app, stored.pod)["Restored"] == ("True", "Restored")
        assert "keyRelease" in fleet.checkpoints()[stored.uid]["status"], "it came from the store"
        assert took < BOUND_SECONDS, "they wait for nobody who is lost"
        for new_one in outcome.fresh:
            told = said_to(fleet, new_one)
            assert "starts fresh, without what came before: Unavailable: " in told
            assert source.name in told
        for old in outcome.lost:
            seen = moves.ended(fleet.any_app, old.pod)
            assert seen["Failed"] == ("True", "RestoreFailed")
            assert seen["Restored"] == ("False", "RestoreFailed")
            why = message(fleet, old, checkpoints.FAILED)
            assert why.startswith("Unavailable: ") and source.name in why, why
        assert conditions_of(fleet, kept)["Stored"] == ("False", "StaysOnNode")
        assert conditions_of(fleet, unsent).get("Stored", ("",))[0] != "True"
        assert restores_failed(architect, target) == failed + 2
        assert not half_come(target)


def have_an_operator_elsewhere(cluster: Cluster, node: str) -> None:
    """Have one stay that gives keys: where nodes came and went, both may have come to one."""

    def are_there() -> list[bool]:
        return [pod["spec"].get("nodeName") == node for pod in parts.pods(cluster, "operator")]

    if all(are_there()):
        cluster.kubectl("cordon", node)
        try:
            parts.restart_operators(cluster)
        finally:
            cluster.kubectl("uncordon", node)
    assert not all(are_there())


def restores_failed(cluster: Cluster, node: Node) -> float:
    """Return how often the daemon of *node* could not reach what it wanted to bring."""
    numbers = parts.daemon_numbers(cluster, node.name)
    return numbers.value("architect_failures_total", operation="restore", reason="Unavailable")


# The node that has claimed them

HOW: Final = ("its node is deleted", "it is out of service")


@pytest.mark.parametrize("how", HOW)
def test_of_a_node_that_is_lost_after_its_claims_what_has_not_run_goes_on_elsewhere(
    architect: Cluster, namespace: str, how: str
) -> None:
    """Of one pod all is on its way yet; the other runs there, and nobody could be told."""
    squads = (
        Squad(name="comes", mebibytes=192, annotations=WITH_NODES),
        Squad(name="runs", mebibytes=1, annotations=WITH_NODES),
    )
    saver = architect.nodes[0]
    with ExitStack() as stack:
        claimant = stack.enter_context(lost(architect))
        fleet = stack.enter_context(fleets.running(architect, namespace, squads, node=saver.name))
        comes, runs = fleet.known()
        lost_pods = claimed_and_held(stack, fleet, saver, claimant, comes, runs)
        seen = {
            old.squad: stack.enter_context(
                watch(
                    architect,
                    namespace,
                    str(fleet.checkpoints()[old.uid]["metadata"]["name"]),
                    kind="checkpoints.architect.dev",
                )
            )
            for old in (comes, runs)
        }
        claimant.end(architect.plane.machine)
        say_that_it_is_gone(architect, claimant.name, how)
        after = fleet.known(apart_from=[comes.pod, runs.pod, *lost_pods], seconds=GONE_SECONDS)
        assert {known.pod["spec"]["nodeName"] for known in after} == {saver.name}
        outcome = fleets.compare([comes, runs], after)
        assert set(outcome.went_on) == {comes.uid}
        assert "ClaimantLost" in seen["comes"].said(checkpoints.CLAIMED)
        assert moves.ended(fleet.any_app, comes.pod)["Restored"] == ("True", "Restored")
        # Memory runs once, and it may have run.
        (fresh,) = outcome.fresh
        assert conditions_of(fleet, runs)["Available"] == ("False", "MayHaveRun")
        why = message(fleet, runs, checkpoints.AVAILABLE)
        assert claimant.name in why and "memory runs once" in why
        told = said_to(fleet, fresh)
        assert "NotAvailable" in told and why in told
        assert nodefiles.exists(saver, names.CHECKPOINTS / runs.uid), "it is kept"


def claimed_and_held(
    stack: ExitStack, fleet: Fleet, saver: Node, claimant: Node, comes: Known, runs: Known
) -> list[Pod]:
    """Have both pods be claimed by the other node, whose daemon then says nothing any more.

    Of *comes* not all has come; *runs* goes on there. Returns the pods in their place.
    """
    pid = moves.pid_of_daemon(claimant)
    stack.callback(moves.go_on, claimant, pid)
    with (
        links.limited(saver.machine, BYTES_PER_SECOND, links.from_port(parts.PEER_DATA_PORT)),
        moves.alone(fleet.any_app, claimant.name),
    ):
        comes_new = delete(fleet, comes)
        uid = str(comes_new["metadata"]["uid"])
        eventually(lambda: uid in half_come(claimant), what="one is on its way")
        runs_new = delete(fleet, runs)
        arrival = names.ARRIVALS / str(runs_new["metadata"]["uid"])
        is_taken = f"[ -d {arrival} ] && [ ! -d {arrival / saved.image('app')} ]"
        with moves.killed_when(claimant, is_taken, pid, signal="STOP"):
            pass
    assert conditions_of(fleet, runs)["Restored"] == ("Unknown", "Restoring")
    assert identity_of(fleet, runs_new) == runs.identity, "it goes on there"
    assert uid in half_come(claimant)
    found = conditions_of(fleet, comes)
    assert found["Claimed"] == ("True", "Claimed")
    assert "Restored" not in found
    return [comes_new, runs_new]


def identity_of(fleet: Fleet, pod: Pod) -> str:
    app = fleet.any_app

    def with_address() -> Pod | None:
        found = app.get_json("pod", pod["metadata"]["name"])
        return found if found["status"].get("podIP") else None

    there: Pod = eventually(with_address, what="the pod has an address")
    return str(moves.answer(app, there)["identity"])


def say_that_it_is_gone(cluster: Cluster, name: str, how: str) -> None:
    """Have Kubernetes let go of a node's pods, as whoever manages machines does."""
    if how == "it is out of service":
        eventually(lambda: not is_ready(cluster, name), what="it is silent", seconds=SILENT_SECONDS)
        cluster.kubectl("taint", "node", name, f"{OUT_OF_SERVICE}=nodeshutdown:NoExecute")
        return
    # At once, and not after the minutes that others wait. So our own parts there come first: a pod
    # that is made while a webhook is believed to answer, and does not, starts unmanaged.
    cluster.kubectl("cordon", name)
    wanted = len(replicas(cluster))
    cluster.kubectl(
        *("-n", release.NAMESPACE, "delete", "pods", f"--field-selector=spec.nodeName={name}"),
        *("--force", "--grace-period=0"),
    )
    eventually(
        lambda: [moves.is_ready(pod) for pod in replicas(cluster)] == [True] * wanted,
        what="operator and webhook are elsewhere",
    )
    cluster.forget_node(name)


def replicas(cluster: Cluster) -> list[dict[str, Any]]:
    return [*parts.pods(cluster, "operator"), *parts.pods(cluster, "webhook")]


def is_ready(cluster: Cluster, name: str) -> bool:
    node = json.loads(cluster.kubectl("get", "node", name, "-o", "json"))
    return conditions.is_true(node, "Ready")
