"""Pods of a machine that ends go once nothing is won by waiting, and no other pod does."""

from __future__ import annotations

from typing import Any

import pytest

from architect.api import names
from architect.core.errors import Unavailable
from architect.kube import checkpoints
from architect.kube.checkpoints import CheckpointSpec, Owner, Trigger
from architect.kube.resources import CHECKPOINTS, NODES, PODS, pod
from architect.operator import dismissal, metrics
from architect.operator.dismisser import Dismisser
from architect.operator.plan import Dismiss

WEB = pod("shop", "web-0", uid="uid-web-0")
POD_PATH = PODS.path(namespace="shop", name="web-0")
NODE_PATH = NODES.path(name="spot-1")
OWNER = Owner(api_version="apps/v1", kind="StatefulSet", name="web", uid="owner", ordinal=0)
SAVED: dict[str, Any] = {"Captured": "True", "Available": "True"}

Object = dict[str, Any]


def checkpoint(
    *, trigger: Trigger = Trigger.SPOT_INTERRUPTION, storage: str = "", reason: str = "R",
    **said: str,
) -> Object:  # fmt: skip
    spec = CheckpointSpec(
        pod=WEB, trigger=trigger, template_hash="h", containers=("app",), owner=OWNER
    )
    value = checkpoints.build(spec)
    if storage:
        value["spec"]["storage"] = storage
    value["status"] = {
        "location": {"peer": {"node": "spot-1", "id": WEB.uid}},
        "conditions": [
            {"type": k, "status": v, "reason": reason, "message": "why"} for k, v in said.items()
        ],
    }
    return value


def its_pod(*, uid: str = WEB.uid, phase: str = "Running", **metadata: Any) -> Object:
    return {
        "metadata": {"name": "web-0", "namespace": "shop", "uid": uid, **metadata},
        "spec": {"nodeName": "spot-1"},
        "status": {"phase": phase},
    }


def node(*, is_ending: bool = True) -> Object:
    annotations = {names.INTERRUPTION: "{}"} if is_ending else {}
    return {"metadata": {"name": "spot-1", "uid": "n", "annotations": annotations}}


ENDS, STAYS, GONE = node(), node(is_ending=False), None


@pytest.mark.parametrize(
    ("value", "where", "is_saved"),
    [
        # Its fate in the store is decided.
        (checkpoint(**SAVED, Stored="True"), ENDS, True),
        (checkpoint(**SAVED, Stored="False"), ENDS, True),
        (checkpoint(Captured="True", Stored="True", Restored="True"), ENDS, True),
        (checkpoint(**SAVED, storage="Node"), ENDS, True),
        # It is not, and does not matter any more: another pod of its owner had it from the node.
        (checkpoint(Captured="True", Available="False", Restored="True"), ENDS, True),
        (checkpoint(Captured="True", Stored="Unknown", Restored="True"), ENDS, True),
        (checkpoint(Captured="True", Failed="True", Restored="False"), ENDS, True),
        # It is not, and the node does not end: it serves what it has.
        (checkpoint(**SAVED), STAYS, True),
        (checkpoint(**SAVED, Stored="Unknown"), STAYS, True),
        (checkpoint(**SAVED), GONE, True),
        # Not saved: it gets its signal.
        (checkpoint(Captured="False"), ENDS, False),
    ],
)
def test_who_need_not_wait_goes(value: Object, where: Object | None, is_saved: bool) -> None:
    action = dismissal.decide(value, pod=its_pod(), node=where)
    assert action is not None
    assert (action.pod, action.is_saved) == (WEB, is_saved)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        # It is being saved, or sent.
        (checkpoint(), ENDS),
        (checkpoint(Captured="Unknown"), ENDS),
        (checkpoint(Captured="Unknown"), STAYS),
        (checkpoint(**SAVED), ENDS),
        (checkpoint(**SAVED, storage="ObjectStore"), ENDS),
        (checkpoint(**SAVED, Stored="Unknown"), ENDS),
        # Somebody else's claim of it may fail, or be given back.
        (checkpoint(**SAVED, Claimed="True"), ENDS),
        (checkpoint(**SAVED, Claimed="True", Restored="Unknown"), ENDS),
        (checkpoint(**SAVED, Claimed="False", Restored="False"), ENDS),
        # The notice was withdrawn, and the pod runs.
        (checkpoint(Captured="False"), STAYS),
        (checkpoint(Captured="False"), GONE),
        # Its machine is back, and has started it again.
        (checkpoint(Captured="True", Stored="True", Available="False", reason="RunsAgain"), ENDS),
        # Others leave by themselves, or stay.
        *((checkpoint(trigger=t, **SAVED, Stored="True"), ENDS)
          for t in Trigger if t is not Trigger.SPOT_INTERRUPTION),
    ],
)  # fmt: skip
def test_who_waits_or_runs_stays(value: Object, where: Object | None) -> None:
    assert dismissal.decide(value, pod=its_pod(), node=where) is None


@pytest.mark.parametrize(
    "there",
    [
        None,
        its_pod(uid="another"),
        its_pod(deletionTimestamp="2030-01-01T00:00:00Z"),
        its_pod(phase="Failed"),
        its_pod(phase="Succeeded"),
    ],
)
def test_only_the_pod_itself_goes_and_once(there: Object | None) -> None:
    value = checkpoint(**SAVED, Stored="True")
    assert dismissal.decide(value, pod=there, node=ENDS) is None


@pytest.mark.parametrize(("said", "goes"), [(SAVED, True), ({"Captured": "False"}, False)])
def test_a_daemon_sets_pod_goes_only_if_nothing_of_it_runs(
    said: dict[str, Any], goes: bool
) -> None:
    """Another one would come at once, and be refused again."""
    owner = {"kind": "DaemonSet", "name": "x", "uid": "o", "controller": True}
    there = its_pod(ownerReferences=[owner])
    value = checkpoint(**said, storage="Node")
    assert (dismissal.decide(value, pod=there, node=ENDS) is not None) is goes


@pytest.mark.parametrize("where", [None, "spot-2"])
@pytest.mark.parametrize("said", [{**SAVED, "Stored": "True"}, {"Captured": "False"}])
def test_another_nodes_word_counts_for_nothing(where: str | None, said: dict[str, Any]) -> None:
    value = checkpoint(**said)
    value["status"]["location"] = {} if where is None else {"peer": {"node": where, "id": WEB.uid}}
    assert dismissal.decide(value, pod=its_pod(), node=ENDS) is None
    value["status"]["node"] = "spot-1"
    assert dismissal.decide(value, pod=its_pod(), node=ENDS) is not None


def test_what_is_none_of_ours_is_nobodys() -> None:
    for broken in ({}, {"spec": None}, {"spec": {"trigger": 7}}):
        assert dismissal.pod_of(broken) is None
    value = checkpoint(Captured="True")
    del value["spec"]["podRef"]["uid"]
    assert dismissal.pod_of(value) is None


def test_a_saved_pod_goes_with_its_checkpoint() -> None:
    """Nothing else would ever delete it, and nothing of it runs."""
    action = dismissal.decide(checkpoint(**SAVED), pod=its_pod(), node=ENDS, is_deleted=True)
    assert action is not None and not action.is_saved


def test_who_runs_stays_when_its_checkpoint_is_taken_back() -> None:
    """So the daemon does once the notice is withdrawn, of which the node may still speak."""
    value = checkpoint(Captured="False")
    assert dismissal.decide(value, pod=its_pod(), node=ENDS, is_deleted=True) is None


# What is done


@pytest.fixture
def dismisser(api, applier) -> Dismisser:
    return Dismisser(api, applier)


def put(server: Any, value: Object) -> Object:
    path = CHECKPOINTS.path(namespace="shop", name=value["metadata"]["name"])
    found: Object = server.put(path, value)
    return found


def deletions(server: Any) -> list[Any]:
    return [r for r in server.requests if r.method == "DELETE"]


def reported(server: Any) -> list[tuple[str, str, str]]:
    return [
        (v["reason"], v["type"], v["note"]) for p, v in server.objects.items() if "/events/" in p
    ]


@pytest.mark.parametrize("how", ["an event", "a sweep", "its end"])
def test_it_is_deleted_with_its_own_grace_and_that_is_said(
    server, dismisser, numbers, how: str
) -> None:
    server.put(POD_PATH, its_pod())
    server.put(NODE_PATH, node())
    value = put(server, checkpoint(**SAVED, Stored="True"))
    for _ in range(2):
        if how == "an event":
            dismisser.look_at(value)
        elif how == "a sweep":
            dismisser.sweep()
        else:
            dismisser.deleted(value)
    (request,) = deletions(server)
    assert request.path == POD_PATH
    (disrupted,) = [r for r in server.requests if r.path == f"{POD_PATH}/status"]
    (said,) = disrupted.body["status"]["conditions"]
    assert (said["type"], said["status"]) == ("DisruptionTarget", "True")
    assert said["reason"] == "DeletionByArchitect"
    assert request.body["preconditions"] == {"uid": WEB.uid}
    assert "gracePeriodSeconds" not in request.body
    ((reason, kind, note),) = reported(server)
    is_lost = how == "its end"
    assert (reason, kind) == (names.EVENT_DISMISSED, "Warning" if is_lost else "Normal")
    assert ("was deleted" if is_lost else "object store") in note
    assert numbers.get(metrics.ACTIONS, action=Dismiss.__name__, result="done") == 1


def test_where_it_cannot_be_called_a_disruption_it_goes_all_the_same(server, dismisser) -> None:
    server.put(POD_PATH, its_pod())
    server.put(NODE_PATH, node())
    server.fail = lambda r: Unavailable("503") if r.path.endswith("/status") else None
    dismisser.look_at(put(server, checkpoint(**SAVED, Stored="True")))
    assert POD_PATH not in server.objects


def test_who_could_not_be_saved_is_told_why(server, dismisser) -> None:
    server.put(POD_PATH, its_pod())
    server.put(NODE_PATH, node())
    dismisser.look_at(put(server, checkpoint(Captured="False", reason="TooLarge")))
    assert POD_PATH not in server.objects
    ((_, kind, note),) = reported(server)
    assert kind == "Warning"
    assert "TooLarge: why" in note


def test_nothing_is_read_while_nothing_is_decided(server, dismisser) -> None:
    server.put(POD_PATH, its_pod())
    value = put(server, checkpoint(Captured="Unknown"))
    server.requests.clear()
    dismisser.look_at(value)
    assert server.requests == []
    dismisser.sweep()
    assert len(server.requests) == 1


def test_without_the_api_server_nothing_happens_and_then_it_does(server, dismisser) -> None:
    server.put(POD_PATH, its_pod())
    server.put(NODE_PATH, node())
    value = put(server, checkpoint(**SAVED, Stored="True"))
    server.fail = lambda _: Unavailable("503")
    dismisser.look_at(value)
    dismisser.sweep()
    server.fail = lambda _: None
    assert POD_PATH in server.objects
    dismisser.sweep()
    assert POD_PATH not in server.objects
