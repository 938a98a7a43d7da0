"""A machine is gone when its announced end is over and it is silent; else it may run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import FormatError
from architect.core.interruption import Interruption
from architect.kube import checkpoints
from architect.kube.checkpoints import CheckpointSpec, Trigger
from architect.kube.resources import pod
from architect.operator import machines
from architect.operator.machines import Heartbeat
from architect.operator.plan import Mark, Report

Object = dict[str, Any]

ENDS = datetime(2030, 1, 1, 12, 2, tzinfo=UTC)
OTHER: Object = {"key": "else", "effect": "NoSchedule"}
OURS: Object = dict(machines.TAINT)


def notice(*, kind: str = "interruption", ends: datetime | None = ENDS) -> str:
    return Interruption(kind=kind, source="aws", ends=ends, uncordon=True).to_text()


def node(
    *,
    said: str | None = "",
    ready: str = "Unknown",
    boot: str = "boot-1",
    gave_up: str | None = None,
    taints: tuple[Object, ...] = (OTHER,),
) -> Object:
    """Return a node with a notice, unless *said* is None."""
    annotations = {}
    if said is not None:
        annotations[names.INTERRUPTION] = said or notice()
    if gave_up is not None:
        annotations[names.OUT_OF_SERVICE] = gave_up
    return {
        "metadata": {
            "name": "spot-1", "uid": "n", "resourceVersion": "7", "annotations": annotations,
        },
        "spec": {"taints": list(taints)},
        "status": {
            "nodeInfo": {"bootID": boot},
            "conditions": [{"type": "Ready", "status": ready, "reason": "R", "message": ""}],
        },
    }  # fmt: skip


def lease(renewed: datetime) -> Object:
    text = renewed.isoformat().replace("+00:00", "000Z" if renewed.microsecond else ".000000Z")
    return {"metadata": {"name": "spot-1"}, "spec": {"renewTime": text}}


def heard(*, before_end: float, ago: float) -> Heartbeat:
    """Return a renewal, so long before the announced end, that was first seen *ago* seconds ago."""
    return Heartbeat(renewed=ENDS - timedelta(seconds=before_end), seen_at=1000.0 - ago)


def is_gone(value: Object, heartbeat: Heartbeat, *, are_saved: bool = False) -> bool:
    return (
        machines.why_gone(value, heartbeat=heartbeat, are_saved=are_saved, now=1000.0) is not None
    )


@pytest.mark.parametrize(
    ("before_end", "ago", "gone"),
    [
        # It was heard 3 s before its end, and not for so long since.
        (3, 7.9, False),
        (3, 19.9, False),
        (3, 20, True),
        (3, 3600, True),
        # It fell silent early: it is gone once its end has come, by its own clock.
        (100, 20, False),
        (100, 104.9, False),
        (100, 105, True),
        # It was heard after its end: clouds are late.
        (-30, 19, False),
        (-30, 20, True),
        (-120, 20, True),
        # So much later that there was none.
        (-120.5, 20, False),
        (-86400, 3600, False),
    ],
)
def test_it_is_gone_when_its_end_is_over_and_it_is_silent(
    before_end: float, ago: float, gone: bool
) -> None:
    assert is_gone(node(), heard(before_end=before_end, ago=ago)) is gone


@pytest.mark.parametrize("skew_hours", [-26, -1, 1, 26])
def test_another_clock_than_the_nodes_means_nothing(skew_hours: int) -> None:
    """Its end and its renewals are in its own time, wherever its clock is."""
    skew = timedelta(hours=skew_hours)
    value = node(said=notice(ends=ENDS + skew))
    for ago, gone in ((19.0, False), (21.0, True)):
        found = Heartbeat(renewed=ENDS + skew - timedelta(seconds=3), seen_at=1000.0 - ago)
        assert is_gone(value, found) is gone


@pytest.mark.parametrize(
    "value",
    [
        node(ready="True"),
        node(said=None),
        node(said=notice(kind="maintenance")),
        node(said="{}"),
        node(said="no JSON"),
        node(said=notice().replace('"version": 1', '"version": 2')),
        node(said=notice(ends=None)),
    ],
)
def test_nothing_else_is_a_proof(value: Object) -> None:
    assert not is_gone(value, heard(before_end=3, ago=3600))


@pytest.mark.parametrize(
    ("said", "ready", "ago", "gone"),
    [
        (notice(ends=None), "Unknown", 20, True),
        (notice(ends=None), "False", 20, True),
        (notice(ends=None), "Unknown", 19, False),
        (notice(ends=None), "True", 3600, False),
        # Nobody could be told: the API server was away.
        (None, "Unknown", 20, True),
        (None, "Unknown", 19, False),
        (None, "True", 3600, False),
        ("no JSON", "Unknown", 3600, False),
        (notice(ends=None, kind="maintenance"), "Unknown", 3600, False),
    ],
)
def test_without_a_time_it_is_enough_that_all_of_its_pods_are_saved(
    said: str | None, ready: str, ago: float, gone: bool
) -> None:
    value = node(said=said, ready=ready)
    assert is_gone(value, heard(before_end=0, ago=ago), are_saved=True) is gone


def test_a_renewal_is_as_old_as_it_was_seen() -> None:
    first = machines.observe(None, lease(ENDS), now=10.0)
    assert (first.renewed, first.seen_at) == (ENDS, 10.0)
    assert machines.observe(first, lease(ENDS), now=25.0) is first
    later = machines.observe(first, lease(ENDS + timedelta(seconds=10)), now=30.0)
    assert later.seen_at == 30.0
    # A clock that is set back is a renewal, too.
    assert machines.observe(later, lease(ENDS - timedelta(days=1)), now=40.0).seen_at == 40.0


@pytest.mark.parametrize(
    "value", [None, {}, {"spec": {}}, {"spec": {"renewTime": "soon"}}, {"spec": {"renewTime": 7}}]
)
def test_without_a_lease_nothing_is_known(value: Object | None) -> None:
    with pytest.raises(FormatError):
        machines.observe(None, value, now=0.0)


def test_who_speaks_for_himself_is_guessed() -> None:
    at = ENDS
    for renewed, ready, talks in (
        (at - timedelta(seconds=10), "True", True),
        (at - timedelta(seconds=21), "True", False),
        (at - timedelta(seconds=10), "Unknown", False),
    ):
        assert machines.is_talking(node(ready=ready), lease(renewed), now=at) is talks
    assert machines.is_talking(node(ready="True"), None, now=at)


# What is written


def test_it_is_marked_beside_what_others_wrote() -> None:
    action = machines.give_up(node(), "why")
    assert action is not None
    assert (action.node.name, action.resource_version) == ("spot-1", "7")
    assert (action.taints, action.boot_id) == ((OTHER, OURS), "boot-1")
    assert "why" in action.why


@pytest.mark.parametrize(
    "value",
    [
        node(gave_up="boot-1"),
        # Somebody took the taint away again: he knows better.
        node(gave_up="boot-1", taints=()),
        node(taints=(OURS,)),
        node(taints=({**OURS, "value": "by-hand", "effect": "NoSchedule"},)),
    ],
)
def test_it_is_marked_once_and_not_over_another_ones_mark(value: Object) -> None:
    assert machines.give_up(value, "why") is None


def test_it_is_taken_back_when_the_machine_was_started_again() -> None:
    value = node(ready="True", boot="boot-2", gave_up="boot-1", taints=(OTHER, OURS))
    action = machines.take_back(value)
    assert isinstance(action, Mark)
    assert (action.taints, action.boot_id) == ((OTHER,), None)


def test_another_ones_taint_stays() -> None:
    hand = {**OURS, "value": "by-hand"}
    value = node(ready="True", boot="boot-2", gave_up="boot-1", taints=(hand, OTHER))
    action = machines.take_back(value)
    assert isinstance(action, Mark)
    assert action.taints == (hand, OTHER)


def test_the_same_run_of_the_machine_is_left_to_people() -> None:
    action = machines.take_back(node(ready="True", gave_up="boot-1", taints=(OURS,)))
    assert isinstance(action, Report)
    assert "kubectl taint node spot-1" in action.note


@pytest.mark.parametrize(
    "value",
    [
        node(ready="Unknown", boot="boot-2", gave_up="boot-1", taints=(OURS,)),
        node(ready="True", boot="boot-2", taints=(OURS,)),
        node(ready="True"),
    ],
)
def test_nothing_is_taken_back_before_it_is_there_or_of_others(value: Object) -> None:
    assert machines.take_back(value) is None


def test_a_second_notice_counts_as_the_first_one() -> None:
    back = node(ready="True", boot="boot-2", taints=(OTHER,))
    assert machines.is_of_interest(back)
    again = node(boot="boot-2", said=notice(ends=ENDS + timedelta(days=1)))
    assert not is_gone(again, heard(before_end=3, ago=3600))
    late = Heartbeat(renewed=ENDS + timedelta(days=1), seen_at=900.0)
    assert is_gone(again, late)
    action = machines.give_up(again, "why")
    assert action is not None and action.boot_id == "boot-2"


# Whether all pods are saved


def its_pod(uid: str, *, kind: str = "StatefulSet", phase: str = "Running", **more: Any) -> Object:
    return {
        "metadata": {
            "name": uid, "namespace": "shop", "uid": uid,
            "ownerReferences": [{"kind": kind, "name": "x", "uid": "o", "controller": True}],
            **more,
        },
        "spec": {"nodeName": "spot-1"},
        "status": {"phase": phase},
    }  # fmt: skip


def saved(uid: str, *, captured: str = "True", saver: str = "spot-1") -> Object:
    spec = CheckpointSpec(
        pod=pod("shop", uid, uid=uid),
        trigger=Trigger.SPOT_INTERRUPTION,
        template_hash="h",
        containers=("app",),
    )
    value = checkpoints.build(spec)
    said = {"type": "Captured", "status": captured, "reason": "R", "message": ""}
    value["status"] = {"node": saver, "conditions": [said]}
    return value


MANAGED = {names.POLICY: "{}"}


def with_claim(kind: str) -> Object:
    value = its_pod("v", kind="ReplicaSet")
    value["spec"]["volumes"] = [{"name": "data", kind: {}}]
    return value


@pytest.mark.parametrize(
    ("pods", "known", "expected"),
    [
        ([its_pod("a"), its_pod("b")], [saved("a"), saved("b")], True),
        ([its_pod("a", deletionTimestamp="2030-01-01T00:00:00Z")], [saved("a")], True),
        (
            [
                its_pod("a"),
                its_pod("d", kind="DaemonSet"),
                its_pod("s", annotations={"kubernetes.io/config.mirror": "x"}),
                its_pod("f", phase="Failed"),
            ],
            [saved("a")],
            True,
        ),
        # Nothing is won.
        ([], [saved("a")], False),
        ([its_pod("d", kind="DaemonSet")], [], False),
        # One runs, perhaps, and must not run twice; also one that is none of ours.
        ([its_pod("a"), its_pod("b")], [saved("a")], False),
        ([its_pod("a"), its_pod("b", kind="Cluster")], [saved("a")], False),
        ([its_pod("a"), with_claim("persistentVolumeClaim")], [saved("a")], False),
        ([its_pod("a"), with_claim("ephemeral")], [saved("a")], False),
        # One of ours would lose its memory, if the machine is only cut off.
        (
            [its_pod("a"), its_pod("b", kind="ReplicaSet", annotations=MANAGED)],
            [saved("a")],
            False,
        ),
        # Not those whose end is decided, or that nobody waits for.
        ([its_pod("a"), its_pod("b", kind="ReplicaSet")], [saved("a")], True),
        ([its_pod("a"), its_pod("b", kind="Job")], [saved("a")], True),
        ([its_pod("a"), with_claim("emptyDir")], [saved("a")], True),
        (
            [
                its_pod("a"),
                its_pod(
                    "b",
                    kind="ReplicaSet",
                    annotations=MANAGED,
                    deletionTimestamp="2030-01-01T00:00:00Z",
                ),
            ],
            [saved("a"), saved("b", captured="False")],
            True,
        ),
        ([its_pod("b", kind="ReplicaSet")], [], False),
        ([its_pod("a")], [saved("a", captured="False")], False),
        ([its_pod("a")], [saved("a", captured="Unknown")], False),
        # Another node says so.
        ([its_pod("a")], [saved("a", saver="spot-2")], False),
    ],
)
def test_all_are_saved_or_not(pods: list[Object], known: list[Object], expected: bool) -> None:
    elsewhere = its_pod("z")
    elsewhere["spec"]["nodeName"] = "spot-2"
    assert machines.are_saved([*pods, elsewhere], known, node="spot-1") is expected
