"""Claims: a new pod takes the memory of its predecessor, waits for it, or starts fresh."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api import names
from architect.api.policy import ContainerPolicy, Migrate, Policy
from architect.core import identity
from architect.core.errors import FormatError
from architect.core.identity import Identity, Owner
from architect.daemon import claims, offers
from architect.daemon.claims import Bounds, Claim, Fresh, Newcomer, Sibling, Wait
from architect.daemon.offers import Node
from architect.kube.checkpoints import Trigger

Json = dict[str, Any]

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
START = int(EPOCH.timestamp())
NODE = Node(architecture="amd64", cpu_features=frozenset({"avx2", "sse4_2"}), criu="4.2.1")
BOUNDS = Bounds(capture_seconds=60, sibling_seconds=5, late_seconds=900)
OWNER = Owner(api_version="apps/v1", kind="ReplicaSet", name="web", uid="owner-1")
SET = Owner(api_version="apps/v1", kind="StatefulSet", name="web", uid="owner-1")
HASH = "v1:" + "a" * 64


def at(seconds: int) -> str:
    return (EPOCH + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def newcomer(
    *,
    owner: Owner = OWNER,
    ordinal: int | None = None,
    template_hash: str = HASH,
    created: int = 1,
    **more: Any,
) -> Newcomer:
    given: Json = {
        "namespace": "shop",
        "name": "web-new",
        "uid": "new",
        "created": START + created,
        "identity": Identity(
            namespace="shop", owner=owner, ordinal=ordinal, template_hash=template_hash
        ),
        "containers": frozenset({"app"}),
        **more,
    }
    return Newcomer(**given)


def sibling(uid: str = "old", *, deleted: int = 0, **identity_changes: Any) -> Sibling:
    who = newcomer().identity
    assert who is not None
    return Sibling(
        uid=uid,
        name=f"web-{uid}",
        identity=dataclasses.replace(who, **identity_changes),
        deleted=START + deleted,
    )


def conditions(**statuses: str) -> list[Json]:
    return [
        {"type": t, "status": s, "reason": f"{t}Reason", "message": f"{t} because"}
        for t, s in statuses.items()
    ]


def checkpoint(
    name: str = "old",
    *,
    namespace: str = "shop",
    owner: str = "owner-1",
    ordinal: int | None = None,
    template_hash: str = HASH,
    trigger: Trigger = Trigger.EVICTION,
    containers: tuple[str, ...] = ("app",),
    created: int = 0,
    captured: int | None = 2,
    claimed_by: str = "",
    state: Json | None = None,
    requirements: Json | None = None,
    parts: Json | None = None,
    **status: Any,
) -> Json:
    """Return a Checkpoint as the API has it: by default captured, available and unclaimed."""
    spec: Json = {
        "podRef": {"name": f"web-{name}", "uid": name},
        "owner": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": owner},
        "templateHash": template_hash,
        "trigger": trigger.value,
        "containers": list(containers),
    }
    if ordinal is not None:
        spec["owner"]["ordinal"] = ordinal
    if parts is not None:
        spec[offers.TEMPLATE_PARTS] = parts
    shown = {"Captured": "True", "Available": "True"} if state is None else state
    found: Json = {"conditions": conditions(**shown), **status}
    if captured is not None:
        found |= {
            "capturedAt": at(captured),
            "formatVersion": 1,
            "requirements": requirements
            or {
                "architecture": "amd64",
                "cpuFeatures": ["avx2"],
                "criu": "4.2",
                "kernel": "6.1.0",
            },
        }
    if claimed_by:
        found["claimedBy"] = {"name": f"web-{claimed_by}", "uid": claimed_by, "node": "n"}
    return {
        "apiVersion": "architect.dev/v1alpha1",
        "kind": "Checkpoint",
        "metadata": {
            "name": f"ckpt-{name}",
            "namespace": namespace,
            "uid": f"uid-{name}",
            "resourceVersion": f"7{len(name)}",
            "creationTimestamp": at(created),
        },
        "spec": spec,
        "status": found,
    }


CAPTURING: Json = {"captured": None, "state": {"Captured": "Unknown"}}


def decide(
    who: Newcomer,
    *found: Json,
    siblings: tuple[Sibling, ...] = (),
    waited: float = 0.0,
    node: Node = NODE,
    bounds: Bounds = BOUNDS,
) -> claims.Decision:
    return claims.decide(
        who, node=node, found=found, siblings=siblings, waited_seconds=waited, bounds=bounds
    )


def claimed(who: Newcomer, *found: Json, **more: Any) -> str:
    decision = decide(who, *found, **more)
    assert isinstance(decision, Claim), decision
    value = next(v for v in found if v["metadata"]["uid"] == decision.uid)
    assert decision.name == value["metadata"]["name"]
    assert decision.resource_version == value["metadata"]["resourceVersion"]
    return decision.name.removeprefix("ckpt-")


def fresh(who: Newcomer, *found: Json, **more: Any) -> str:
    decision = decide(who, *found, **more)
    assert isinstance(decision, Fresh), decision
    assert decision.message
    return decision.reason


def message(who: Newcomer, *found: Json, **more: Any) -> str:
    decision = decide(who, *found, **more)
    assert isinstance(decision, Fresh), decision
    return decision.message


def waits(who: Newcomer, *found: Json, **more: Any) -> float:
    decision = decide(who, *found, **more)
    assert isinstance(decision, Wait), decision
    assert decision.for_what
    return decision.seconds


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


# The template.


def test_another_template_is_told_by_what_differs():
    theirs = {"container app: image": "1", "container app: env": "2", "volume data": "3"}
    ours = {"container app: image": "9", "container app: env": "2"}
    value = checkpoint(template_hash="v1:" + "b" * 64, parts=theirs)
    assert fresh(newcomer(parts=ours), value) == "TemplateDiffers"
    assert message(newcomer(parts=ours), value) == (
        "checkpoint ckpt-old: the pod's template differs: container app: image, volume data"
    )


def test_without_the_parts_the_hashes_are_named():
    text = message(newcomer(), checkpoint(template_hash="v1:" + "b" * 64))
    assert "v1:bbbbbbbbbbbb instead of v1:aaaaaaaaaaaa" in text


def test_many_differences_are_counted():
    theirs = {f"volume v{n:02}": "1" for n in range(12)}
    text = message(newcomer(), checkpoint(template_hash="v1:b", parts=theirs))
    assert text.endswith("volume v07 and 4 more")


@pytest.mark.parametrize("other", ["v2:" + "a" * 64, "", "a" * 64])
def test_hashes_of_two_versions_say_nothing_about_each_other(other):
    assert fresh(newcomer(), checkpoint(template_hash=other)) == "TemplateHashVersion"


def test_other_managed_containers_are_named():
    value = checkpoint(containers=("app", "side"))
    assert fresh(newcomer(), value) == "ContainersDiffer"
    assert "side" in message(newcomer(), value)


def test_a_capture_of_another_template_is_not_waited_for():
    assert fresh(newcomer(), checkpoint(template_hash="v1:b", **CAPTURING)) == "TemplateDiffers"


# The node.


def needing(**requirements: Any) -> Json:
    whole = {"architecture": "amd64", "cpuFeatures": ["avx2"], "criu": "4.2", "kernel": "6.1.0"}
    return checkpoint(requirements={**whole, **requirements})


@pytest.mark.parametrize(
    ("value", "reason", "named"),
    [
        (needing(architecture="arm64"), "Architecture", "arm64"),
        (needing(cpuFeatures=["avx2", "avx512f"]), "CpuFeatures", "avx512f"),
        (needing(criu="4.1.9"), "CriuVersion", "4.1.9"),
        (needing(criu="5.2"), "CriuVersion", "5.2"),
        (needing(criu="4.20"), "CriuVersion", "4.20"),
        (needing(criu="unknown"), "CriuVersion", "unknown"),
        (checkpoint(formatVersion=2), "FormatVersion", "version 2"),
        (needing(architecture=None), "RequirementsUnknown", "architecture"),
        (needing(cpuFeatures=[]), "RequirementsUnknown", "CPU features"),
        (needing(criu=""), "RequirementsUnknown", "CRIU"),
    ],
)
def test_what_the_node_lacks_is_told_by_name(value, reason, named):
    if reason == "FormatVersion":
        value["status"]["formatVersion"] = 2
    assert fresh(newcomer(), value) == reason
    assert named in message(newcomer(), value)


def test_a_format_that_nobody_recorded_is_not_guessed():
    value = checkpoint()
    del value["status"]["formatVersion"]
    assert fresh(newcomer(), value) == "RequirementsUnknown"


@pytest.mark.parametrize("criu", ["4.2", "4.2.0", "4.2.9", "v4.2.1", "Version: 4.2.1\nGitID: v4"])
def test_a_patch_release_of_criu_does_not_matter(criu):
    assert claimed(newcomer(), needing(criu=criu)) == "old"


def test_the_kernel_is_recorded_and_not_compared():
    assert claimed(newcomer(), needing(kernel="9.9.9")) == "old"


def test_a_node_with_more_than_is_needed_restores():
    node = Node(
        architecture="amd64",
        cpu_features=frozenset({"avx2", "avx512f", "x"}),
        criu="4.2",
        format_versions=frozenset({1, 2}),
    )
    assert claimed(newcomer(), needing(cpuFeatures=["avx2", "x"]), node=node) == "old"


def test_a_node_whose_criu_is_unknown_restores_nothing():
    node = dataclasses.replace(NODE, criu="?")
    assert fresh(newcomer(), checkpoint(), node=node) == "CriuVersion"
    assert fresh(newcomer(), needing(criu="?"), node=node) == "CriuVersion"


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


def test_the_oldest_capture_goes_first():
    values = [checkpoint(n, created=c, captured=t) for n, c, t in (("a", 1, 9), ("b", 2, 5))]
    assert claimed(newcomer(), *values) == "b"
    assert claimed(newcomer(), *values[::-1]) == "b"


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


# Read from pods.


MANAGED = Policy(containers={"app": ContainerPolicy()})


def pod(
    *,
    policy: Policy | str | None = MANAGED,
    kind: str = "ReplicaSet",
    labels: Json | None = None,
    deleted: int | None = None,
    **spec: Any,
) -> Json:
    metadata: Json = {
        "name": "web-0",
        "namespace": "shop",
        "uid": "u",
        "creationTimestamp": at(7),
        "labels": labels or {},
        "annotations": {},
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": "o", "controller": True}
        ],
    }
    if isinstance(policy, Policy):
        metadata["annotations"][names.POLICY] = policy.to_json()
    elif policy is not None:
        metadata["annotations"][names.POLICY] = policy
    if deleted is not None:
        metadata |= {"deletionTimestamp": at(deleted + 30), "deletionGracePeriodSeconds": 30}
    containers = [{"name": "app", "image": "i"}, {"name": "side", "image": "i"}]
    return {
        "metadata": metadata,
        "spec": {"containers": containers, **spec},
        "status": {"phase": "Running"},
    }


def wish(value: Json) -> str | None:
    found = claims.newcomer_of(value, has_started=False).wish
    return found.reason if found else None


def managing(**more: Any) -> Policy:
    return Policy(containers={"app": ContainerPolicy(), "gone": ContainerPolicy()}, **more)


def test_a_newcomer_is_read_from_its_pod():
    value = pod(policy=managing())
    found = claims.newcomer_of(value, has_started=True)
    assert found == Newcomer(
        namespace="shop",
        name="web-0",
        uid="u",
        created=START + 7,
        identity=identity.identity_of(value),
        containers=frozenset({"app"}),
        parts=identity.parts(value),
        has_started=True,
    )
    assert claims.never(found) is None


def test_a_newcomers_wish_is_in_its_policy_and_label():
    assert wish(pod()) is None
    assert wish(pod(policy=managing(migrate=Migrate.EVICTION))) is None
    assert wish(pod(policy=managing(migrate=Migrate.NEVER))) == "MigrationOff"
    assert wish(pod(policy=managing(start_from="warm"))) == "StartFrom"
    assert wish(pod(labels={names.FRESH: "true"})) == "Fresh"
    assert wish(pod(labels={names.FRESH: "no"})) is None


@pytest.mark.parametrize("policy", [None, "x", '{"version": 99}', Policy()])
def test_a_pod_without_a_readable_policy_is_not_managed(policy):
    told = claims.never(claims.newcomer_of(pod(policy=policy), has_started=False))
    assert told is not None
    assert told.reason == "NotManaged"
    assert claims.sibling_of(pod(policy=policy, deleted=0)) is None


def test_a_sibling_is_read_from_its_pod():
    value = pod(deleted=3)
    assert claims.sibling_of(value) == Sibling(
        uid="u",
        name="web-0",
        identity=claims.newcomer_of(value, has_started=False).identity or pytest.fail("none"),
        deleted=START + 3,
    )


def ownerless() -> Json:
    value = pod(deleted=3)
    value["metadata"]["ownerReferences"] = []
    return value


def ended() -> Json:
    return {**pod(deleted=3), "status": {"phase": "Succeeded"}}


def with_claim() -> Json:
    claim = {"name": "d", "persistentVolumeClaim": {"claimName": "c"}}
    value = pod(deleted=3, volumes=[claim])
    value["spec"]["containers"][0]["volumeMounts"] = [{"name": "d", "mountPath": "/d"}]
    return value


@pytest.mark.parametrize(
    "value",
    [
        pod(),
        ownerless(),
        ended(),
        with_claim(),
        pod(deleted=3, policy=managing(migrate=Migrate.NEVER)),
        pod(deleted=3, policy=managing(migrate=Migrate.EVICTION)),
        pod(deleted=3, labels={names.FRESH: "true"}),
        pod(deleted=3, policy=Policy(containers={"gone": ContainerPolicy()})),
    ],
)
def test_a_pod_that_will_not_be_captured_is_no_sibling_to_wait_for(value):
    assert claims.sibling_of(value) is None


def test_an_evicted_pod_is_captured_if_evictions_migrate():
    value = pod(deleted=3, policy=managing(migrate=Migrate.EVICTION))
    value["status"]["conditions"] = [
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    ]
    assert claims.sibling_of(value) is not None


@pytest.mark.parametrize("value", [{}, {"metadata": {"name": "x"}}, {"metadata": []}])
def test_what_is_no_pod_is_a_format_error(value):
    with pytest.raises(FormatError):
        claims.newcomer_of(value, has_started=False)


# Properties.


@st.composite
def states(draw: st.DrawFn) -> Json:
    kinds = ("Captured", "Available", "Claimed", "Restored", "Failed")
    return {
        k: draw(st.sampled_from(["True", "False", "Unknown"])) for k in kinds if draw(st.booleans())
    }


@st.composite
def any_checkpoints(draw: st.DrawFn, *, ordinals: tuple[int | None, ...]) -> list[Json]:
    found = []
    for name in draw(st.lists(st.sampled_from("abcdefgh"), max_size=5, unique=True)):
        found.append(
            checkpoint(
                name,
                namespace=draw(st.sampled_from(["shop", "shop", "shop", "other"])),
                owner=draw(st.sampled_from(["owner-1", "owner-1", "owner-1", "owner-2"])),
                ordinal=draw(st.sampled_from(ordinals)),
                template_hash=draw(st.sampled_from([HASH, HASH, HASH, "v1:b", "", "v2:a"])),
                trigger=draw(st.sampled_from([Trigger.EVICTION, Trigger.EVICTION, *Trigger])),
                created=draw(st.integers(-2000, 20)),
                captured=draw(st.none() | st.integers(0, 20)),
                claimed_by=draw(st.sampled_from(["", "", "", "new", "another"])),
                state=draw(st.none() | states()),
                requirements=draw(
                    st.none()
                    | st.fixed_dictionaries(
                        {
                            "architecture": st.sampled_from(["amd64", "arm64"]),
                            "cpuFeatures": st.sampled_from([["avx2"], ["avx512f"], []]),
                            "criu": st.sampled_from(["4.2.7", "4.1"]),
                        }
                    )
                ),
            )
        )
    return found


@st.composite
def any_siblings(draw: st.DrawFn, *, ordinals: tuple[int | None, ...]) -> tuple[Sibling, ...]:
    uids = draw(st.lists(st.sampled_from("abcdefghij"), max_size=3, unique=True))
    return tuple(
        sibling(
            uid,
            deleted=draw(st.integers(-100, 20)),
            ordinal=draw(st.sampled_from(ordinals)),
            template_hash=draw(st.sampled_from([HASH, "v1:b"])),
        )
        for uid in uids
    )


@st.composite
def cases(draw: st.DrawFn) -> Json:
    ordinal = draw(st.sampled_from([None, 0]))
    ordinals = (None, None, 0) if ordinal is None else (0, 0, 1, None)
    return {
        "who": newcomer(
            owner=OWNER if ordinal is None else SET,
            ordinal=ordinal,
            created=draw(st.integers(-10, 20)),
            has_started=draw(st.sampled_from([False, False, False, True])),
        ),
        "found": draw(any_checkpoints(ordinals=ordinals)),
        "siblings": draw(any_siblings(ordinals=ordinals)),
        "waited": draw(st.floats(0, 100)),
    }


def run(case: Json, **more: Any) -> claims.Decision:
    case = {**case, **more}
    return decide(case["who"], *case["found"], siblings=case["siblings"], waited=case["waited"])


@given(case=cases())
def test_only_what_is_the_pods_own_is_ever_claimed(case):
    decision = run(case)
    if not isinstance(decision, Claim):
        return
    value = next(v for v in case["found"] if v["metadata"]["name"] == decision.name)
    who, spec, status = case["who"], value["spec"], value["status"]
    shown = {c["type"]: c["status"] for c in status["conditions"]}
    assert value["metadata"]["namespace"] == who.namespace
    assert spec["owner"]["uid"] == who.identity.owner.uid
    assert spec["owner"].get("ordinal") == who.identity.ordinal
    assert spec["templateHash"] == who.identity.template_hash
    assert spec["trigger"] not in ("Sleep", "Request")
    assert spec["podRef"]["uid"] != who.uid
    assert status.get("claimedBy", {"uid": "new"})["uid"] == "new"
    assert shown.get("Restored") != "True"
    assert shown.get("Failed") != "True"
    if "claimedBy" not in status:
        assert shown.get("Available") == "True"
        assert status["requirements"]["architecture"] == "amd64"
        assert set(status["requirements"]["cpuFeatures"]) <= NODE.cpu_features
        assert not who.has_started


@given(case=cases(), source=st.randoms(use_true_random=False))
def test_the_order_of_lists_means_nothing_and_nothing_given_is_changed(
    case: Json, source: random.Random
):
    before = copy.deepcopy(case["found"])
    decision = run(case)
    assert run(case) == decision
    assert case["found"] == before
    found, siblings = list(case["found"]), list(case["siblings"])
    source.shuffle(found)
    source.shuffle(siblings)
    for value in found:
        source.shuffle(value["status"]["conditions"])
    assert run(case, found=found, siblings=tuple(siblings)) == decision


@given(case=cases())
def test_every_wait_is_bounded(case):
    longest = max(BOUNDS.capture_seconds, BOUNDS.sibling_seconds)
    decision = run(case)
    if isinstance(decision, Wait):
        assert 0 < decision.seconds <= longest - case["waited"]
        later = run(case, waited=case["waited"] + decision.seconds + 1e-6)
        assert not isinstance(later, Wait)
    assert not isinstance(run(case, waited=longest), Wait)


@given(case=cases())
def test_a_claimed_checkpoint_is_never_claimed_by_another(case):
    """Newcomers come one after the other, and each writes its claim."""
    found = case["found"]
    taken: dict[str, str] = {}
    for uid in ("n1", "n2", "n3", "n1", "n4"):
        who = dataclasses.replace(case["who"], uid=uid, name=f"web-{uid}", has_started=False)
        decision = run(case, who=who)
        if isinstance(decision, Claim):
            assert taken.setdefault(decision.name, uid) == uid
            value = next(v for v in found if v["metadata"]["name"] == decision.name)
            value["status"]["claimedBy"] = {"name": who.name, "uid": uid, "node": "n"}
            assert run(case, who=who) == decision
    assert len(set(taken.values())) == len(taken)


@given(count=st.integers(1, 8), newcomers=st.integers(1, 8))
def test_as_many_pods_are_restored_as_were_captured(count, newcomers):
    """Twenty pods drained at once: each new one gets another's memory, until there is none."""
    found = [checkpoint(f"c{n}", captured=n) for n in range(count)]
    got = []
    for n in range(newcomers):
        decision = decide(newcomer(uid=f"n{n}"), *found)
        if isinstance(decision, Claim):
            got.append(decision.name)
            value = next(v for v in found if v["metadata"]["name"] == decision.name)
            value["status"]["claimedBy"] = {"name": "x", "uid": f"n{n}", "node": "n"}
    assert got == [f"ckpt-c{n}" for n in range(min(count, newcomers))]


@given(case=cases())
def test_an_ordinal_never_goes_back_behind_its_newest_checkpoint(case):
    decision = run(case)
    who = case["who"]
    if who.identity.ordinal is None or not isinstance(decision, Claim):
        return
    line = [
        v
        for v in case["found"]
        if v["metadata"]["namespace"] == "shop"
        and v["spec"]["owner"]["uid"] == "owner-1"
        and v["spec"]["owner"].get("ordinal") == 0
        and v["spec"]["trigger"] in offers.MIGRATIONS
    ]
    value = next(v for v in line if v["metadata"]["name"] == decision.name)
    if "claimedBy" not in value["status"]:
        created = [v["metadata"]["creationTimestamp"] for v in line]
        assert value["metadata"]["creationTimestamp"] == max(created)
