from __future__ import annotations

import pytest

from architect.api import names
from architect.core import pods as admission
from architect.operator import plan
from architect.operator.plan import Collect, Report, Unlabel


def checkpoint(*, owned=True, trigger="Sleep", **metadata):
    owners = [{"kind": "Pod", "name": "web-0", "uid": "u1"}] if owned else []
    return {
        "kind": "Checkpoint",
        "metadata": {
            "name": "web-0-u1", "namespace": "shop", "uid": "c1", "resourceVersion": "7",
            "ownerReferences": owners, **metadata,
        },
        "spec": {"podRef": {"name": "web-0", "uid": "u1"}, "trigger": trigger},
    }  # fmt: skip


def pod(*, uid="u1", phase="Running", annotations=None, spec=None, **metadata):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-0", "namespace": "shop", "uid": uid,
            "annotations": annotations or {}, **metadata,
        },
        "spec": {"containers": [{"name": "app", "image": "x"}], **(spec or {})},
        "status": {"phase": phase},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "is gone"),
        (pod(uid="u2"), "was replaced"),
        (pod(phase="Failed"), "has ended"),
        (pod(phase="Succeeded"), "has ended"),
    ],
)
def test_a_checkpoint_whose_pod_will_not_wake_is_collected(found, why):
    action = plan.for_checkpoint(checkpoint(), pod=found)
    assert isinstance(action, Collect)
    assert why in action.why
    assert (action.checkpoint.uid, action.resource_version) == ("c1", "7")


@pytest.mark.parametrize("phase", ["Running", "Pending", "Unknown"])
def test_a_checkpoint_whose_pod_is_there_stays(phase):
    assert plan.for_checkpoint(checkpoint(), pod=pod(phase=phase)) is None


def test_a_sleeping_pods_checkpoint_without_an_owner_is_collected_too():
    assert plan.for_checkpoint(checkpoint(owned=False), pod=None) is not None


def test_a_checkpoint_that_is_to_outlive_its_pod_stays():
    assert plan.for_checkpoint(checkpoint(owned=False, trigger="Eviction"), pod=None) is None


def test_a_checkpoint_that_is_being_deleted_is_left_alone():
    value = checkpoint(deletionTimestamp="2026-01-01T00:00:00Z")
    assert plan.for_checkpoint(value, pod=None) is None


def test_a_checkpoint_by_which_a_pod_starts_goes_with_that_pod_and_not_before():
    owners = [{"kind": "Pod", "name": "warm-1", "uid": "another"}]
    value = checkpoint(trigger="Request", ownerReferences=owners)
    assert plan.for_checkpoint(value, pod=None) is None


def test_a_pod_that_asks_for_nothing_is_not_looked_at():
    assert plan.for_pod(pod()) is None


def test_a_pod_that_was_created_without_the_webhook_is_reported_with_the_remedy():
    report = plan.for_pod(pod(annotations={names.IDLE: "60s"}))
    assert isinstance(report, Report)
    assert report.reason == names.EVENT_UNMANAGED
    assert "runtime class" in report.note
    assert "delete pod web-0" in report.note


def test_a_pod_that_was_admitted_is_fine():
    bare = pod(annotations={names.IDLE: "60s"})
    admitted = admission.expected_pod(bare, admission.judge(bare).policy)
    assert plan.for_pod(dict(admitted)) is None


def test_a_changed_annotation_on_a_running_pod_is_told():
    bare = pod(annotations={names.IDLE: "60s"})
    admitted = dict(admission.expected_pod(bare, admission.judge(bare).policy))
    admitted["metadata"]["annotations"] = {**admitted["metadata"]["annotations"], names.IDLE: "5s"}
    report = plan.for_pod(admitted)
    assert isinstance(report, Report)
    assert report.reason == names.EVENT_POLICY_DRIFTED


@pytest.mark.parametrize(
    "ended", [pod(phase="Failed"), pod(deletionTimestamp="2026-01-01T00:00:00Z")]
)
def test_a_pod_that_ends_is_not_reported(ended):
    ended["metadata"]["annotations"] = {names.IDLE: "60s"}
    assert plan.for_pod(ended) is None


def test_a_malformed_pod_is_reported_and_no_error():
    broken = pod(annotations={names.IDLE: "60s"}, spec={"containers": "x"})
    report = plan.for_pod(broken)
    assert report is not None
    assert report.reason == names.EVENT_UNMANAGED


@pytest.mark.parametrize(
    ("owner", "labels", "command"),
    [
        ({"kind": "StatefulSet", "name": "web"}, {}, "rollout restart -n shop statefulset/web"),
        ({"kind": "DaemonSet", "name": "d"}, {}, "rollout restart -n shop daemonset/d"),
        (
            {"kind": "ReplicaSet", "name": "web-5c"},
            {"pod-template-hash": "5c"},
            "rollout restart -n shop deployment/web",
        ),
        ({"kind": "ReplicaSet", "name": "bare"}, {}, "delete pod -n shop web-0"),
        ({"kind": "Job", "name": "j"}, {}, "delete pod -n shop web-0"),
    ],
)
def test_the_remedy_fits_the_owner(owner, labels, command):
    value = pod(ownerReferences=[{**owner, "controller": True}], labels=labels)
    assert command in plan.remedy(value)


def node(name, ready="true"):
    return {"metadata": {"name": name, "labels": {names.NODE_READY_LABEL: ready}}}


def on(name, runtime_class=None):
    return pod(spec={"nodeName": name, "runtimeClassName": runtime_class})


def test_a_label_without_a_daemon_goes_at_the_second_look():
    nodes, daemons = [node("a"), node("b")], [on("a")]
    first = plan.for_nodes(nodes, daemons=daemons, pods=[], suspects=frozenset())
    assert (first.actions, first.labelled, first.unserved) == ((), 2, frozenset("b"))
    second = plan.for_nodes(nodes, daemons=daemons, pods=[], suspects=first.unserved)
    (action,) = second.actions
    assert isinstance(action, Unlabel)
    assert (action.node.name, action.labels) == ("b", (names.NODE_READY_LABEL,))


def test_a_label_that_managed_pods_need_stays():
    view = plan.for_nodes(
        [node("a"), node("b")],
        daemons=[on("a")],
        pods=[on("b", names.RUNTIME_CLASS)],
        suspects=frozenset("b"),
    )
    (action,) = view.actions
    assert isinstance(action, Report)


def test_each_label_goes_or_stays_with_the_pods_of_its_class():
    value = node("b")
    value["metadata"]["labels"][names.NODE_GVISOR_LABEL] = "true"
    view = plan.for_nodes(
        [node("a"), value],
        daemons=[on("a")],
        pods=[on("b", names.RUNTIME_CLASS_GVISOR)],
        suspects=frozenset("b"),
    )
    report, unlabel = view.actions
    assert isinstance(report, Report)
    assert names.NODE_GVISOR_LABEL in report.note
    assert names.NODE_READY_LABEL not in report.note
    assert isinstance(unlabel, Unlabel)
    assert unlabel.labels == (names.NODE_READY_LABEL,)


def test_a_pod_that_wants_gvisor_is_reported_where_there_is_none():
    value = pod(annotations={names.START_FROM: "warm", names.RUNTIME: "runsc"})
    report = plan.for_pod(value, has_gvisor=False)
    assert report is not None
    assert "NoGvisor" in report.note


def test_no_daemon_at_all_changes_no_label():
    view = plan.for_nodes([node("a")], daemons=[], pods=[], suspects=frozenset("a"))
    assert view.actions == ()


def test_nodes_that_are_not_ready_are_not_counted():
    view = plan.for_nodes([node("a", ready="false")], daemons=[], pods=[], suspects=frozenset())
    assert view.labelled == 0
