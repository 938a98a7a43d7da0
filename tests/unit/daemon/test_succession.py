"""Succession: whose memory is wanted, by owner, policy and volumes."""

from __future__ import annotations

import datetime
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api import names
from architect.api.policy import Migrate
from architect.core.errors import FormatError
from architect.daemon import owners, succession
from architect.daemon.succession import Leaving, Succession
from architect.kube.checkpoints import Trigger

Json = dict[str, Any]

GRACE = 30


def at(seconds: float) -> str:
    time = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(
    name: str = "a",
    *,
    kind: str = "ReplicaSet",
    api: str = "apps/v1",
    owner: str = "web",
    created: float = 0,
    deleted: float | None = None,
    disrupted: str = "",
    phase: str = "Running",
    labels: Json | None = None,
    annotations: Json | None = None,
    finalizers: list[str] | None = None,
    status: Json | None = None,
    **spec: Any,
) -> Json:
    metadata: Json = {
        "name": name,
        "namespace": "shop",
        "uid": f"uid-{name}",
        "creationTimestamp": at(created),
        "labels": labels or {},
        "annotations": annotations or {},
        "finalizers": finalizers or [],
        "ownerReferences": [
            {"apiVersion": api, "kind": kind, "name": owner, "uid": "owner-1", "controller": True}
        ],
    }
    if deleted is not None:
        metadata |= {
            "deletionTimestamp": at(deleted + GRACE),
            "deletionGracePeriodSeconds": GRACE,
        }
    conditions = [{"type": "Ready", "status": "True"}]
    if disrupted:
        conditions.append({"type": "DisruptionTarget", "status": "True", "reason": disrupted})
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "app", "image": "i"}], **spec},
        "status": {"phase": phase, "conditions": conditions, **(status or {})},
    }


def owner(status: Json | None = None, *, deleting: bool = False, **spec: Any) -> Json:
    metadata: Json = {"name": "web", "uid": "owner-1", "generation": 2}
    if deleting:
        metadata["deletionTimestamp"] = at(0)
    return {
        "metadata": metadata,
        "spec": spec,
        "status": {"observedGeneration": 2, **(status or {})},
    }


def asked(leaving: Json, its_owner: Json | None, *others: Json) -> Succession:
    return owners.succession(Leaving(pod=leaving, owner=its_owner, pods=[leaving, *others]))


def reason(leaving: Json, its_owner: Json | None, *others: Json) -> str:
    found = asked(leaving, its_owner, *others)
    assert found.is_expected == (found.reason == succession.EXPECTED)
    assert found.message
    return found.reason


EXPECTED = succession.EXPECTED


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


# Replica sets.


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


# Stateful sets.


def of_set(ordinal: int = 1, revision: str = "r1", **more: Any) -> Json:
    return pod(
        f"web-{ordinal}",
        kind="StatefulSet",
        labels={"controller-revision-hash": revision} if revision else {},
        **{"deleted": 5, **more},
    )


def stateful(
    replicas: int = 3,
    *,
    current: str = "r1",
    update: str = "r1",
    strategy: Json | None = None,
    start: int | None = None,
    current_replicas: int = 0,
    observed: int = 2,
) -> Json:
    value = owner(
        {
            "currentRevision": current,
            "updateRevision": update,
            "currentReplicas": current_replicas,
            "observedGeneration": observed,
        },
        replicas=replicas,
        updateStrategy=strategy
        or {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}},
    )
    if start is not None:
        value["spec"]["ordinals"] = {"start": start}
    return value


def test_an_ordinal_that_the_set_has_is_made_again():
    assert reason(of_set(2), stateful(3)) == EXPECTED


def test_an_ordinal_beyond_the_sets_number_was_scaled_down():
    assert reason(of_set(3), stateful(3)) == "ScaledDown"
    assert reason(of_set(0), stateful(0)) == "ScaledDown"
    assert reason(of_set(1), stateful(2, start=2)) == "ScaledDown"
    assert reason(of_set(3), stateful(2, start=2)) == EXPECTED
    assert reason(of_set(4), stateful(2, start=2)) == "ScaledDown"


def test_an_eviction_of_a_scaled_down_ordinal_is_a_scale_down():
    assert reason(of_set(3, disrupted="EvictionByEvictionAPI"), stateful(3)) == "ScaledDown"


def test_a_rollout_makes_another_pod():
    found = asked(of_set(1, "r1"), stateful(update="r2"))
    assert found.reason == "Rollout"
    assert "revision r2, not of r1" in found.message


def test_a_pod_that_has_been_updated_is_made_again():
    assert reason(of_set(2, "r2"), stateful(update="r2")) == EXPECTED


@pytest.mark.parametrize(
    ("ordinal", "revision", "expected"),
    [(1, "r1", EXPECTED), (2, "r1", "Rollout"), (2, "r2", EXPECTED), (1, "r2", "Rollout")],
)
def test_below_the_partition_the_current_revision_stays(ordinal, revision, expected):
    partitioned = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    assert (
        reason(of_set(ordinal, revision), stateful(update="r2", strategy=partitioned)) == expected
    )


def test_the_partition_counts_from_the_first_ordinal():
    partitioned = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    shifted = stateful(update="r2", strategy=partitioned, start=5)
    assert reason(of_set(5, "r1"), shifted) == EXPECTED
    assert reason(of_set(6, "r1"), shifted) == "Rollout"


def test_deletion_updates_under_on_delete():
    strategy = {"type": "OnDelete"}
    assert reason(of_set(1, "r1"), stateful(update="r2", strategy=strategy)) == "Rollout"
    assert reason(of_set(1, "r2"), stateful(update="r2", strategy=strategy)) == EXPECTED


@pytest.mark.parametrize(
    ("ordinal", "revision", "expected"),
    [
        (0, "r1", EXPECTED),
        (1, "r1", "Rollout"),  # counted as current or not: both are possible
        (2, "r1", "Rollout"),
        (2, "r2", EXPECTED),
    ],
)
def test_without_rolling_update_the_current_replicas_decide(ordinal, revision, expected):
    value = stateful(update="r2", strategy={"type": "RollingUpdate"}, current_replicas=2)
    assert reason(of_set(ordinal, revision), value) == expected


def test_without_a_rollout_the_strategy_is_the_same():
    for strategy in ({"type": "RollingUpdate"}, {"type": "OnDelete"}, {}):
        value = stateful(strategy=strategy, current_replicas=2)
        assert reason(of_set(1), value) == EXPECTED


def test_a_status_that_is_behind_may_hide_a_rollout():
    found = asked(of_set(1), stateful(observed=1))
    assert not found.is_expected
    assert not found.is_settled
    assert found.reason == "OwnerUnsettled"


@pytest.mark.parametrize(
    "case", [(of_set(1, ""), stateful()), (of_set(1), stateful(current="", update=""))]
)
def test_revisions_that_nobody_names_are_not_equal(case):
    found = asked(*case)
    assert not found.is_expected
    assert not found.is_settled


def test_a_scale_down_needs_no_status():
    found = asked(of_set(3), stateful(3, observed=1))
    assert found.reason == "ScaledDown"
    assert found.is_settled


def test_a_pod_without_a_number_is_not_looked_after():
    leaving = of_set(1)
    leaving["metadata"]["name"] = "web-x"
    assert reason(leaving, stateful()) == "NoOrdinal"


@given(
    ordinal=st.integers(0, 12),
    start=st.integers(0, 5),
    replicas=st.integers(0, 6),
    partition=st.integers(0, 8),
    revision=st.sampled_from(["r1", "r2"]),
)
def test_a_pod_is_made_again_exactly_if_its_place_and_revision_stay(
    ordinal, start, replicas, partition, revision
):
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}
    value = stateful(replicas, update="r2", strategy=strategy, start=start)
    is_there = start <= ordinal < start + replicas
    becomes = "r1" if ordinal < start + partition else "r2"
    found = asked(of_set(ordinal, revision), value)
    assert found.is_expected == (is_there and becomes == revision)


# Jobs.


INDEX = "batch.kubernetes.io/job-completion-index"
TRACKED = ["batch.kubernetes.io/job-tracking"]


def of_job(index: int | None = 2, name: str = "a", **more: Any) -> Json:
    annotations = {} if index is None else {INDEX: str(index)}
    given = {"deleted": 5, "restartPolicy": "Never", "finalizers": TRACKED, **more}
    given["annotations"] = {**annotations, **given.get("annotations", {})}
    return pod(name, kind="Job", api="batch/v1", **given)


def job(status: Json | None = None, **spec: Any) -> Json:
    return owner(
        status, **{"completionMode": "Indexed", "completions": 5, "parallelism": 2, **spec}
    )


def test_an_index_that_is_not_finished_runs_again():
    assert reason(of_job(), job({"completedIndexes": "0,3-4"})) == EXPECTED


def test_a_job_that_is_not_indexed_is_told_by_name():
    assert reason(of_job(None), job(completionMode="NonIndexed")) == "JobNotIndexed"
    assert reason(of_job(None), job(completionMode=None)) == "JobNotIndexed"
    assert reason(of_job(None), job()) == "JobNotIndexed"


@pytest.mark.parametrize("kind", ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"])
def test_a_finished_job_runs_nothing(kind):
    status = {"conditions": [{"type": kind, "status": "True"}]}
    assert reason(of_job(), job(status)) == "JobFinished"
    status["conditions"][0]["status"] = "False"
    assert reason(of_job(), job(status)) == EXPECTED


def test_a_suspended_job_runs_nothing():
    assert reason(of_job(), job(suspend=True)) == "JobSuspended"


@pytest.mark.parametrize("indexes", ["2", "0,2", "1-3", "0-2,4", "2-2"])
def test_a_finished_index_does_not_run_again(indexes):
    assert reason(of_job(), job({"completedIndexes": indexes})) == "IndexFinished"
    assert reason(of_job(), job({"failedIndexes": indexes})) == "IndexFinished"


@pytest.mark.parametrize("indexes", ["", "1", "3-4", "0-1,3", "12,20-29"])
def test_other_indexes_may_be_finished(indexes):
    assert reason(of_job(), job({"completedIndexes": indexes})) == EXPECTED


@pytest.mark.parametrize("indexes", ["x", "1-", "1-x", "-1", "1,,x"])
def test_indexes_that_cannot_be_read_are_an_error(indexes):
    with pytest.raises(FormatError, match="cannot be read"):
        asked(of_job(4), job({"completedIndexes": indexes}))


def test_an_index_beyond_the_jobs_number_was_scaled_down():
    assert reason(of_job(5), job()) == "ScaledDown"


def test_a_job_that_runs_fewer_at_once_has_no_room():
    others = [of_job(0, "b", deleted=None), of_job(1, "c", deleted=None)]
    assert reason(of_job(), job(), *others[:1]) == EXPECTED
    assert reason(of_job(), job(), *others) == "ScaledDown"
    assert reason(of_job(), job(parallelism=0)) == "ScaledDown"
    assert reason(of_job(), job({"succeeded": 4}), *others[:1]) == "ScaledDown"


def test_a_replacement_with_the_index_is_one_and_an_older_pod_is_none():
    new = of_job(2, "b", deleted=None, created=5)
    old = of_job(2, "c", deleted=None, created=1)
    assert reason(of_job(), job(parallelism=1), new) == EXPECTED
    assert reason(of_job(), job(), old) == "DuplicateIndex"
    assert reason(of_job(), job(), old, new) == reason(of_job(), job(), new, old) == EXPECTED


def test_a_job_that_somebody_else_manages_is_not_known():
    assert reason(of_job(), job(managedBy="kueue.x-k8s.io/multikueue")) == "UnknownOwner"
    assert reason(of_job(), job(managedBy="kubernetes.io/job-controller")) == EXPECTED


def test_a_job_that_bears_no_failure_gives_up_when_its_pod_is_deleted():
    assert reason(of_job(), job(backoffLimit=0)) == "JobGivesUp"
    assert reason(of_job(), job({"failed": 1}, backoffLimit=1)) == "JobGivesUp"
    assert reason(of_job(), job({"failed": 1}, backoffLimit=2)) == EXPECTED
    assert reason(of_job(), job({"failed": 5})) == EXPECTED
    assert reason(of_job(), job({"failed": 6})) == "JobGivesUp"


def test_this_pods_own_failure_is_not_counted_twice():
    being_counted = {"failed": 0, "uncountedTerminatedPods": {"failed": ["uid-a"]}}
    assert reason(of_job(), job(being_counted, backoffLimit=1)) == EXPECTED
    of_others = {"failed": 0, "uncountedTerminatedPods": {"failed": ["uid-a", "uid-b"]}}
    assert reason(of_job(), job(of_others, backoffLimit=1)) == "JobGivesUp"
    assert reason(of_job(finalizers=[]), job({"failed": 1}, backoffLimit=1)) == EXPECTED


def test_an_index_has_a_number_of_failures_of_its_own():
    def failed(count: int) -> Json:
        return of_job(annotations={"batch.kubernetes.io/job-index-failure-count": str(count)})

    limited = job({"failed": 50}, backoffLimitPerIndex=1)
    assert reason(of_job(), limited) == EXPECTED
    assert reason(failed(0), limited) == EXPECTED
    assert reason(failed(1), limited) == "JobGivesUp"


def failure_policy(action: str) -> Json:
    pattern = {"type": "DisruptionTarget", "status": "True"}
    exits = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}
    return {"rules": [exits, {"action": action, "onPodConditions": [pattern]}]}


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("Ignore", EXPECTED),
        ("Count", "JobGivesUp"),
        ("FailJob", "JobGivesUp"),
        ("FailIndex", "JobGivesUp"),
    ],
)
def test_a_failure_policy_says_what_a_disruption_is(action, expected):
    evicted = of_job(disrupted="EvictionByEvictionAPI")
    value = job(backoffLimit=0, podFailurePolicy=failure_policy(action))
    assert reason(evicted, value) == expected
    assert reason(of_job(), value) == "JobGivesUp"


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


# Why it leaves, and what its user wants.


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ("EvictionByEvictionAPI", Trigger.EVICTION),
        ("PreemptionByScheduler", Trigger.EVICTION),
        ("DeletionByTaintManager", Trigger.EVICTION),
        ("DeletionByPodGC", Trigger.EVICTION),
        ("DeletionByDeviceTaintManager", Trigger.EVICTION),
        ("TerminationByKubelet", Trigger.EVICTION),
        ("", Trigger.DELETION),
    ],
)
def test_the_trigger_is_in_the_condition(why, expected):
    assert succession.trigger_of(pod(deleted=5, disrupted=why)) is expected


@pytest.mark.parametrize("said", ["Terminated", "NodeShutdown", "Shutdown"])
def test_kubelet_tells_of_a_shutdown_in_the_status(said):
    by_kubelet = pod(disrupted="TerminationByKubelet", status={"reason": said})
    assert succession.trigger_of(by_kubelet) is Trigger.NODE_SHUTDOWN
    assert succession.trigger_of(pod(status={"reason": said})) is Trigger.NODE_SHUTDOWN
    evicted = pod(disrupted="EvictionByEvictionAPI", status={"reason": said})
    assert succession.trigger_of(evicted) is Trigger.EVICTION


def test_a_disruption_that_was_called_off_is_none():
    leaving = pod(deleted=5, disrupted="PreemptionByScheduler")
    leaving["status"]["conditions"][-1]["status"] = "False"
    assert succession.trigger_of(leaving) is Trigger.DELETION


def judged(leaving: Json, migrate: Migrate = Migrate.ALWAYS, trigger: Trigger | None = None) -> str:
    where = Leaving(pod=leaving, owner=owner(replicas=1), pods=[leaving])
    return succession.judge(where, migrate=migrate, trigger=trigger).reason


def test_a_plain_deletion_is_on_purpose_if_only_evictions_migrate():
    deleted, evicted = pod(deleted=5), pod(deleted=5, disrupted="EvictionByEvictionAPI")
    assert judged(deleted, Migrate.EVICTION) == "DeletedOnPurpose"
    assert judged(evicted, Migrate.EVICTION) == EXPECTED
    assert judged(deleted) == judged(evicted) == EXPECTED
    assert judged(deleted, Migrate.EVICTION, Trigger.SPOT_INTERRUPTION) == EXPECTED


@pytest.mark.parametrize("trigger", [None, *Trigger])
def test_nothing_migrates_that_must_not(trigger):
    assert judged(pod(deleted=5), Migrate.NEVER, trigger) == "MigrationOff"
    assert judged(pod(deleted=5, labels={names.FRESH: "true"}), trigger=trigger) == "Fresh"
    assert judged(pod(deleted=5, labels={names.FRESH: "false"}), trigger=trigger) == EXPECTED


# Volumes.


def with_volume(mount: Json | None = None, *, into: str = "containers", **volume: Any) -> Json:
    leaving = pod(deleted=5, volumes=[{"name": "data", **volume}])
    container = {"name": "app", "image": "i", "volumeMounts": [{"name": "data", **(mount or {})}]}
    leaving["spec"].setdefault(into, []).append(container)
    return leaving


@pytest.mark.parametrize(
    "volume",
    [
        {"emptyDir": {}},
        {"emptyDir": {"medium": "Memory"}},
        {},
        {"configMap": {"name": "c"}},
        {"secret": {"secretName": "s"}},
        {"downwardAPI": {"items": []}},
        {"projected": {"sources": []}},
        {"image": {"reference": "localhost/data:1"}},
        {"persistentVolumeClaim": {"claimName": "d", "readOnly": True}},
        {"nfs": {"server": "s", "path": "/", "readOnly": True}},
        {"csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}},
    ],
)
def test_volumes_of_the_pod_itself_and_read_only_ones_move(volume):
    assert judged(with_volume(**volume)) == EXPECTED
    assert succession.writable_volumes(with_volume(**volume)) == ()


@pytest.mark.parametrize(
    "volume",
    [
        {"persistentVolumeClaim": {"claimName": "d"}},
        {"persistentVolumeClaim": {"claimName": "d", "readOnly": False}},
        {"ephemeral": {"volumeClaimTemplate": {}}},
        {"hostPath": {"path": "/data"}},
        {"nfs": {"server": "s", "path": "/"}},
        {"csi": {"driver": "d"}},
        {"cephfs": {}},
        {"iscsi": {}},
        {"gitRepo": {"repository": "r"}},
        {"aKindOfLater": {}},
    ],
)
def test_writable_volumes_with_data_of_their_own_keep_the_memory_here(volume):
    leaving = with_volume(**volume)
    kind = next(iter(volume))
    assert succession.writable_volumes(leaving) == (("data", kind),)
    where = Leaving(pod=leaving, owner=owner(replicas=1))
    found = succession.judge(where, migrate=Migrate.ALWAYS)
    assert (found.is_expected, found.reason) == (False, "PersistentVolume")
    assert f"data ({kind})" in found.message


def test_a_volume_is_read_only_if_every_mount_of_it_is():
    path: Json = {"hostPath": {"path": "/etc/ssl"}}
    leaving = with_volume({"readOnly": True}, **path)
    assert succession.writable_volumes(leaving) == ()
    leaving["spec"]["containers"].append({"name": "b", "volumeMounts": [{"name": "data"}]})
    assert succession.writable_volumes(leaving) == (("data", "hostPath"),)


@pytest.mark.parametrize("into", ["initContainers", "ephemeralContainers"])
def test_init_containers_write_too(into):
    assert succession.writable_volumes(with_volume(into=into, hostPath={"path": "/x"}))


def test_a_block_device_is_written():
    leaving = pod(deleted=5, volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}])
    assert succession.writable_volumes(leaving) == ()
    leaving["spec"]["containers"][0]["volumeDevices"] = [{"name": "d", "devicePath": "/dev/x"}]
    assert succession.writable_volumes(leaving) == (("d", "persistentVolumeClaim"),)


def test_a_pod_that_was_scaled_down_is_told_so_and_not_of_its_volume():
    leaving = with_volume(persistentVolumeClaim={"claimName": "d"})
    where = Leaving(pod=leaving, owner=owner(replicas=0), pods=[leaving])
    assert succession.judge(where, migrate=Migrate.ALWAYS).reason == "ScaledDown"
