"""A claim is given back once its pod is gone with its machine, and not before."""

from __future__ import annotations

from typing import Any

import pytest

from architect.kube import checkpoints, conditions
from architect.kube.api import Api
from architect.kube.checkpoints import CheckpointSpec, Owner, Trigger
from architect.kube.resources import CHECKPOINTS, NODES, PODS, pod
from architect.operator import abandoned
from architect.operator.abandoned import Claimant

OLD = pod("shop", "web-old", uid="old-uid-0")
OWNER = Owner(api_version="apps/v1", kind="ReplicaSet", name="web", uid="owner-uid")
CLAIM = {"name": "web-new", "uid": "new-uid", "node": "n2"}
CLAIMANT = Claimant(**CLAIM)
TAINT = {"key": "node.kubernetes.io/out-of-service", "value": "gone", "effect": "NoExecute"}


def checkpoint(**status: Any) -> dict[str, Any]:
    spec = CheckpointSpec(
        pod=OLD, trigger=Trigger.EVICTION, template_hash="h", containers=("a",), owner=OWNER
    )
    value = checkpoints.build(spec)
    value["status"] = {"claimedBy": dict(CLAIM), **status}
    return value


def its_pod(uid: str = "new-uid", **status: str) -> dict[str, Any]:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": OWNER.uid}
    return {
        "metadata": {
            "name": "web-new",
            "namespace": "shop",
            "uid": uid,
            "ownerReferences": [{**owner, "controller": True}],
        },
        "status": status,
    }


def node(*taints: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "n2"}, "spec": {"taints": list(taints)}}


def test_who_claimed_is_read() -> None:
    assert abandoned.claimant_of(checkpoint()) == CLAIMANT


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["status"].pop("claimedBy"),
        lambda v: v["spec"].update(trigger="Sleep"),
        lambda v: v["spec"].update(trigger="Request"),
        lambda v: v["metadata"].update(deletionTimestamp="2030-01-01T00:00:00Z"),
        lambda v: v["status"].update(
            conditions=[{"type": "Restored", "status": "True", "reason": "R", "message": ""}]
        ),
    ],
)
def test_what_nobody_else_may_want_is_left_alone(change: Any) -> None:
    value = checkpoint()
    change(value)
    assert abandoned.claimant_of(value) is None


@pytest.mark.parametrize(
    ("there", "machine", "is_lost"),
    [
        (its_pod(), None, False),
        (its_pod(phase="Running"), None, False),
        (its_pod(phase="Failed"), node(), False),
        (its_pod(phase="Failed"), None, True),
        (its_pod(phase="Succeeded"), node(TAINT), True),
        (its_pod(), node(TAINT), False),
        (None, node(), False),
        (None, node({"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}), False),
        (its_pod("another"), node(), False),
        (None, None, True),
        (None, node(TAINT), True),
        (its_pod("another"), None, True),
    ],
)
def test_silence_is_no_proof(there: Any, machine: Any, is_lost: bool) -> None:
    assert abandoned.is_lost(CLAIMANT, pod=there, node=machine) is is_lost


def stored(server: Any) -> dict[str, Any]:
    (value,) = [v for p, v in server.objects.items() if "/checkpoints/" in p]
    found: dict[str, Any] = value
    return found


def put(server: Any, **status: Any) -> None:
    value = checkpoint(**status)
    server.put(CHECKPOINTS.path(namespace="shop", name=value["metadata"]["name"]), value)


@pytest.mark.parametrize("how", ["the pod's end", "a sweep"])
def test_a_lost_claim_is_given_back(server: Any, sweeper: Any, api: Api, how: str) -> None:
    put(server)
    if how == "a sweep":
        assert sweeper.sweep()
    else:
        sweeper.changed(stored(server))
        sweeper.pod_deleted(its_pod())
    status = stored(server)["status"]
    assert not status.get("claimedBy")
    said = conditions.find(status["conditions"], checkpoints.CLAIMED)
    assert said is not None
    assert (said["status"], said["reason"]) == ("False", "ClaimantLost")
    assert "node n2" in said["message"]


def test_what_a_lost_pod_may_have_run_is_nobodys_any_more(server: Any, sweeper: Any) -> None:
    restoring = {"type": "Restored", "status": "Unknown", "reason": "Restoring", "message": ""}
    put(server, conditions=[restoring])
    sweeper.changed(stored(server))
    sweeper.pod_deleted(its_pod())
    status = stored(server)["status"]
    assert status["claimedBy"] == CLAIM
    said = conditions.said(stored(server), checkpoints.AVAILABLE)
    assert (said["status"], said["reason"]) == ("False", "MayHaveRun")
    assert said["message"].startswith("pod web-new is gone with node n2, and may have gone on")
    assert abandoned.claimant_of(stored(server)) is None  # it is over


def test_one_whose_pod_or_node_is_there_is_kept(server: Any, sweeper: Any) -> None:
    put(server)
    server.put(NODES.path(name="n2"), node())
    sweeper.changed(stored(server))
    sweeper.pod_deleted(its_pod())
    assert sweeper.sweep()
    server.put(PODS.path(namespace="shop", name="web-new"), its_pod())
    server.objects.pop(NODES.path(name="n2"))
    sweeper.pod_deleted(its_pod())
    assert stored(server)["status"]["claimedBy"] == CLAIM


@pytest.mark.parametrize("how", ["its object is deleted", "it is out of service"])
def test_a_claim_is_given_back_when_the_node_goes_after_its_pod(
    server: Any, sweeper: Any, how: str
) -> None:
    put(server)
    server.put(NODES.path(name="n2"), node())
    sweeper.changed(stored(server))
    sweeper.pod_deleted(its_pod())
    assert stored(server)["status"]["claimedBy"] == CLAIM
    server.requests.clear()
    sweeper.node_lost("n1")
    assert server.requests == []
    if how == "its object is deleted":
        server.objects.pop(NODES.path(name="n2"))
    else:
        server.put(NODES.path(name="n2"), node(TAINT))
    sweeper.node_lost("n2")
    said = conditions.said(stored(server), checkpoints.CLAIMED)
    assert (said["status"], said["reason"]) == ("False", "ClaimantLost")
    server.requests.clear()
    sweeper.changed(stored(server))
    sweeper.node_lost("n2")
    assert server.requests == []


def test_a_pods_end_has_nothing_read_but_what_it_has_claimed(server: Any, sweeper: Any) -> None:
    put(server)
    sweeper.changed(stored(server))
    other = its_pod("another")
    sweeper.pod_deleted(other)
    assert server.requests == []
    server.put(NODES.path(name="n2"), node())
    sweeper.pod_deleted(its_pod())
    assert [request.path.rsplit("/", 2)[-2] for request in server.requests] == [
        "checkpoints",
        "pods",
        "nodes",
    ]
    assert stored(server)["status"]["claimedBy"] == CLAIM


def test_a_claim_that_is_over_is_nobodys_concern(server: Any, sweeper: Any) -> None:
    put(server)
    value = stored(server)
    sweeper.changed(value)
    said = {"type": "Restored", "status": "True", "reason": "R", "message": ""}
    sweeper.changed({**value, "status": {**value["status"], "conditions": [said]}})
    sweeper.pod_deleted(its_pod())
    assert server.requests == []


def test_of_what_was_deleted_unheard_a_sweep_lets_go(server: Any, sweeper: Any) -> None:
    put(server)
    sweeper.changed(stored(server))
    server.objects.clear()
    assert sweeper.sweep()
    server.requests.clear()
    sweeper.pod_deleted(its_pod())
    assert server.requests == []


def test_a_sweep_reads_no_pod_that_is_listed_as_running(server: Any, sweeper: Any) -> None:
    put(server)
    server.put(PODS.path(namespace="shop", name="web-new"), its_pod(phase="Running"))
    assert sweeper.sweep()
    assert PODS.path(namespace="shop", name="web-new") not in {r.path for r in server.requests}
    server.objects.pop(PODS.path(namespace="shop", name="web-new"))
    assert sweeper.sweep()
    assert not stored(server)["status"].get("claimedBy")
