"""Nothing stays half done, whenever a daemon ended."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from architect.api.keeper import PodState
from architect.core.errors import Unavailable
from architect.daemon.moves import upkeep
from architect.daemon.moves.announcing import Announcing
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.upkeep import Half, Listed, Saved

Json = dict[str, Any]


def checkpoint(node: str = "node1", trigger: str = "Eviction", **conditions: str) -> Json:
    return {
        "spec": {"trigger": trigger},
        "status": {
            "location": {"peer": {"node": node, "id": "uid-old"}},
            "conditions": [{"type": t, "status": s} for t, s in conditions.items()],
        },
    }


@pytest.mark.parametrize(
    ("is_complete", "has_left", "decision"),
    [
        (True, True, Half.FINISH),
        (True, False, Half.REMOVE),  # it was woken, and has gone on since
        (False, True, Half.REMOVE),
        (False, False, Half.REMOVE),
    ],
)
def test_half_a_departure(is_complete: bool, has_left: bool, decision: Half) -> None:
    assert upkeep.decide_half(is_complete=is_complete, has_left=has_left) is decision


@pytest.mark.parametrize(
    ("value", "age", "decision"),
    [
        (None, 0, Saved.REMOVE),
        (checkpoint(Captured="True", Restored="True"), 0, Saved.REMOVE),
        (checkpoint(Captured="Unknown"), 0, Saved.PUBLISH),
        (checkpoint(), 0, Saved.PUBLISH),
        (checkpoint(Captured="True", Available="True"), 0, Saved.KEEP),
        (checkpoint(Captured="True", Failed="True"), 0, Saved.KEEP),
        (checkpoint(Captured="True", Available="True"), 3601, Saved.EXPIRE),
        (checkpoint(Captured="Unknown"), 3601, Saved.EXPIRE),
        (checkpoint(Captured="True", Restored="True"), 3601, Saved.REMOVE),
    ],
)
def test_a_saved_pod(value: Json | None, age: float, decision: Saved) -> None:
    def decide(*, is_working: bool) -> Saved:
        return upkeep.decide_saved(value, age_seconds=age, ttl_seconds=3600, is_working=is_working)

    assert decide(is_working=False) is decision
    assert decide(is_working=True) is Saved.KEEP


@pytest.mark.parametrize(
    ("value", "is_here", "age", "decision"),
    [
        (checkpoint(Captured="Unknown"), False, 0, Listed.CUT),
        (checkpoint(Captured="Unknown"), True, 0, Listed.KEEP),
        (checkpoint(Captured="True", Available="True"), False, 0, Listed.LOST),
        (checkpoint(Captured="True", Available="True"), True, 0, Listed.KEEP),
        (checkpoint(Captured="True", Available="False"), False, 0, Listed.KEEP),
        (checkpoint(Captured="True", Available="False"), False, 7201, Listed.REMOVE),
        (checkpoint(Captured="False", Failed="True"), False, 7201, Listed.REMOVE),
        (checkpoint(Captured="False", Failed="True"), False, 0, Listed.KEEP),
        (checkpoint("node2", Captured="Unknown"), False, 7201, Listed.KEEP),
        (checkpoint("node2", Captured="Unknown"), False, 10801, Listed.REMOVE),
        (checkpoint(trigger="Sleep", Captured="Unknown"), False, 99999, Listed.KEEP),
        (checkpoint(trigger="Request", Captured="Unknown"), False, 99999, Listed.KEEP),
    ],
)
def test_a_checkpoint(value: Json, is_here: bool, age: float, decision: Listed) -> None:
    def decide(*, is_working: bool = False, is_leaving: bool = False) -> Listed:
        return upkeep.decide_listed(
            value,
            node="node1",
            is_here=is_here,
            is_working=is_working,
            is_leaving=is_leaving,
            age_seconds=age,
            ttl_seconds=3600,
        )

    assert decide(is_working=False) is decision
    if decision in (Listed.CUT, Listed.LOST):
        assert decide(is_working=True) is Listed.KEEP
    if decision is Listed.CUT:
        assert decide(is_leaving=True) is Listed.KEEP


def test_one_that_was_moved_to_a_pod_of_the_same_node_is_not_lost(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.watched("new")
    assert node.upkeep.run() is True
    assert node.conditions("old")["Available"] == "True OnPeer"
    assert node.files() == ["arrivals/uid-new", "arrivals/uid-new.json"]


def test_nothing_is_decided_before_the_pods_are_known(node: Any) -> None:
    node.saved()
    assert node.upkeep.run() is False
    assert node.files() == ["checkpoints/uid-old"]


@pytest.mark.parametrize("op", ["finish", "publish"])
def test_a_daemon_that_ended_after_the_pod_had_left_is_finished(
    node: Any, monkeypatch: pytest.MonkeyPatch, op: str
) -> None:
    node.has_store = False
    node.restart()

    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        if op == "finish":
            patched.setattr(Depot, "finish_departure", killed)
        else:
            patched.setattr(Announcing, "publish", killed)
        node.pod("old")
        node.delete("old")
        job = node.departures._job(node.ref("old"))
        node.until(job.done)
    assert node.conditions("old") == {"Captured": "Unknown Capturing"}
    node.restart()
    node.gone("old")
    node.watched()
    node.upkeep.run()
    assert node.conditions("old") == {"Captured": "True Captured", "Available": "True OnPeer"}
    assert node.checkpoint("old")["status"]["bytes"] > 0
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True


def test_what_a_daemon_of_another_version_saved_is_published_as_it_is(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Announcing, "publish", lambda *_, **__: None)
    node.pod("old")
    node.delete("old")
    assert node.departures._job(node.ref("old")).result(20).is_captured
    file = node.state / "checkpoints/uid-old/manifest.json"
    file.write_text(file.read_text().replace('"formatVersion":2', '"formatVersion":7'))
    node.restart()
    node.gone("old")
    node.watched()
    node.upkeep.run()
    assert node.checkpoint("old")["status"]["formatVersion"] == 7
    node.pod("new", is_running=False)
    assert node.arriving("new")["reason"] == "FormatVersion"


def test_a_daemon_that_ended_before_the_pod_had_left_says_so(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(node.keeper, "depart", killed)
        node.pod("old")
        node.delete("old")
        node.until(node.departures._job(node.ref("old")).done)
    assert node.files() == ["checkpoints/uid-old.partial"]
    node.restart()
    node.gone("old")
    node.watched()
    node.upkeep.run()
    assert node.conditions("old") == {
        "Captured": "False DaemonEnded",
        "Failed": "True CaptureFailed",
    }
    assert node.files() == []


def test_a_capture_that_an_earlier_daemon_began_waits_for_who_begins_it_again(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(node.keeper, "depart", killed)
        node.pod("old")
        node.delete("old")
        node.until(node.departures._job(node.ref("old")).done)
    node.restart()
    node.watched("old")
    node.upkeep.run()  # before anybody has asked the new daemon
    assert node.conditions("old") == {"Captured": "Unknown Capturing"}
    assert node.leaving("old")["captured"] is True


@pytest.mark.parametrize("becomes", ["ends with its node", "goes on"])
def test_so_does_one_of_a_node_that_shuts_down(
    node: Any, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit

    node.shuts_down = True
    with monkeypatch.context() as patched:
        patched.setattr(node.keeper, "depart", killed)
        node.pod("old")
        node.until(node.departures._job(node.ref("old")).done)
    node.restart()
    node.watched("old")
    node.shuts_down = becomes == "ends with its node"
    node.upkeep.run()
    if node.shuts_down:
        assert node.conditions("old") == {"Captured": "Unknown Capturing"}
        assert node.leaving("old")["captured"] is True
    else:
        assert node.conditions("old")["Captured"] == "False DaemonEnded"


def test_a_capture_under_way_is_left_alone(node: Any) -> None:
    node.keeper.gate = threading.Event()
    node.pod("old")
    node.delete("old")
    job = node.departures._job(node.ref("old"))
    node.until(lambda: node.keeper.ops("capture") == 1)
    node.watched("old")
    node.upkeep.run()
    assert node.conditions("old") == {"Captured": "Unknown Capturing"}
    assert node.files() == ["checkpoints/uid-old.partial"]
    node.keeper.gate.set()
    assert job.result(20).is_captured


def test_what_was_saved_of_a_pod_that_runs_again_is_nobodys(node: Any) -> None:
    """Its node ended before kubelet could tell that the pod had failed."""
    node.shuts_down = True
    node.pod("old")
    assert node.leaving("old")["captured"] is True
    node.until(lambda: node.conditions("old").get("Available") == "True OnPeer")
    node.restart()
    node.shuts_down = False
    node.keeper.begins_anew("uid-old")
    assert node.leaving("old")["reason"] == "Stays"
    node.delete("old")
    assert node.leaving("old")["reason"] == "RunsAgain"
    node.watched("old")
    node.upkeep.run()
    assert node.conditions("old")["Available"] == "False RunsAgain"
    assert node.files() == []
    assert node.metrics.saved_removed.labels("RunsAgain")._value.get() == 1


def test_unless_another_one_has_claimed_it(node: Any) -> None:
    node.saved()
    node.checkpoint("old")["status"]["claimedBy"] = {"name": "new", "uid": "uid-new", "node": "n"}
    node.keeper.begins_anew("uid-old")
    node.watched()
    node.upkeep.run()
    assert node.conditions("old")["Available"] == "True OnPeer"
    assert node.files() == ["checkpoints/uid-old"]


@pytest.mark.parametrize("why", ["restored", "gone", "old"])
def test_a_saved_pod_goes_when_nobody_will_ask_for_it(node: Any, why: str) -> None:
    node.saved()
    node.watched()
    node.upkeep.run()
    assert node.files() == ["checkpoints/uid-old"]
    value = node.checkpoint("old")
    if why == "restored":
        value["status"]["conditions"].append({"type": "Restored", "status": "True", "reason": "R"})
    elif why == "gone":
        del node.cluster.objects[next(p for p, v in node.cluster.objects.items() if v is value)]
    else:
        node.passes(3601)
    node.upkeep.run()
    assert node.files() == []
    removed = node.metrics.saved_removed.labels("Expired")._value.get()
    if why == "old":
        assert node.conditions("old")["Available"] == "False Expired"
        name = node.checkpoint("old")["metadata"]["name"]
        text = "removed: nobody has come for it within 3600 s"
        assert (node.told, removed) == ([(name, "Expired", text)], 1)
    else:
        assert (node.told, removed) == ([], 0)


@pytest.mark.parametrize("state", [PodState.AWAKE, PodState.ASLEEP])
def test_a_restore_that_no_daemon_heard_of_is_told(node: Any, state: PodState) -> None:
    node.saved(is_asleep=state is PodState.ASLEEP)
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.restart()
    node.adopt("new")
    node.keeper.states["uid-new"] = state
    node.watched("new")
    node.upkeep.run()
    assert node.conditions("old")["Restored"] == "True Restored"
    assert node.files() == ["arrivals/uid-new.json"]
    assert node.notes == [("old", "Captured"), ("new", "Restored")]


def test_an_end_that_upkeep_finds_before_the_keeper_tells_it_is_one_event(node: Any) -> None:
    """The pod is awake a moment before the keeper says what it goes on with."""
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.adopt("new")
    node.keeper.states["uid-new"] = PodState.AWAKE
    node.watched("new")
    change = node.latest.change

    def meanwhile(*given: Any, **more: Any) -> Any:
        node.latest.change = change
        node.endings.restored("uid-new", pod=node.make.pod("new"))
        return change(*given, **more)

    node.latest.change = meanwhile
    node.upkeep.run()
    node.endings.restored("uid-new", pod=node.make.pod("new"))
    assert node.conditions("old")["Restored"] == "True Restored"
    assert node.notes == [("old", "Captured"), ("new", "Restored")]


def test_a_restore_that_failed_and_no_daemon_heard_of_is_told(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.adopt("new")
    kept = node.state / "pods/uid-new/app/failed-1"
    kept.mkdir(parents=True)
    (kept / "meta.json").write_text(json.dumps({"version": 1, "is_moved": True}))
    node.watched("new")
    node.upkeep.run()
    assert node.conditions("old")["Failed"] == "True RestoreFailed"
    assert node.conditions("old")["Restored"] == "False RestoreFailed"


def test_one_that_waits_for_its_restore_is_left_alone(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.keeper.states["uid-new"] = PodState.AWAKE  # hollow
    node.watched("new")
    node.upkeep.run()
    assert node.conditions("old")["Restored"] == "Unknown Restoring"
    assert node.arriving("new")["restore"] is True


def test_what_came_for_a_pod_that_is_gone_goes(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    (node.state / "arrivals/uid-late.partial").mkdir()
    (node.state / "arrivals/uid-new.fresh").touch()
    node.restart()
    node.gone("new")
    node.watched()
    node.upkeep.run()
    assert node.files() == ["checkpoints/uid-old"], "it has not run: another one may have it"
    assert node.claimant("old") == ""


def test_so_does_what_came_for_one_that_ended_before_it_began(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.restart()
    node.end("new")
    node.watched("new")
    node.upkeep.run()
    assert node.files() == ["checkpoints/uid-old"]
    assert node.claimant("old") == ""


def test_an_api_server_that_is_away_makes_nothing_go(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.restart()
    node.watched()  # a stale watch: it has not heard of the pod
    node.cluster.failures.append(lambda _: Unavailable("503"))
    with pytest.raises(Unavailable):
        node.upkeep.run()
    assert node.files() == ["arrivals/uid-new", "arrivals/uid-new.json"]


def test_what_a_stale_watch_has_not_heard_of_stays(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.pod("other", is_running=False)
    assert node.arriving("other")["restore"] is False
    node.restart()
    node.watched()
    node.upkeep.run()
    node.arrivals.forget("uid-new")
    assert node.files() == [
        "arrivals/uid-new",
        "arrivals/uid-new.json",
        "arrivals/uid-other.json",
    ]


def test_a_checkpoint_object_goes_when_its_time_is_up(node: Any) -> None:
    node.keeper.troubles["capture"] = [Unavailable("away")] * 3
    node.pod("old")
    node.delete("old")
    node.leaving("old")
    node.checkpoint("old")["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    node.watched("old")
    node.upkeep.run()
    assert node.checkpoint("old") is None


@pytest.mark.parametrize("version", ['"version":3', "damaged"])
def test_what_cannot_be_read_is_kept_for_who_can_until_its_time_is_over(
    node: Any, version: str
) -> None:
    node.saved()
    file = node.state / "checkpoints/uid-old/manifest.json"
    file.write_text(file.read_text().replace('"version":2', version))
    node.watched()
    assert node.upkeep.run() is True
    assert node.files() == ["checkpoints/uid-old"]
    assert node.conditions("old")["Available"] == "True OnPeer"
    node.passes(3601)
    node.upkeep.run()
    assert node.files() == []
    assert node.conditions("old")["Available"] == "False Lost"
    assert node.metrics.saved_removed.labels("Unread")._value.get() == 1


@pytest.mark.parametrize("hours", [-24, 2, 24])
@pytest.mark.parametrize("version", ['"version":2', '"version":3'])
def test_a_clock_that_is_set_makes_no_saved_pod_old(node: Any, hours: int, version: str) -> None:
    """It may be all that there is of the pod."""
    node.saved()
    file = node.state / "checkpoints/uid-old/manifest.json"
    file.write_text(file.read_text().replace('"version":2', version))
    node.watched()
    node.upkeep.run()
    node.clock_is_ahead += 3600 * hours
    node.upkeep.run()
    assert node.files() == ["checkpoints/uid-old"]
    assert node.conditions("old")["Available"] == "True OnPeer"
    # By the time that passes it gets old all the same, and a clock that went back makes it late.
    node.passes(3601 + (0 if hours > 0 else 86400))
    node.upkeep.run()
    assert node.files() == []
