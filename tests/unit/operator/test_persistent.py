"""PersistentCheckpoints: which pod is chosen, which is refused by which name, and when it ends."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.api import names
from architect.core import pods as admission
from architect.kube import checkpoints
from architect.kube.conditions import Status
from architect.operator import persistent
from architect.operator.persistent import Query
from architect.operator.plan import Declare, Expire

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)

Object = dict[str, Any]


def wanted(*, status: Object | None = None, deleted: bool = False, **spec: Any) -> Object:
    metadata: Object = {
        "name": "warm", "namespace": "shop", "uid": "pc-uid", "generation": 1,
        "resourceVersion": "7",
    }  # fmt: skip
    if deleted:
        metadata["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    return {
        "kind": "PersistentCheckpoint",
        "metadata": metadata,
        "spec": spec or {"podName": "web-0"},
        "status": status or {},
    }


def said(**told: str) -> Object:
    return {
        "conditions": [
            {"type": kind, "status": status, "reason": "R", "message": "m"}
            for kind, status in told.items()
        ]
    }


def pod(
    name: str = "web-0",
    *,
    ready: str = "True",
    phase: str = "Running",
    created: str = "2029-01-01T00:00:00Z",
    managed: bool = True,
    storage: str = "object-store",
    containers: tuple[str, ...] = ("app",),
    **spec: Any,
) -> Object:
    bare: Object = {
        "metadata": {
            "name": name, "namespace": "shop", "uid": f"uid-{name}",
            "creationTimestamp": created, "labels": {"app": "web"},
            "annotations": {names.IDLE: "60s", names.STORAGE: storage} if managed else {},
        },
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": c, "image": "x"} for c in containers],
            **spec,
        },
    }  # fmt: skip
    judged = admission.judge(bare)
    chosen = spec.get("runtimeClassName", names.RUNTIME_CLASS)
    found = dict(admission.expected_pod(bare, judged.policy, runtime_class=chosen))
    found["status"] = {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}
    return found


def choose(value: Object, *pods: Object, has_store: bool = True) -> Declare | None:
    return persistent.choose(value, pods=pods, has_store=has_store, now=NOW)


def answer(action: Declare | None) -> tuple[Status, str]:
    """Return what is said of Accepted; Available must say the same word."""
    assert action is not None
    accepted, available = action.conditions
    assert (accepted.type, available.type) == (checkpoints.ACCEPTED, checkpoints.AVAILABLE)
    assert (available.status, available.reason) == (Status.FALSE, accepted.reason)
    assert ("podRef" in action.fields) is (accepted.status is Status.TRUE)
    return accepted.status, accepted.reason


def applied(value: Object, action: Declare | None) -> Object:
    """Return the object as it is once the action was carried out."""
    assert action is not None
    patch = checkpoints.status_patch(value, *action.conditions, fields=action.fields, now=NOW)
    assert patch is not None
    return {**value, "status": {**value["status"], **patch["status"]}}


def test_a_ready_managed_pod_is_chosen_and_that_is_said_once():
    value = wanted()
    action = choose(value, pod())
    assert answer(action) == (Status.TRUE, "PodChosen")
    assert action is not None
    assert action.fields == {"podRef": {"name": "web-0", "uid": "uid-web-0"}, "node": "n1"}
    value = applied(value, action)
    assert choose(value, pod()) is None
    assert persistent.is_chosen(value)


def test_what_was_chosen_stays_whatever_comes_later():
    value = applied(wanted(), choose(wanted(), pod()))
    assert choose(value) is None
    assert choose(value, pod("other")) is None
    assert choose(value, has_store=False) is None
    assert persistent.query_of(value, has_store=True) is None


def test_one_that_is_being_deleted_is_left_alone():
    assert choose(wanted(deleted=True), pod()) is None
    assert persistent.query_of(wanted(deleted=True), has_store=True) is None


def deleting(value: Object) -> Object:
    value["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    return value


def changed(value: Object, **annotations: str) -> Object:
    value["metadata"]["annotations"] = annotations
    return value


def with_claim() -> Object:
    found = pod(volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "d"}}])
    found["spec"]["containers"] = [{**found["spec"]["containers"][0], "volumeMounts": [DATA]}]
    return found


def under(value: Object, *, runtime_class: str) -> Object:
    value["spec"]["runtimeClassName"] = runtime_class
    return value


DATA = {"name": "data", "mountPath": "/data"}

VERDICTS: dict[str, tuple[Status, str, Object]] = {
    "not ready": (Status.UNKNOWN, "WaitingForPod", pod(ready="False")),
    "on no node": (Status.UNKNOWN, "WaitingForPod", pod(nodeName=None)),
    "being deleted": (Status.UNKNOWN, "WaitingForPod", deleting(pod())),
    "ended": (Status.FALSE, "PodFinished", pod(phase="Succeeded")),
    "failed": (Status.FALSE, "PodFinished", pod(phase="Failed")),
    "not opted in": (Status.FALSE, "PodNotManaged", pod(managed=False)),
    "made without the webhook": (
        Status.FALSE, "PodNotManaged", changed(pod(managed=False), **{names.IDLE: "60s"}),
    ),
    "with a policy that is none": (
        Status.FALSE, "PodNotManaged", changed(pod(), **{names.POLICY: "{"}),
    ),
    "with a forged policy under another runtime": (
        Status.FALSE, "PodNotManaged", under(pod(), runtime_class="x"),
    ),
    "of a kind that cannot be managed": (Status.FALSE, "PodNotManaged", pod(hostNetwork=True)),
    "with other containers": (Status.FALSE, "ContainersDiffer", pod(containers=("app", "db"))),
    "that is not for the object store": (Status.FALSE, "StaysOnNode", pod(storage="node")),
    "with data of its own": (Status.FALSE, "PersistentVolume", with_claim()),
    "that is none": (Status.FALSE, "BadPod", {**pod(), "spec": {"containers": "x"}}),
}  # fmt: skip


@pytest.mark.parametrize("case", VERDICTS)
def test_a_pod_that_cannot_be_saved_now_is_told_so_by_name(case):
    status, reason, found = VERDICTS[case]
    value = wanted(podName="web-0", containers=["app"])
    before = copy.deepcopy(found)
    action = choose(value, found)
    assert answer(action) == (status, reason)
    assert found == before
    value = applied(value, action)
    assert choose(value, found) is None, "once"
    assert answer(choose(value, pod())) == (Status.TRUE, "PodChosen"), "and decided anew"


def test_a_pod_that_is_not_there_is_waited_for():
    assert answer(choose(wanted())) == (Status.UNKNOWN, "WaitingForPod")
    assert answer(choose(wanted(selector={"matchLabels": {"app": "web"}}))) == (
        Status.UNKNOWN, "WaitingForPod",
    )  # fmt: skip


def test_without_an_object_store_no_pod_is_even_read():
    assert answer(choose(wanted(), pod(), has_store=False)) == (Status.FALSE, "NoObjectStore")
    assert persistent.query_of(wanted(), has_store=False) is None


def test_all_managed_containers_may_be_named():
    value = wanted(podName="web-0", containers=["db", "app"])
    assert answer(choose(value, pod(containers=("app", "db")))) == (Status.TRUE, "PodChosen")
    assert answer(choose(value, pod())) == (Status.FALSE, "ContainersDiffer")


def test_a_pod_that_sleeps_or_whose_annotations_changed_is_a_managed_one():
    found = pod()
    found["metadata"]["annotations"][names.IDLE] = "5m"
    found["metadata"]["labels"][f"{names.STATUS_LABEL_PREFIX}app"] = names.STATUS_SCALED_DOWN
    assert answer(choose(wanted(), found)) == (Status.TRUE, "PodChosen")


BY_LABELS: Object = {"selector": {"matchLabels": {"app": "web"}}}


def test_of_several_pods_the_oldest_that_can_be_saved_is_chosen():
    action = choose(
        wanted(**BY_LABELS),
        pod("young", created="2029-06-01T00:00:00Z"),
        pod("old", created="2029-01-02T00:00:00Z"),
        pod("oldest-but-not-ready", created="2028-01-01T00:00:00Z", ready="False"),
        pod("older-and-gone", created="2028-01-01T00:00:00Z", phase="Succeeded"),
        pod("older-and-unmanaged", created="2028-01-01T00:00:00Z", managed=False),
    )
    assert action is not None
    assert action.fields["podRef"]["name"] == "old"


def test_of_several_pods_one_that_may_still_come_says_more_than_one_that_never_will():
    unmanaged = pod("a", managed=False)
    value = wanted(**BY_LABELS)
    assert answer(choose(value, unmanaged, pod("b", ready="False"))) == (
        Status.UNKNOWN, "WaitingForPod",
    )  # fmt: skip
    assert answer(choose(value, unmanaged)) == (Status.FALSE, "PodNotManaged")
    assert answer(choose(value, pod("c", phase="Failed"))) == (Status.UNKNOWN, "WaitingForPod")


def test_a_pod_of_another_namespace_or_name_or_label_is_never_chosen():
    foreign = pod()
    foreign["metadata"]["namespace"] = "vault"
    assert answer(choose(wanted(), foreign)) == (Status.UNKNOWN, "WaitingForPod")
    assert answer(choose(wanted(**BY_LABELS), foreign)) == (Status.UNKNOWN, "WaitingForPod")
    assert answer(choose(wanted(), pod("web-1"))) == (Status.UNKNOWN, "WaitingForPod")
    other = wanted(selector={"matchLabels": {"app": "web", "tier": "x"}})
    assert answer(choose(other, pod())) == (Status.UNKNOWN, "WaitingForPod")


def test_the_pods_are_asked_for_by_name_or_by_all_labels():
    found = persistent.query_of(wanted(), has_store=True)
    assert found == Query(namespace="shop", name="web-0")
    value = wanted(selector={"matchLabels": {"b/c": "", "a": "x"}})
    found = persistent.query_of(value, has_store=True)
    assert found == Query(namespace="shop", labels="a=x,b/c=")


@pytest.mark.parametrize(
    "labels",
    [
        {"a,b": "c"}, {"a": "b,c"}, {"a in (b)": ""}, {"a": "b in (c)"}, {"!a": ""}, {"": "x"},
        {"a/b/c": "d"}, {"a": "b\n"}, {"a": "x" * 64}, {"A/b": "c"},
    ],
)  # fmt: skip
def test_what_is_no_label_reaches_no_selector(labels):
    value = wanted(selector={"matchLabels": labels})
    assert persistent.query_of(value, has_store=True) is None
    assert answer(choose(value, pod())) == (Status.FALSE, "BadSelector")


# Between the choice and the capture


def chosen(**told: str) -> Object:
    status = said(Accepted="True", **told)
    return wanted(status={**status, "podRef": {"name": "web-0", "uid": "uid-web-0"}, "node": "n1"})


@pytest.mark.parametrize("found", [None, pod(phase="Failed")])
def test_a_pod_that_went_before_its_capture_is_told_of_once(found):
    value = chosen()
    action = persistent.follow(value, pod=found, now=NOW)
    assert action is not None
    (available,) = action.conditions
    assert (available.type, available.reason) == (checkpoints.AVAILABLE, "PodGone")
    assert persistent.follow(applied(value, action), pod=found, now=NOW) is None


@pytest.mark.parametrize("kind", ["Captured", "Available", "Failed"])
def test_a_pod_that_went_after_its_capture_is_of_no_interest(kind):
    value = chosen(**{kind: "True"})
    assert persistent.chosen_pod_of(value) is None
    assert persistent.follow(value, pod=None, now=NOW) is None


def test_a_pod_that_is_there_is_left_to_its_node():
    assert persistent.follow(chosen(), pod=pod(), now=NOW) is None
    assert persistent.chosen_pod_of(wanted()) is None
    ref = persistent.chosen_pod_of(chosen())
    assert ref is not None
    assert (ref.namespace, ref.name, ref.uid) == ("shop", "web-0", "uid-web-0")


def test_a_failure_is_shown_where_people_look_unless_the_daemon_did_so():
    value = applied(wanted(), choose(wanted(), pod()))
    value["status"]["conditions"].append(
        {"type": "Failed", "status": "True", "reason": "DumpFailed", "message": "criu said no"}
    )
    action = persistent.echo(value, now=NOW)
    assert action is not None
    (available,) = action.conditions
    assert (available.status, available.reason) == (Status.FALSE, "DumpFailed")
    assert available.message == "criu said no"
    assert persistent.echo(applied(value, action), now=NOW) is None
    assert persistent.echo(chosen(Failed="True", Available="True"), now=NOW) is None
    assert persistent.echo(chosen(), now=NOW) is None


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, "waiting"),
        (said(Accepted="Unknown"), "waiting"),
        (said(Accepted="False"), "refused"),
        (said(Accepted="True"), "saving"),
        (said(Accepted="True", Captured="True"), "saving"),
        (said(Accepted="True", Failed="True"), "failed"),
        (said(Accepted="True", Available="True"), "available"),
    ],
)
def test_how_far_it_has_come_is_one_word(status, state):
    assert persistent.state_of(wanted(status=status)) == state
    assert state in persistent.STATES


# Retention


def kept(retention: Object | None, **status: Any) -> Object:
    return wanted(podName="web-0", retention=retention or {}, status=status)


def ago(**parts: float) -> str:
    return (NOW - timedelta(**parts)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("retention", "status", "why"),
    [
        ({"ttl": "1h"}, {"capturedAt": ago(minutes=61)}, "retention.ttl is 1h"),
        ({"ttl": "1h"}, {"capturedAt": ago(minutes=59)}, None),
        ({"ttl": "1h"}, {"capturedAt": ago(minutes=61), "lastUsedAt": ago(minutes=1)}, "ttl"),
        ({"unusedFor": "1h"}, {"capturedAt": ago(minutes=61)}, "retention.unusedFor is 1h"),
        ({"unusedFor": "1h"}, {"capturedAt": ago(days=9), "lastUsedAt": ago(minutes=59)}, None),
        ({"unusedFor": "1h"}, {"capturedAt": ago(days=9), "lastUsedAt": ago(hours=2)}, "unusedFor"),
        ({"unusedFor": "1h"}, {"capturedAt": ago(minutes=5), "lastUsedAt": ago(days=9)}, None),
        ({"ttl": "9h", "unusedFor": "1h"}, {"capturedAt": ago(hours=2)}, "unusedFor"),
        ({"ttl": "0s"}, {"capturedAt": ago(seconds=0)}, "ttl"),
        ({"ttl": "1h"}, {}, None),
        ({"unusedFor": "1h"}, {"lastUsedAt": ago(days=9)}, None),
        ({}, {"capturedAt": ago(days=999)}, None),
        ({"ttl": "9" * 30 + "h"}, {"capturedAt": ago(days=999)}, None),
        ({"ttl": "soon"}, {"capturedAt": ago(days=999)}, None),
        ({"ttl": "1h"}, {"capturedAt": "yesterday"}, None),
        ({"ttl": "1h"}, {"capturedAt": "2030-01-01T10:00:00+00:00"}, "ttl"),
    ],
)
def test_it_ends_when_the_user_says_and_not_before(retention, status, why):
    found = persistent.expire(kept(retention, **status), now=NOW)
    if why is None:
        assert found is None
        return
    assert isinstance(found, Expire)
    assert why in found.why
    assert (found.persistent.name, found.persistent.uid) == ("warm", "pc-uid")
    assert found.resource_version == "7", "one that was just used has another version"


def test_what_is_being_deleted_is_not_deleted_again():
    value = kept({"ttl": "1h"}, capturedAt=ago(days=1))
    value["metadata"]["deletionTimestamp"] = ago(hours=1)
    assert persistent.expire(value, now=NOW) is None


def sandboxed(**spec: Any) -> Object:
    return pod(runtimeClassName=names.RUNTIME_CLASS_GVISOR, **spec)


def test_a_pod_of_gvisor_is_chosen_as_any_other():
    made = persistent.choose(wanted(), pods=[sandboxed()], has_store=True, now=NOW)
    assert made is not None
    assert verdict(made) == (Status.TRUE, "PodChosen")


def test_one_of_gvisor_with_an_init_container_is_refused_by_name():
    begun = sandboxed(initContainers=[{"name": "first", "image": "x"}])
    made = persistent.choose(wanted(), pods=[begun], has_store=True, now=NOW)
    assert made is not None
    assert verdict(made) == (Status.FALSE, "InitContainers")
    assert "first" in made.conditions[0].message


def verdict(made: Declare) -> tuple[Status, str]:
    return made.conditions[0].status, made.conditions[0].reason
