"""A node's disk holds no more saved pods than it may, and who goes is said before it goes."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from architect.core.errors import NodeError, Unavailable
from architect.kube.resources import CHECKPOINTS

Json = dict[str, Any]


def size_of(node: Any, name: str) -> int:
    return int(node.checkpoint(name)["status"]["bytes"])


def bound(node: Any, pods: float) -> None:
    """Let so many pods, which are of one size, lie on the disk from now on."""
    size = size_of(node, "one")
    node.quota_bytes = int(size * pods)
    node.has_store = False
    node.restart()
    node.watched()


def says(node: Any, name: str, type_: str, status: str, reason: str = "R") -> None:
    kept = node.checkpoint(name)["status"]["conditions"]
    kept[:] = [c for c in kept if c["type"] != type_]
    kept.append({"type": type_, "status": status, "reason": reason, "message": ""})


def claimed(world: Any, name: str, *, node: str = "node2") -> None:
    by = {"name": "new", "uid": "uid-new", "node": node}
    world.checkpoint(name)["status"]["claimedBy"] = by


def counted(node: Any, reason: str) -> float:
    return float(node.metrics.saved_removed.labels(reason)._value.get())


@pytest.fixture
def two(node: Any) -> Any:
    node.saved("one")
    node.saved("two")
    return node


def whole(node: Any) -> list[str]:
    return [name.removeprefix("checkpoints/uid-") for name in node.files()]


def test_without_a_bound_all_stay_and_are_counted(two: Any) -> None:
    two.watched()
    two.upkeep.run()
    assert whole(two) == ["one", "two"]
    assert two.metrics.saved_pods._value.get() == 2
    assert two.metrics.saved_bytes._value.get() == size_of(two, "one") + size_of(two, "two")
    assert two.told == []


def test_who_is_awaited_stays_though_it_is_too_much(two: Any) -> None:
    bound(two, 0.5)
    two.upkeep.run()
    assert whole(two) == ["one", "two"]
    assert two.conditions("one")["Available"] == "True OnPeer"


def test_the_oldest_that_hardly_anybody_can_have_goes_and_that_is_said(two: Any) -> None:
    bound(two, 1.5)
    two.passes(901)
    two.upkeep.run()
    assert whole(two) == ["two"]
    assert two.conditions("one")["Available"] == "False OverQuota"
    ((name, reason, text),) = two.told
    assert (name, reason) == (two.checkpoint("one")["metadata"]["name"], "Expired")
    assert text.startswith("removed: 2 saved pods of")
    assert "daemon.migration.quota" in text
    assert counted(two, "OverQuota") == 1
    assert two.metrics.saved_pods._value.get() == 1
    two.pod("new", is_running=False)
    assert two.arriving("new")["restore"] is True, "the other one is there for it"


def test_who_comes_late_for_one_that_went_starts_fresh_and_knows_why(node: Any) -> None:
    node.saved("one")
    node.pod("new", is_running=False)
    bound(node, 0.5)
    node.passes(901)
    node.upkeep.run()
    assert node.files() == []
    answer = node.arriving("new")
    assert (answer["restore"], answer["reason"]) == (False, "NotAvailable")


def test_one_that_lies_in_the_object_store_goes_first_and_is_available_there(two: Any) -> None:
    bound(two, 1.5)
    two.passes(901)  # the other one is missed by hardly anybody, and yet by more
    says(two, "two", "Stored", "True", "Stored")
    two.upkeep.run()
    assert whole(two) == ["one"]
    assert two.conditions("two")["Available"] == "True InStore"
    assert two.told == [], "nothing is lost"
    assert (counted(two, "InStore"), counted(two, "OverQuota")) == (1, 0)
    two.upkeep.run()
    assert two.conditions("two")["Available"] == "True InStore", "it is not lost"


def test_one_that_its_claimants_node_has_goes_and_that_is_said(two: Any) -> None:
    bound(two, 1.5)
    claimed(two, "two")
    says(two, "two", "Restored", "Unknown", "Restoring")
    two.upkeep.run()
    assert whole(two) == ["one"]
    assert two.conditions("two")["Available"] == "False OverQuota"
    assert [reason for _, reason, _ in two.told] == ["Expired"]


def test_one_that_the_object_store_has_as_well_is_available_if_it_is_given_back(two: Any) -> None:
    bound(two, 1.5)
    claimed(two, "two")
    says(two, "two", "Restored", "Unknown", "Restoring")
    says(two, "two", "Stored", "True", "Stored")
    two.upkeep.run()
    assert whole(two) == ["one"]
    assert two.conditions("two")["Available"] == "True InStore"
    assert two.told == []


def test_one_that_was_given_back_here_and_does_not_say_so_yet_stays(two: Any) -> None:
    bound(two, 1.5)
    claimed(two, "two", node="node1")
    says(two, "two", "Restored", "Unknown", "Restoring")
    two.room.keep()
    assert whole(two) == ["one", "two"]


def test_one_that_is_being_fetched_stays(two: Any) -> None:
    bound(two, 1.5)
    for name in ("one", "two"):
        claimed(two, name)
    two.passes(901)
    two.upkeep.run()
    assert whole(two) == ["one", "two"]


def test_one_whose_pod_has_not_ended_stays(two: Any) -> None:
    bound(two, 0.5)
    for name in ("one", "two"):
        says(two, name, "Stored", "True", "Stored")
    two.pod("one")
    two.watched("one")
    two.room.keep()
    assert whole(two) == ["one"]


def test_who_has_claimed_it_meanwhile_keeps_it(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(two, 0.5)
    two.passes(901)
    find, api = two.api.find, two.api

    def and_then_it_is_claimed(ref: Any) -> Any:
        found = find(ref)
        if found is not None and ref.name == two.checkpoint("one")["metadata"]["name"]:
            there = two.checkpoint("one")
            there["metadata"]["resourceVersion"] = "99999"
            claimed(two, "one")
        return found

    monkeypatch.setattr(api, "find", and_then_it_is_claimed)
    two.room.keep()
    assert whole(two) == ["one"]
    assert two.conditions("one")["Available"] == "True OnPeer"


def test_nothing_goes_while_nobody_can_be_asked_or_told(two: Any) -> None:
    bound(two, 0.5)
    two.passes(901)
    two.cluster.failures.append(lambda r: Unavailable("503"))
    two.room.keep()
    two.cluster.failures[:] = [lambda r: Unavailable("503") if r.method == "PATCH" else None]
    two.room.keep()
    assert whole(two) == ["one", "two"]
    two.cluster.failures.clear()
    two.room.keep()
    assert whole(two) == []


# Who leaves


def test_who_has_no_room_is_not_frozen_and_gets_its_signal(node: Any) -> None:
    node.saved("one")
    bound(node, 1)
    node.pod("old")
    node.delete("old")
    answer = node.leaving("old")
    assert (answer["captured"], answer["reason"]) == (False, "OverQuota")
    assert node.keeper.ops("capture") == 1, "of the first one"
    assert node.conditions("old")["Captured"] == "False OverQuota"
    assert ("old", "CaptureFailed") in node.notes
    assert whole(node) == ["one"]
    assert node.metrics.failures.labels("capture", "OverQuota")._value.get() == 1


def test_who_turns_out_to_be_too_large_is_woken_and_nothing_of_it_stays(node: Any) -> None:
    node.saved("one")
    bound(node, 1.5)
    node.pod("old")
    node.delete("old")
    assert node.leaving("old")["reason"] == "OverQuota"
    assert node.keeper.ops("capture") == 2
    assert node.keeper.ops("depart") == 1, "of the first one"
    assert node.keeper.ops("wake") == 1
    assert whole(node) == ["one"]


def test_nobody_is_lost_for_one_that_turns_out_to_be_too_large(two: Any) -> None:
    """The smaller one of them could go, before the size is known."""
    bound(two, 1.9)
    two.passes(901)
    claimed(two, "two")  # and is being fetched
    two.room.check("uid-old")
    with pytest.raises(NodeError), two.room.admitting("uid-old", size_of(two, "one")):
        raise AssertionError
    assert whole(two) == ["one", "two"]
    assert two.told == []


def test_room_is_made_for_who_leaves(node: Any) -> None:
    node.saved("one")
    bound(node, 1.5)
    says(node, "one", "Stored", "True", "Stored")
    node.pod("old")
    node.delete("old")
    assert node.leaving("old")["captured"] is True
    assert whole(node) == ["old"]
    assert node.conditions("one")["Available"] == "True InStore"


def test_who_leaves_while_nobody_can_be_asked_has_the_room_that_there_is(node: Any) -> None:
    node.saved("one")
    bound(node, 1.5)
    says(node, "one", "Stored", "True", "Stored")
    node.cluster.failures.append(lambda _: Unavailable("503"))
    with pytest.raises(NodeError, match=r"1 saved pods of .* lie on node node1") as caught:
        node.room.check("uid-old")
        with node.room.admitting("uid-old", size_of(node, "one")):
            raise AssertionError
    assert caught.value.reason == "OverQuota"


def test_of_two_that_leave_at_once_the_second_knows_of_the_first(node: Any) -> None:
    node.saved("one")
    bound(node, 2.5)
    node.keeper.gate = threading.Event()
    for name in ("aaa", "bbb"):
        node.pod(name)
        node.delete(name)
    jobs = [node.departures._job(node.ref(name)) for name in ("aaa", "bbb")]
    node.until(lambda: node.keeper.ops("capture") == 3)
    node.keeper.gate.set()
    outcomes = [job.result(20) for job in jobs]
    assert sorted(outcome.reason for outcome in outcomes) == ["Captured", "OverQuota"]
    assert len(whole(node)) == 2


def test_one_that_is_given_its_name_while_it_is_looked_for_counts(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.saved("one")
    bound(node, 1.5)
    half = node.state / "checkpoints/uid-one.partial"
    (node.state / "checkpoints/uid-one").rename(half)
    listed = node.depot.half_departures

    def listed_then_named() -> Any:
        found = listed()
        half.rename(half.with_suffix(""))
        return found

    monkeypatch.setattr(node.depot, "half_departures", listed_then_named)
    with pytest.raises(NodeError), node.room.admitting("uid-new", size_of(node, "one")):
        raise AssertionError


def test_what_an_attempt_before_has_left_does_not_count(node: Any) -> None:
    node.saved("one")
    bound(node, 2.5)
    half = node.state / "checkpoints/uid-old.partial"
    (node.state / "checkpoints/uid-one").rename(half)
    with node.room.admitting("uid-old", node.quota_bytes):
        pass
    with pytest.raises(NodeError), node.room.admitting("uid-new", node.quota_bytes):
        raise AssertionError


def test_the_event_is_on_the_checkpoint(node: Any) -> None:
    node.saved("one")
    bound(node, 0.5)
    node.passes(901)
    seen: list[Any] = []
    node.room._tell = lambda where, note: seen.append((where, note))
    node.room.keep()
    ((where, note),) = seen
    assert where.resource is CHECKPOINTS
    assert where.uid == node.checkpoint("one")["metadata"]["uid"]
    assert note.event_type.value == "Warning"
