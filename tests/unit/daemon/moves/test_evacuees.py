"""Pods of a machine that ends: saved before anybody deletes them, told that there is no time, or
let stay after all; and nobody is waited for.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from architect.api.keeper import PodState
from architect.core.errors import NodeError, Unavailable
from architect.daemon.moves import leavers
from architect.daemon.moves.announcing import Announcing

NOTHING = Unavailable("503")
OWNER_PATH = "/apis/apps/v1/namespaces/default/replicasets/web"


@pytest.fixture
def ends(node: Any) -> Any:
    """A node with two pods, of which the watch has told."""
    node.cluster.objects[OWNER_PATH]["spec"]["replicas"] = 2
    for name in ("old", "other"):
        node.pod(name)
    node.watched("old", "other")
    return node


def evacuate(node: Any, name: str) -> None:
    node.departures.evacuate(node.store.get(f"uid-{name}"))


def refuse(node: Any, name: str) -> bool:
    pod = node.store.get(f"uid-{name}")
    return bool(node.departures.refuse(pod, reason="TooLarge", message="alone it takes 200 s"))


def api_is_away(node: Any) -> None:
    node.cluster.failures.append(lambda _: NOTHING)


def test_a_pod_that_nobody_deletes_is_saved_and_stored(ends: Any) -> None:
    evacuate(ends, "old")
    ends.until(lambda: ends.conditions("old").get("Available") == "True OnPeer")
    assert ends.checkpoint("old")["spec"]["trigger"] == "SpotInterruption"
    assert ends.keeper.states["uid-old"] is PodState.CAPTURED
    assert ends.to_store == ["uid-old"]
    assert ends.depot.unannounced("uid-old") is None
    evacuate(ends, "old")
    ends.delete("old")
    assert ends.leaving("old")["captured"] is True, "its containers end without their signal"
    assert ends.keeper.ops("capture") == 1


def test_one_that_is_being_deleted_already_is_saved_as_that(ends: Any) -> None:
    ends.delete("old")
    ends.watched("old", "other")
    evacuate(ends, "old")
    ends.until(lambda: ends.conditions("old").get("Available") == "True OnPeer")
    assert ends.checkpoint("old")["spec"]["trigger"] == "Deletion"


def test_one_that_nobody_replaces_is_left_alone(ends: Any) -> None:
    ends.cluster.objects[OWNER_PATH]["spec"]["replicas"] = 0
    evacuate(ends, "old")
    assert ends.departures._job(ends.ref("old")).result(20).reason == "ScaledDown"
    assert ends.checkpoint("old") is None
    assert ends.keeper.states["uid-old"] is PodState.AWAKE


def test_nobody_is_waited_for_and_it_is_said_later(
    ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leavers, "URGENT_SECONDS", 0.1)
    api_is_away(ends)
    evacuate(ends, "old")
    ends.until(lambda: ends.to_store == ["uid-old"])
    assert ends.keeper.states["uid-old"] is PodState.CAPTURED
    assert ends.depot.unannounced("uid-old") == "SpotInterruption"
    ends.cluster.failures.clear()
    ends.until(lambda: ends.conditions("old").get("Available") == "True OnPeer")
    assert ends.checkpoint("old")["spec"]["trigger"] == "SpotInterruption"
    assert ends.depot.unannounced("uid-old") is None


def test_an_api_server_that_hangs_is_not_waited_for_either(
    ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leavers, "URGENT_SECONDS", 0.1)
    gate = threading.Event()

    def hang(_: Any) -> None:
        assert gate.wait(60)

    ends.cluster.failures.append(hang)
    evacuate(ends, "old")
    ends.until(lambda: ends.to_store == ["uid-old"])
    gate.set()
    ends.cluster.failures.clear()
    ends.until(lambda: ends.conditions("old").get("Available") == "True OnPeer")


def test_the_next_daemon_says_what_nobody_could_be_told(
    ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leavers, "URGENT_SECONDS", 0.1)
    api_is_away(ends)
    with monkeypatch.context() as patched:  # it ends before it could
        patched.setattr(Announcing, "publish", lambda *_, **__: None)
        evacuate(ends, "old")
        assert ends.departures._job(ends.ref("old")).result(60).is_captured
    ends.departures.close()
    ends.cluster.failures.clear()
    ends.restart()
    ends.watched("old", "other")
    ends.upkeep.run()
    assert ends.conditions("old")["Available"] == "True OnPeer"
    found = ends.checkpoint("old")
    assert found["spec"]["trigger"] == "SpotInterruption"
    assert found["spec"]["storage"] == "ObjectStore"
    assert found["spec"]["owner"]["uid"] == "owner-1"
    assert ends.depot.unannounced("uid-old") is None
    ends.upkeep.run()
    assert ends.depot.departure("uid-old") is not None


def test_what_was_announced_and_deleted_since_goes(ends: Any) -> None:
    evacuate(ends, "old")
    ends.until(lambda: ends.conditions("old").get("Available") == "True OnPeer")
    ends.until(lambda: not ends.departures.is_working("uid-old"))
    for path in [p for p in ends.cluster.objects if "/checkpoints/" in p]:
        ends.cluster.remove(path)
    ends.upkeep.run()
    assert ends.depot.departure("uid-old") is None


def test_who_has_no_time_gets_the_signal_and_it_is_said(ends: Any) -> None:
    assert refuse(ends, "old") is True
    ends.until(lambda: ends.conditions("old").get("Captured") == "False TooLarge")
    assert ends.checkpoint("old")["spec"]["trigger"] == "SpotInterruption"
    ends.until(lambda: ("old", "CaptureFailed") in ends.notes)
    assert refuse(ends, "old") is True
    evacuate(ends, "old")
    ends.delete("old")
    answer = ends.leaving("old")
    assert (answer["captured"], answer["reason"]) == (False, "TooLarge")
    assert ends.keeper.ops("capture") == 0
    assert len(ends.notes) == 1


def test_one_that_waits_for_its_turn_is_told_at_once(ends: Any) -> None:
    ends.departures = ends.departing(at_once=1)
    ends.keeper.gate = threading.Event()
    evacuate(ends, "old")
    ends.until(lambda: ends.keeper.ops("capture") == 1)
    evacuate(ends, "other")
    ends.until(lambda: ends.turns.waiting == 1)
    assert refuse(ends, "old") is False, "it is being saved"
    assert refuse(ends, "other") is True
    ends.until(lambda: ends.conditions("other").get("Captured") == "False TooLarge")
    ends.delete("other")
    assert ends.leaving("other")["reason"] == "TooLarge"
    ends.keeper.gate.set()
    ends.until(lambda: ends.conditions("old").get("Available") == "True OnPeer")
    assert refuse(ends, "old") is False, "it is saved"
    assert ends.keeper.ops("capture") == 1


def test_one_that_is_saved_is_not_refused_while_that_is_told(
    ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling, is_refused = threading.Event(), threading.Event()

    def publish(*_: Any, **__: Any) -> None:
        telling.set()
        assert is_refused.wait(60)

    monkeypatch.setattr(ends.departures._announcing, "publish", publish)
    evacuate(ends, "old")
    assert telling.wait(60)
    assert refuse(ends, "old") is False
    is_refused.set()
    assert ends.departures._job(ends.ref("old")).result(60).is_captured


def test_turns_come_in_the_plans_order(ends: Any) -> None:
    ends.departures = ends.departing(at_once=1)
    ends.turns.prefer(["uid-other", "uid-old"])
    with ends.turns.of("somebody"):
        evacuate(ends, "old")
        ends.until(lambda: ends.turns.waiting == 1)
        evacuate(ends, "other")
        ends.until(lambda: ends.turns.waiting == 2)
    ends.until(lambda: len(ends.to_store) == 2)
    captured = [uid for op, uid in ends.keeper.calls if op == "capture"]
    assert captured == ["uid-other", "uid-old"]


def test_after_a_withdrawal_who_was_not_saved_is_as_before(ends: Any) -> None:
    ends.departures = ends.departing(at_once=1)
    ends.keeper.gate = threading.Event()
    assert refuse(ends, "other") is True
    ends.until(lambda: ends.conditions("other").get("Captured") == "False TooLarge")
    ends.departures.release()
    ends.until(lambda: ends.checkpoint("other") is None)
    ends.until(lambda: not ends.departures.is_working("uid-other"))
    ends.delete("other")
    ends.keeper.gate.set()
    assert ends.leaving("other")["captured"] is True, "a drain saves it"


def test_a_withdrawal_while_a_refusal_is_told_undoes_it(
    ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends.departures = ends.departing(at_once=1)
    announcing = ends.departures._announcing
    tell = announcing.refuse

    def tell_and_withdraw(*said: Any) -> None:
        tell(*said)
        ends.until(lambda: ends.conditions("other").get("Captured") == "False TooLarge")
        ends.departures.release()

    monkeypatch.setattr(announcing, "refuse", tell_and_withdraw)
    assert refuse(ends, "other") is True
    ends.until(lambda: not ends.departures.is_working("uid-other"))
    ends.until(lambda: ends.checkpoint("other") is None)
    ends.delete("other")
    assert ends.leaving("other")["captured"] is True


def test_who_waits_for_a_turn_at_a_withdrawal_stays(ends: Any) -> None:
    ends.departures = ends.departing(at_once=1)
    with ends.turns.of("somebody"):
        evacuate(ends, "old")
        ends.until(lambda: ends.turns.waiting == 1)
        ends.until(lambda: ends.checkpoint("old") is not None)
        ends.departures.release()
        ends.until(lambda: ends.checkpoint("old") is None)
    assert ends.departures._job(ends.ref("old")).result(20).reason == "Stays"
    assert ends.keeper.states["uid-old"] is PodState.AWAKE
    ends.delete("old")
    assert ends.leaving("old")["captured"] is True


def test_one_whose_capture_fails_goes_on_and_it_is_said(ends: Any) -> None:
    ends.keeper.troubles["capture"] = [NodeError("no room", reason="NoSpace")]
    evacuate(ends, "old")
    ends.until(lambda: ends.conditions("old").get("Captured") == "False NoSpace")
    assert ends.keeper.states["uid-old"] is PodState.AWAKE


def test_a_refusal_of_before_a_restart_goes_once_its_pod_stays(ends: Any) -> None:
    assert refuse(ends, "old") is True
    ends.until(lambda: ends.conditions("old").get("Captured") == "False TooLarge")
    ends.restart()
    ends.watched("old", "other")
    ends.shuts_down = True  # the machine still ends
    ends.upkeep.run()
    assert ends.checkpoint("old") is not None
    ends.shuts_down = False
    ends.now += 1
    ends.upkeep.run()
    assert ends.checkpoint("old") is None


def test_a_refusal_of_a_pod_that_leaves_stays(ends: Any) -> None:
    assert refuse(ends, "old") is True
    ends.until(lambda: ends.conditions("old").get("Captured") == "False TooLarge")
    ends.restart()
    ends.delete("old")
    ends.watched("old", "other")
    ends.upkeep.run()
    assert ends.conditions("old")["Captured"] == "False TooLarge"


def test_what_nobody_could_be_told_is_forgotten_with_its_upload(ends: Any) -> None:
    ends.depot.note_unannounced("uid-old", "SpotInterruption")
    ends.depot.forget_uploads(but=["uid-old"])
    assert ends.depot.unannounced("uid-old") == "SpotInterruption"
    ends.depot.forget_uploads(but=["uid-other"])
    assert ends.depot.unannounced("uid-old") is None
