"""Owners: who will make a new pod of the same identity, and what is no answer."""

from __future__ import annotations

import pytest

from architect.core.errors import FormatError
from architect.daemon import owners
from support.leaving import EXPECTED, Json, asked, owner, pod, reason

# Owners in general.


def test_nobody_replaces_a_pod_without_a_controller():
    value = pod(deleted=5)
    value["metadata"]["ownerReferences"][0]["controller"] = False
    assert reason(value, None) == "NoController"


def test_a_daemon_sets_pod_stays_on_its_node_by_name():
    assert reason(pod(kind="DaemonSet", deleted=5), owner()) == "DaemonSet"


@pytest.mark.parametrize(
    ("kind", "api"),
    [
        ("Widget", "example.com/v1"),
        ("StatefulSet", "apps.kruise.io/v1"),
        ("Job", "batch.volcano.sh/v1alpha1"),
        ("ReplicaSet", "v1"),
        ("DaemonSet", "apps.kruise.io/v1"),
        ("Node", "v1"),
    ],
)
def test_owners_that_are_not_known_are_told_by_name(kind, api):
    found = asked(pod(kind=kind, api=api, deleted=5), owner(replicas=1))
    assert found.reason == "UnknownOwner"
    assert f"{api} {kind} web" in found.message


@pytest.mark.parametrize(
    ("kind", "api"),
    [("ReplicaSet", "apps/v1"), ("ReplicationController", "v1"), ("Job", "batch/v1")],
)
def test_an_owner_that_is_gone_or_going_replaces_nothing(kind, api):
    leaving = pod(kind=kind, api=api, deleted=5, disrupted="EvictionByEvictionAPI")
    assert reason(leaving, None) == "OwnerGone"
    assert reason(leaving, owner(deleting=True, replicas=3)) == "OwnerGone"
    another = owner(replicas=3)
    another["metadata"]["uid"] = "owner-2"
    assert reason(leaving, another) == "OwnerGone"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_has_no_memory(phase):
    assert reason(pod(deleted=5, phase=phase), owner(replicas=1)) == "PodFinished"


def ended(*codes: int | None) -> Json:
    states: list[Json] = [
        {"terminated": {"exitCode": c}} if c is not None else {"running": {}} for c in codes
    ]
    return {"containerStatuses": [{"name": f"c{n}", "state": s} for n, s in enumerate(states)]}


@pytest.mark.parametrize(
    ("policy", "codes", "is_over"),
    [
        ("Never", (0,), True),
        ("Never", (1,), True),
        ("OnFailure", (0,), True),
        ("OnFailure", (1,), False),
        ("Always", (0,), False),
        ("Never", (None,), False),
        ("Never", (), False),
    ],
)
def test_a_jobs_pod_whose_containers_have_ended_has_ended(policy, codes, is_over):
    leaving = pod(kind="Job", api="batch/v1", deleted=5, status=ended(*codes), restartPolicy=policy)
    assert (reason(leaving, owner()) == "PodFinished") == is_over


def test_one_container_that_goes_on_keeps_its_pod():
    leaving = pod(deleted=5, status=ended(0, None), restartPolicy="Never")
    leaving["spec"]["containers"].append({"name": "other", "image": "i"})
    assert reason(leaving, owner(replicas=1)) == EXPECTED


# What is not what it should be.


@pytest.mark.parametrize(
    "value",
    [
        owner(replicas="3"),
        owner(replicas=True),
        {"metadata": {"uid": "owner-1"}, "spec": []},
        {"metadata": []},
    ],
)
def test_an_owner_that_is_none_is_a_format_error(value):
    with pytest.raises(FormatError):
        asked(pod(deleted=5), value)


def test_times_that_cannot_be_read_are_a_format_error():
    leaving = pod(deleted=5)
    leaving["metadata"]["deletionTimestamp"] = "yesterday"
    with pytest.raises(FormatError, match="yesterday"):
        asked(leaving, owner(replicas=1))


def test_times_are_read_in_whole_seconds():
    assert owners.unix_seconds("1970-01-01T00:00:07Z") == 7
    assert owners.unix_seconds("1970-01-01T00:00:07.999999Z") == 7
    assert owners.unix_seconds("1970-01-01T01:00:07+01:00") == 7
    assert owners.unix_seconds(None) is owners.unix_seconds("") is None
