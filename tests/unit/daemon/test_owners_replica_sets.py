"""Owners: how many pods a ReplicaSet still wants."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.daemon import owners
from support.leaving import EXPECTED, Json, asked, at, owner, pod, reason


@pytest.mark.parametrize("kind", [("ReplicaSet", "apps/v1"), ("ReplicationController", "v1")])
def test_a_pod_that_its_owner_lacks_is_replaced(kind):
    leaving = pod(kind=kind[0], api=kind[1], deleted=5)
    assert reason(leaving, owner(replicas=1)) == EXPECTED


def test_replicas_are_one_if_nothing_is_said():
    assert reason(pod(deleted=5), owner()) == EXPECTED


def test_a_replacement_that_is_there_already_is_one():
    assert reason(pod(deleted=5), owner(replicas=1), pod("b", created=5)) == EXPECTED
    assert reason(pod(deleted=5), owner(replicas=1), pod("b", created=9)) == EXPECTED


def test_a_scale_down_and_a_rollout_lower_the_number_first():
    assert reason(pod(deleted=5), owner(replicas=1), pod("b", created=4)) == "ScaledDown"
    assert reason(pod(deleted=5), owner(replicas=0)) == "ScaledDown"


def test_an_eviction_does_not_override_a_scale_down_to_nothing():
    leaving = pod(deleted=5, disrupted="EvictionByEvictionAPI")
    assert reason(leaving, owner(replicas=0), pod("b", created=9)) == "ScaledDown"


def test_pods_of_others_and_pods_that_ended_do_not_count():
    other = pod("b", created=0)
    other["metadata"]["ownerReferences"][0]["uid"] = "owner-2"
    failed = pod("c", created=0, phase="Failed")
    orphan = pod("d", created=0)
    orphan["metadata"]["ownerReferences"] = []
    assert reason(pod(deleted=5), owner(replicas=1), other, failed, orphan) == EXPECTED


def test_a_whole_deployment_that_is_deleted_at_once_is_replaced():
    leaving = [pod(name, deleted=5) for name in "abc"]
    for value in leaving:
        assert reason(value, owner(replicas=3), *leaving) == EXPECTED


def test_one_of_two_that_left_was_scaled_down_and_the_evicted_one_was_not():
    scaled, evicted = pod("a", deleted=5), pod("b", deleted=5, disrupted="EvictionByEvictionAPI")
    rest = [pod("c"), pod("d", created=6)]
    everybody = [scaled, evicted, *rest]
    assert reason(evicted, owner(replicas=2), *everybody) == EXPECTED
    assert reason(scaled, owner(replicas=2), *everybody) == "ScaledDown"


def test_a_replacement_accounts_for_one_pod_only():
    first, second = pod("a", deleted=5), pod("b", deleted=7)
    new = pod("c", created=7)
    assert reason(first, owner(replicas=1), second, new) == EXPECTED
    assert reason(second, owner(replicas=1), first, new) == "ScaledDown"


def test_a_pod_that_came_earlier_replaces_the_one_that_left_earlier():
    first, second = pod("a", deleted=5), pod("b", deleted=20)
    came = [pod("c", created=5), pod("d", created=20)]
    for value in (first, second):
        assert reason(value, owner(replicas=2), first, second, *came) == EXPECTED


def test_the_replacement_of_a_replacement():
    """Drained twice within ten seconds: the second pod is gone before it could do anything."""
    first, second, third = pod("a", deleted=0), pod("b", created=0, deleted=8), pod("c", created=8)
    assert reason(first, owner(replicas=1), second, third) == EXPECTED
    assert reason(second, owner(replicas=1), first, third) == EXPECTED


def test_the_replacement_of_a_pod_that_is_still_there_is_replaced_itself():
    """Drained twice within ten seconds: what was saved stays until its successor runs."""
    first, second = pod("a", created=-100, deleted=0), pod("b", created=1, deleted=3)
    for third in ((), (pod("c", created=3),)):
        assert reason(second, owner(replicas=1), first, *third) == EXPECTED
        assert reason(first, owner(replicas=1), second, *third) == EXPECTED
    # But not where it was scaled down: nobody came for it, and nobody will.
    other = pod("d", created=-100)
    assert reason(second, owner(replicas=1), first, other) == "ScaledDown"


def test_a_replacement_that_came_and_left_within_a_second_is_passed_over():
    first, second, third = pod("a", deleted=4), pod("b", created=4, deleted=4), pod("c", created=4)
    assert reason(first, owner(replicas=1), second, third) == EXPECTED
    assert reason(first, owner(replicas=1), second, pod("c", created=3)) == "ScaledDown"


def test_old_failed_pods_do_not_take_the_replacement_of_a_drained_one():
    """Their own replacements were scaled away since, and failed pods stay for long."""
    end = {"containerStatuses": [{"name": "app", "state": {"terminated": {"finishedAt": at(1)}}}]}
    old = [pod(f"f{n}", phase="Failed", status=end) for n in range(3)]
    leaving, new = pod("a", deleted=1000), pod("b", created=1000)
    assert reason(leaving, owner(replicas=2), new, pod("c"), *old) == EXPECTED


def test_one_that_its_node_refused_replaces_nobody():
    """Kubelet refuses pods while its node shuts down; the owner makes another one each time."""
    evicted = pod("b", deleted=10, disrupted="EvictionByEvictionAPI")
    refused = pod("c", created=10, phase="Failed", status={"reason": "NodeShutdown"})
    new = pod("d", created=11)
    scaled_down = pod("a", deleted=10)
    assert reason(scaled_down, owner(replicas=1), evicted, refused, new) == "ScaledDown"
    assert reason(evicted, owner(replicas=1), scaled_down, refused, new) == EXPECTED


def test_a_pod_that_failed_just_now_has_a_replacement_of_its_own():
    end = {"containerStatuses": [{"name": "app", "state": {"terminated": {"finishedAt": at(4)}}}]}
    failed = pod("f", phase="Failed", status=end)
    assert reason(pod(deleted=5), owner(replicas=1), failed, pod("b", created=5)) == "ScaledDown"
    two = [pod("b", created=5), pod("c", created=4)]
    assert reason(pod(deleted=5), owner(replicas=2), failed, *two) == EXPECTED


def test_a_pod_that_is_not_deleted_yet_but_whose_node_goes():
    leaving = pod(created=0)
    assert reason(leaving, owner(replicas=2), pod("b")) == EXPECTED
    assert reason(leaving, owner(replicas=1), pod("b")) == "ScaledDown"


def test_the_time_of_deletion_is_before_the_grace_period():
    assert owners.deletion_time(pod(deleted=5)) == owners.unix_seconds(at(5))
    assert owners.deletion_time(pod()) is None
    shortened = pod(deleted=5)
    shortened["metadata"] |= {"deletionTimestamp": at(7), "deletionGracePeriodSeconds": 2}
    assert owners.deletion_time(shortened) == owners.unix_seconds(at(5))


@st.composite
def replica_sets(draw: st.DrawFn) -> tuple[int, list[Json]]:
    found = []
    for n in range(draw(st.integers(1, 7))):
        created = draw(st.integers(0, 20))
        is_leaving = n == 0 or draw(st.booleans())
        found.append(
            pod(
                f"p{n}",
                created=created,
                deleted=created + draw(st.integers(0, 10)) if is_leaving else None,
                disrupted="EvictionByEvictionAPI" if draw(st.booleans()) else "",
            )
        )
    return draw(st.integers(0, 7)), found


@given(case=replica_sets(), source=st.randoms(use_true_random=False))
def test_the_order_of_the_pods_means_nothing(case: tuple[int, list[Json]], source: random.Random):
    replicas, found = case
    leaving, expected = found[0], asked(found[0], owner(replicas=replicas), *found)
    source.shuffle(found)
    assert asked(leaving, owner(replicas=replicas), *found) == expected


@given(case=replica_sets())
def test_no_more_are_expected_to_be_replaced_than_came_or_will_come(case: tuple[int, list[Json]]):
    replicas, found = case
    leaving = [p for p in found if p["metadata"].get("deletionTimestamp")]
    expected = [p for p in leaving if asked(p, owner(replicas=replicas), *found).is_expected]
    missing = max(0, replicas - (len(found) - len(leaving)))
    assert len(expected) <= len(found) + missing
    for value in expected:
        deleted = owners.deletion_time(value)
        others = (p for p in found if p is not value)
        times = [owners.unix_seconds(p["metadata"]["creationTimestamp"]) for p in others]
        came = [t for t in times if t is not None and deleted is not None and t >= deleted]
        assert came or missing


@given(case=replica_sets())
def test_a_larger_set_replaces_whom_a_smaller_one_does(case: tuple[int, list[Json]]):
    replicas, found = case
    if replicas and asked(found[0], owner(replicas=replicas), *found).is_expected:
        assert asked(found[0], owner(replicas=replicas + 1), *found).is_expected


@given(case=replica_sets())
def test_whom_a_scale_down_took_is_not_replaced(case: tuple[int, list[Json]]):
    """All are there since before, as many as wanted are left: the others were taken on purpose."""
    _, found = case
    for value in found:
        value["metadata"]["creationTimestamp"] = at(-100)
    active = [p for p in found if not p["metadata"].get("deletionTimestamp")]
    assert not asked(found[0], owner(replicas=len(active)), *found).is_expected
