"""Owners: which ordinals a StatefulSet still wants, and of which revision."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.leaving import EXPECTED, Json, asked, owner, pod, reason


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
