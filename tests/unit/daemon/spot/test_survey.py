"""What the planner is told of a node, from a store, a keeper's list and a disk as they are."""

from __future__ import annotations

from typing import Any

import pytest

from architect.api import names
from architect.api.keeper import PodState
from architect.api.policy import ContainerPolicy, Migrate, Policy, Storage
from architect.checkpoint.envelope import SHARD_BYTES
from architect.core.errors import Unavailable
from architect.daemon.observation import Refusal
from architect.daemon.reasons import Kind, Reason
from architect.daemon.spot.inputs import Pod, State

MIB = 1 << 20
OVERHEAD = 4 * MIB
OWNER = {
    **{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o"},
    "controller": True,
}


def reason(pod: Pod) -> str | None:
    return None if pod.obstacle is None else pod.obstacle.reason


def test_an_awake_pod_is_as_large_as_its_memory(node: Any) -> None:
    uid = node.runs()
    node.keeps(uid)
    node.sizes = {uid: 100 * MIB}
    assert node.survey.pods() == {
        uid: Pod(name="default/web", image_bytes=100 * MIB + OVERHEAD, state=State.AWAKE)
    }


def test_a_keeper_that_does_not_answer_leaves_what_was_known(node: Any) -> None:
    uid = node.runs()
    node.keeps(uid)
    node.sizes = {uid: 100 * MIB}
    node.survey.pods()
    node.sizes = Unavailable("no keeper")
    assert node.only().image_bytes == 100 * MIB + OVERHEAD


def test_a_sleeping_pod_is_as_large_as_its_image(node: Any) -> None:
    uid = node.runs()
    node.keeps(uid, PodState.ASLEEP, image_bytes=7 * MIB)
    node.sizes = {uid: 100 * MIB}
    found = node.only()
    assert (found.state, found.image_bytes, found.obstacle) == (State.ASLEEP, 7 * MIB, None)


def test_of_a_captured_pod_only_what_was_not_sent_is_left(node: Any) -> None:
    uid = node.runs()
    node.keeps(uid, PodState.CAPTURED)
    size = node.captures(uid)
    found = node.only()
    assert (found.state, found.image_bytes, found.sent_bytes) == (State.CAPTURED, size, size)
    node.has_sent(uid, 2)
    assert node.only().sent_bytes == size - 2 * SHARD_BYTES
    # The last shard is not a whole one.
    node.has_sent(uid, 3)
    assert (node.only().state, node.only().sent_bytes) == (State.CAPTURED, 0)
    node.stored.add(uid)
    assert node.only().state is State.STORED


def test_a_captured_pod_counts_as_long_as_it_lies_there(node: Any) -> None:
    policy = Policy(containers={"app": ContainerPolicy()}, priority=7, storage=Storage.OBJECT_STORE)
    uid = node.runs(policy=policy)
    node.keeps(uid)
    node.survey = node.surveying(default_storage=Storage.NODE)
    node.survey.pods()
    size = node.captures(uid)
    node.objects.clear()
    node.told()
    expected = Pod(name="default/web", image_bytes=size, state=State.CAPTURED, priority=7)
    assert node.only() == expected
    node.depot.drop_departure(uid)
    assert node.survey.pods() == {}
    # A daemon that starts anew knows no wishes of a pod that is gone: what is usual holds.
    node.captures(uid)
    assert node.surveying().pods()[uid].priority == 0


def test_half_a_capture_is_a_pod_of_this_node(node: Any) -> None:
    uid = node.runs()
    node.keeps(uid, PodState.CAPTURED, image_bytes=5 * MIB)
    node.leaves(uid, "captured")
    assert (node.only().state, node.only().image_bytes) == (State.ASLEEP, 5 * MIB)


def test_one_that_ran_again_after_it_was_saved_is_not_saved_twice(node: Any) -> None:
    uid = node.runs()
    node.keeps(uid)
    node.captures(uid)
    node.leaves(uid, "awake")
    assert (node.only().state, reason(node.only())) == (State.AWAKE, "RunsAgain")


def test_the_annotation_goes_before_the_class_and_the_cluster(node: Any) -> None:
    containers = {"app": ContainerPolicy()}
    uid = node.runs(policy=Policy(containers=containers, storage=Storage.NODE))
    node.objects[uid]["spec"]["priority"] = 1000
    node.told()
    node.keeps(uid)
    assert (node.only().priority, node.only().is_for_store) == (1000, False)
    node.runs(policy=Policy(containers=containers, priority=5))
    node.objects[uid]["spec"]["priority"] = 1000
    node.told()
    assert (node.only().priority, node.only().is_for_store) == (5, True)
    node.survey = node.surveying(default_storage=Storage.NODE)
    assert not node.only().is_for_store


HOST_PATH = [{"name": "data", "hostPath": {"path": "/data"}}]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ownerReferences": []}, "NoController"),
        ({"ownerReferences": [{**OWNER, "kind": "DaemonSet"}]}, "DaemonSet"),
        ({"ownerReferences": [{**OWNER, "kind": "Thing"}]}, "UnknownOwner"),
        ({"ownerReferences": [{**OWNER, "kind": "StatefulSet"}]}, "NoOrdinal"),
        (
            {"ownerReferences": [{**OWNER, "apiVersion": "batch/v1", "kind": "Job"}]},
            "JobNotIndexed",
        ),
        ({"labels": {names.FRESH: "true"}}, "Fresh"),
        (
            {"policy": Policy(containers={"app": ContainerPolicy()}, migrate=Migrate.NEVER)},
            "MigrationOff",
        ),
        ({"containers": [{"name": "app", "volumeMounts": [{"name": "data"}]}]}, "PersistentVolume"),
    ],
)
def test_what_no_time_would_help_is_named(node: Any, change: dict[str, Any], word: str) -> None:
    uid = node.runs(**change)
    node.objects[uid]["spec"]["volumes"] = HOST_PATH
    node.told()
    node.keeps(uid)
    assert reason(node.only()) == word


def test_a_deletion_is_an_obstacle_only_to_who_moves_on_eviction_only(node: Any) -> None:
    policy = Policy(containers={"app": ContainerPolicy()}, migrate=Migrate.EVICTION)
    uid = node.runs(policy=policy)
    node.keeps(uid)
    assert reason(node.only()) is None
    node.runs(policy=policy, deletionTimestamp="2030-01-01T00:00:00Z")
    assert reason(node.only()) == "DeletedOnPurpose"


def test_a_pod_of_gvisor_is_not_saved(node: Any) -> None:
    uid = node.runs()
    node.objects[uid]["spec"]["runtimeClassName"] = names.RUNTIME_CLASS_GVISOR
    node.told()
    node.keeps(uid)
    assert reason(node.only()) == "Gvisor"


def test_what_the_keeper_met_is_in_the_way(node: Any) -> None:
    uid = node.runs()
    node.keeps(uid, refused=Refusal(reason="IoUring", message="it has an io_uring"))
    found = node.only().obstacle
    assert found == ("IoUring", "it has an io_uring")
    node.keeps(uid, PodState.FAILED)
    assert reason(node.only()) == "RestoreFailed"


def test_what_was_found_before_a_first_sleep_is_in_the_way(node: Any) -> None:
    uid = node.runs()
    node.keeps(uid)
    assert reason(node.only()) is None
    found = Reason(kind=Kind.CANNOT_SLEEP, text="IoUring: it has a ring", container="app")
    node.registry.set_verdict(uid, (Reason(kind=Kind.CPU, text="busy"), found))
    assert node.only().obstacle == ("CannotSleep", "app: IoUring: it has a ring")
    node.keeps(uid, PodState.ASLEEP)
    assert reason(node.only()) is None, "it sleeps"


def test_what_has_not_begun_or_is_over_has_nothing_to_save(node: Any) -> None:
    node.runs()
    # As long as the keeper has not told its pods, nothing is known of any.
    assert reason(node.only()) is None
    node.registry.set_all([])
    assert reason(node.only()) == "NotBegun"
    node.runs(status={"phase": "Succeeded"})
    assert node.survey.pods() == {}


def test_without_an_object_store_nothing_can_be_saved(node: Any) -> None:
    running, gone = node.runs("a"), "uid-b"
    node.keeps(running)
    node.captures(gone)
    node.survey = node.surveying(has_store=False)
    found = node.survey.pods()
    assert {uid: reason(pod) for uid, pod in found.items()} == {
        running: "NoObjectStore",
        gone: "NoObjectStore",
    }


def test_the_request_has_all_that_is_known_of_the_node(node: Any) -> None:
    uid = node.runs()
    node.keeps(uid)
    asked = node.surveying(cores=16, is_store_reachable=lambda: False).request(25.0)
    assert (asked.deadline_seconds, asked.cores, asked.is_store_reachable) == (25.0, 16, False)
    assert [pod.name for pod in asked.pods] == ["default/web"]


def test_a_checkpoint_that_cannot_be_read_is_left_out(node: Any) -> None:
    (node.path / "checkpoints" / "uid-x").mkdir(parents=True)
    assert node.survey.pods() == {}
