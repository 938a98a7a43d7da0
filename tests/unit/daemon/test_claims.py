"""Claims: a new pod takes the memory of its predecessor, waits for it, or starts fresh."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from architect.daemon import claims
from architect.daemon.claims import Fresh, Wait
from architect.kube.checkpoints import Trigger
from support.newcomers import (
    BOUNDS,
    CAPTURING,
    OWNER,
    SET,
    Json,
    at,
    checkpoint,
    claimed,
    decide,
    fresh,
    message,
    newcomer,
    sibling,
    waits,
)

# Who has none, and is not kept waiting.


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (newcomer(identity=None), "NoController"),
        (newcomer(owner=dataclasses.replace(OWNER, kind="DaemonSet")), "DaemonSet"),
        (
            newcomer(owner=dataclasses.replace(OWNER, kind="Job", api_version="batch/v1")),
            "JobNotIndexed",
        ),
        (newcomer(containers=frozenset()), "NotManaged"),
        (newcomer(wish=Fresh(reason="Fresh", message="label")), "Fresh"),
    ],
)
def test_who_can_have_none_never_waits_and_never_claims(who, reason):
    told = claims.never(who)
    assert told is not None
    assert told.reason == reason
    nobody = newcomer().identity
    assert nobody is not None
    there = who.identity or nobody
    leaving = (sibling(owner=there.owner),)
    assert fresh(who, checkpoint(), checkpoint("b", **CAPTURING), siblings=leaving) == reason


def test_what_a_lost_pod_may_have_run_is_told_and_not_taken():
    lost = checkpoint(
        claimed_by="gone", state={"Captured": "True", "Available": "False", "Restored": "Unknown"}
    )
    assert fresh(newcomer(), lost) == "NotAvailable"
    restored = checkpoint(
        claimed_by="gone", state={"Captured": "True", "Available": "False", "Restored": "True"}
    )
    assert fresh(newcomer(), restored) == "Taken"


def test_an_indexed_jobs_pod_may_have_one():
    job = dataclasses.replace(OWNER, kind="Job", api_version="batch/v1")
    who = newcomer(owner=job, ordinal=3)
    assert claims.never(who) is None
    assert claimed(who, checkpoint(ordinal=3)) == "old"


def test_a_daemon_set_of_another_group_is_another_kind():
    other = dataclasses.replace(OWNER, kind="DaemonSet", api_version="apps.kruise.io/v1")
    assert claims.never(newcomer(owner=other)) is None


def test_without_a_predecessor_the_pod_starts_fresh_at_once():
    assert fresh(newcomer()) == "NoCheckpoint"


def test_a_restarted_container_succeeds_nobody():
    who = newcomer(has_started=True)
    assert fresh(who, checkpoint(), siblings=(sibling(),)) == "Restarted"


# Whose checkpoint.


def test_an_available_checkpoint_of_the_same_identity_is_claimed():
    assert claimed(newcomer(), checkpoint()) == "old"
    assert claimed(newcomer(owner=SET, ordinal=0), checkpoint(ordinal=0)) == "old"


@pytest.mark.parametrize(
    "other",
    [
        checkpoint(namespace="other"),
        checkpoint(owner="owner-2"),
        checkpoint(ordinal=0),
        checkpoint(trigger=Trigger.SLEEP),
        checkpoint(trigger=Trigger.REQUEST),
    ],
)
def test_what_is_not_for_it_does_not_exist_for_it(other):
    assert fresh(newcomer(), other) == "NoCheckpoint"


@pytest.mark.parametrize("ordinal", [None, 1, 10])
def test_another_ordinals_checkpoint_is_anothers(ordinal):
    assert fresh(newcomer(owner=SET, ordinal=0), checkpoint(ordinal=ordinal)) == "NoCheckpoint"


def test_a_checkpoint_of_a_pod_without_owner_is_for_nobody():
    value = checkpoint()
    del value["spec"]["owner"]
    assert fresh(newcomer(), value) == "NoCheckpoint"


def test_one_that_is_being_deleted_is_none():
    value = checkpoint()
    value["metadata"]["deletionTimestamp"] = at(3)
    assert fresh(newcomer(), value) == "NoCheckpoint"


def test_a_pod_is_not_its_own_successor():
    assert fresh(newcomer(), checkpoint("new")) == "NoCheckpoint"


def test_the_identity_must_be_of_the_pods_own_namespace():
    assert fresh(newcomer(namespace="other"), checkpoint(namespace="other")) == "NoCheckpoint"
    assert fresh(newcomer(namespace="other"), checkpoint()) == "NoCheckpoint"


# Where it stands.


def test_a_claimed_one_is_the_claimants():
    assert fresh(newcomer(), checkpoint(claimed_by="another")) == "Taken"
    assert "web-another" in message(newcomer(), checkpoint(claimed_by="another"))


def test_a_pods_own_claim_is_its_own_again():
    for _ in range(2):
        assert claimed(newcomer(), checkpoint(claimed_by="new")) == "old"
    value = checkpoint("b", created=0, captured=0)
    assert claimed(newcomer(), value, checkpoint(claimed_by="new", created=5)) == "old"
    assert claimed(newcomer(has_started=True), checkpoint(claimed_by="new")) == "old"


def test_a_pod_that_went_on_from_its_checkpoint_does_not_go_back_to_it():
    restored = {"Captured": "True", "Available": "False", "Claimed": "True", "Restored": "True"}
    value = checkpoint(claimed_by="new", state=restored)
    assert fresh(newcomer(), value) == "AlreadyRestored"
    assert fresh(newcomer(), value, checkpoint("b")) == "AlreadyRestored"


def test_a_claimed_checkpoint_that_failed_is_not_tried_again_here():
    value = checkpoint(claimed_by="new", state={"Captured": "True", "Failed": "True"})
    assert fresh(newcomer(), value) == "CheckpointFailed"


def test_a_claim_does_not_make_an_unfit_checkpoint_fit():
    value = checkpoint(claimed_by="new", template_hash="v1:b")
    assert fresh(newcomer(), value) == "TemplateDiffers"
    value = checkpoint(claimed_by="new", owner="owner-2")
    assert fresh(newcomer(), value) == "NoCheckpoint"


def test_a_failed_one_is_passed_over_with_its_reason():
    value = checkpoint(captured=None, state={"Captured": "False", "Failed": "True"})
    assert fresh(newcomer(), value) == "CheckpointFailed"
    assert "FailedReason: Failed because" in message(newcomer(), value)
    assert claimed(newcomer(), value, checkpoint("b")) == "b"


def test_one_that_was_captured_and_is_lost_is_passed_over_with_its_reason():
    value = checkpoint(state={"Captured": "True", "Available": "False"})
    assert fresh(newcomer(), value) == "NotAvailable"
    assert "AvailableReason" in message(newcomer(), value)


def test_a_pod_of_much_later_replaces_somebody_else():
    assert claimed(newcomer(created=900), checkpoint()) == "old"
    assert fresh(newcomer(created=901), checkpoint()) == "Late"
    assert fresh(newcomer(created=901), checkpoint(**CAPTURING)) == "Late"


def test_a_pod_that_waited_long_for_its_node_is_not_late():
    assert claimed(newcomer(created=0), checkpoint(created=0), waited=0) == "old"
    assert claimed(newcomer(created=-5000), checkpoint(created=0)) == "old"


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"Captured": "Unknown"},
        {"Captured": "False"},
        {"Captured": "False", "Available": "False"},
        {"Captured": "True"},
        {"Captured": "True", "Available": "Unknown"},
        {"Captured": "Unknown", "Failed": "False"},
    ],
)
def test_a_capture_in_progress_is_waited_for(state):
    value = checkpoint(captured=None, state=state)
    assert waits(newcomer(), value) == 60
    assert waits(newcomer(), value, waited=59.5) == pytest.approx(0.5)
    assert fresh(newcomer(), value, waited=60) == "CaptureTooSlow"


def test_the_wait_says_for_what():
    decision = decide(newcomer(), checkpoint(**CAPTURING))
    assert decision == Wait(for_what="the capture of pod web-old (checkpoint ckpt-old)", seconds=60)


def test_a_status_that_is_not_written_yet_is_a_capture_in_progress():
    value = checkpoint()
    del value["status"]
    assert waits(newcomer(), value) == 60


# Several.


def test_the_newest_capture_goes_first():
    """An older one is left over, since a pod began anew without it and has left since."""
    values = [checkpoint(n, created=c, captured=t) for n, c, t in (("a", 1, 9), ("b", 2, 5))]
    assert claimed(newcomer(), *values) == "a"
    assert claimed(newcomer(), *values[::-1]) == "a"


def test_of_those_captured_in_the_same_second_the_newest_object_goes_first():
    values = [checkpoint(n, created=c, captured=9) for n, c in (("a", 1), ("b", 2))]
    assert claimed(newcomer(), *values) == claimed(newcomer(), *values[::-1]) == "b"


def test_of_equal_ones_the_name_decides():
    assert claimed(newcomer(), checkpoint("b"), checkpoint("a")) == "a"


def test_an_available_one_is_not_kept_waiting_for_another():
    assert claimed(newcomer(), checkpoint("a", **CAPTURING), checkpoint("b")) == "b"


def test_two_newcomers_and_one_checkpoint():
    value = checkpoint()
    first, second = newcomer(uid="n1"), newcomer(uid="n2")
    assert claimed(first, value) == claimed(second, value) == "old"
    taken = checkpoint(claimed_by="n1")
    assert claimed(first, taken) == "old"
    assert fresh(second, taken) == "Taken"


def test_the_newest_ones_reason_is_told():
    values = [
        checkpoint("a", created=1, requirements={"architecture": "arm64"}),
        checkpoint("b", created=2, template_hash="v1:b"),
        checkpoint("c", created=3, claimed_by="x"),
    ]
    assert fresh(newcomer(), *values) == fresh(newcomer(), *values[::-1]) == "TemplateDiffers"


# Ordinals: one line of succession.


def of_ordinal(name: str, created: int, **more: Any) -> Json:
    return checkpoint(name, ordinal=0, created=created, **more)


ZERO = newcomer(owner=SET, ordinal=0)


def test_of_an_ordinal_only_the_newest_counts():
    assert claimed(ZERO, of_ordinal("a", 1), of_ordinal("b", 2)) == "b"
    assert claimed(ZERO, of_ordinal("b", 2), of_ordinal("a", 1)) == "b"


@pytest.mark.parametrize(
    ("newest", "reason"),
    [
        (of_ordinal("b", 2, claimed_by="x"), "Taken"),
        (of_ordinal("b", 2, state={"Failed": "True"}), "CheckpointFailed"),
        (of_ordinal("b", 2, template_hash="v1:b"), "TemplateDiffers"),
        (of_ordinal("b", 2, state={"Captured": "True", "Available": "False"}), "NotAvailable"),
    ],
)
def test_what_has_become_of_the_newest_does_not_bring_an_older_one_back(newest, reason):
    assert fresh(ZERO, of_ordinal("a", 1), newest) == reason


def test_a_newer_capture_is_waited_for_although_an_older_one_is_there():
    assert waits(ZERO, of_ordinal("a", 1), of_ordinal("b", 2, **CAPTURING)) == 60


def test_of_two_in_one_second_the_unfinished_capture_is_the_newer_one():
    assert waits(ZERO, of_ordinal("z", 1), of_ordinal("b", 1, **CAPTURING)) == 60


def test_a_sibling_that_leaves_is_newer_than_what_was_captured_before():
    leaving = (sibling("b", deleted=3, owner=SET, ordinal=0),)
    assert waits(ZERO, of_ordinal("a", 1), siblings=leaving) == 5
    assert fresh(ZERO, of_ordinal("a", 1), siblings=leaving, waited=5) == "NoCheckpointInTime"
    assert claimed(ZERO, of_ordinal("a", 1), of_ordinal("b", 3), siblings=leaving) == "b"


# Siblings that leave.


def test_a_sibling_that_leaves_gets_its_time_to_be_captured():
    assert waits(newcomer(created=0), siblings=(sibling(deleted=0),)) == 5
    assert waits(newcomer(created=2), siblings=(sibling(deleted=0),)) == 3
    assert waits(newcomer(created=2), siblings=(sibling(deleted=0),), waited=2) == 1
    assert fresh(newcomer(created=2), siblings=(sibling(),), waited=3) == "NoCheckpointInTime"
    assert fresh(newcomer(created=60), siblings=(sibling(),)) == "NoCheckpointInTime"


def test_a_sibling_that_leaves_after_the_pod_was_created():
    """It waited for a place, and the drain made one: its time counts from its question on."""
    assert waits(newcomer(created=0), siblings=(sibling(deleted=900),)) == 5
    assert fresh(newcomer(created=0), siblings=(sibling(deleted=900),), waited=5) == (
        "NoCheckpointInTime"
    )


def test_of_several_siblings_the_last_one_decides_how_long():
    leaving = (sibling("a", deleted=0), sibling("b", deleted=2))
    assert waits(newcomer(created=3), siblings=leaving) == 4
    assert waits(newcomer(created=3), siblings=leaving[::-1]) == 4


def test_a_sibling_with_a_checkpoint_is_not_waited_for():
    taken = checkpoint("old", claimed_by="x")
    assert fresh(newcomer(), taken, siblings=(sibling("old"),)) == "Taken"
    failed = checkpoint("old", state={"Failed": "True"})
    assert fresh(newcomer(), failed, siblings=(sibling("old"),)) == "CheckpointFailed"


def test_a_sleeping_siblings_checkpoint_is_not_yet_one_for_its_successor():
    asleep = checkpoint("old", trigger=Trigger.SLEEP)
    assert waits(newcomer(created=0), asleep, siblings=(sibling("old"),)) == 5


@pytest.mark.parametrize(
    "other",
    [
        sibling(template_hash="v1:b"),
        sibling(ordinal=1),
        sibling(owner=dataclasses.replace(OWNER, uid="owner-2")),
        sibling(namespace="other"),
        sibling("new"),
    ],
)
def test_siblings_whose_memory_would_not_fit_are_not_waited_for(other):
    assert fresh(newcomer(created=0), siblings=(other,)) == "NoCheckpoint"


def test_a_checkpoint_that_does_not_fit_does_not_keep_from_waiting_for_one_that_may():
    misfit = checkpoint("a", template_hash="v1:b")
    assert waits(newcomer(created=0), misfit, siblings=(sibling("b"),)) == 5
    assert fresh(newcomer(), misfit, siblings=(sibling("b"),), waited=9) == "TemplateDiffers"


def test_an_available_checkpoint_is_claimed_though_a_sibling_leaves():
    assert claimed(newcomer(created=0), checkpoint("a"), siblings=(sibling("b"),)) == "a"


# Objects that are not what they should be.


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": []},
        {"spec": {"trigger": "Eviction", "owner": 3}},
        {"status": {"conditions": "x"}},
        {"status": {"claimedBy": {"name": "x"}}},
        {"status": {"formatVersion": "1"}},
        {"status": {"capturedAt": "soon"}},
    ],
)
def test_an_unreadable_checkpoint_is_claimed_by_nobody_and_stops_nobody(change):
    broken = {**checkpoint("x"), **change}
    assert fresh(newcomer(), broken) == "Unreadable"
    assert claimed(newcomer(), checkpoint(), broken) == "old"


@pytest.mark.parametrize(
    "requirements", [{"architecture": 3}, {"architecture": "amd64", "cpuFeatures": "avx2"}]
)
def test_requirements_that_cannot_be_read_are_not_met(requirements):
    assert fresh(newcomer(), checkpoint(requirements=requirements)) == "Unreadable"


# Claims of pods that are gone


def test_a_claim_whose_pod_is_gone_is_waited_for_and_then_given_up_aloud() -> None:
    held = checkpoint(claimed_by="gone")
    first = decide(newcomer(), held, lost=("gone",))
    assert isinstance(first, Wait)
    assert first.seconds == BOUNDS.abandoned_seconds
    assert "web-gone" in first.for_what
    late = decide(newcomer(), held, lost=("gone",), waited=BOUNDS.abandoned_seconds)
    assert isinstance(late, Fresh)
    assert late.reason == "NotGivenBack"
    assert "web-gone" in late.message
    assert claimed(newcomer(), checkpoint()) == "old"


def test_one_that_nobody_holds_goes_before_one_that_may_be_given_back() -> None:
    held, free = checkpoint("a", claimed_by="gone"), checkpoint("b", created=3, captured=4)
    assert claimed(newcomer(), held, free, lost=("gone",)) == "b"


@pytest.mark.parametrize(
    "held",
    [
        checkpoint(claimed_by="gone", template_hash="v1:other"),
        checkpoint(claimed_by="gone", state={"Captured": "True", "Available": "False"}),
        checkpoint(
            claimed_by="gone",
            state={"Captured": "True", "Available": "True", "Restored": "True"},
        ),
        checkpoint(
            claimed_by="gone", state={"Captured": "True", "Available": "True", "Failed": "True"}
        ),
    ],
)
def test_what_would_not_be_for_it_is_not_waited_for(held: Json) -> None:
    assert isinstance(decide(newcomer(), held, lost=("gone",)), Fresh)
