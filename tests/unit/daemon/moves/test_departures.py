"""A pod that leaves is saved once and for good, or goes on and gets its signal."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.api.keeper import PodState
from architect.core.errors import NodeError, Rejected, Unavailable
from architect.daemon.checkpoint import contents
from architect.daemon.moves import leavers, lingering

OWNER_PATH = "/apis/apps/v1/namespaces/default/replicasets/web"


def test_a_pod_is_saved_and_its_successor_told(node: Any) -> None:
    node.pod("old")
    node.delete("old")
    assert node.leaving("old")["captured"] is True
    node.until(lambda: node.conditions("old").get("Available") == "True OnPeer")
    assert node.conditions("old")["Captured"] == "True Captured"
    status = node.checkpoint("old")["status"]
    whole = node.state / "checkpoints/uid-old"
    sha = hashlib.sha256((whole / "manifest.json").read_bytes()).hexdigest()
    peer = {"node": "node1", "id": "uid-old", "manifestSha256": sha}
    assert status["location"] == {"peer": peer}
    contents.verify(whole, contents.read(whole))
    assert status["bytes"] == contents.read(whole).total_bytes
    assert not (node.state / "pods/uid-old/app/image").exists(), "old memory has one place"
    assert node.notes == [("old", "Captured")]


def test_asked_twice_it_is_saved_once(node: Any) -> None:
    node.pod("old")
    node.delete("old")
    assert node.leaving("old") == node.leaving("old")
    assert node.keeper.ops("capture") == 1


def test_a_pod_that_stays_is_asked_about_again(node: Any) -> None:
    node.pod("old")
    assert node.leaving("old")["reason"] == "Stays"
    node.delete("old")
    assert node.leaving("old")["captured"] is True


def test_that_it_stays_may_be_older_than_the_question(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its containers has ended, and it is deleted while that one is asked about."""
    node.pod("old")
    look, begin = node.departures._look, node.departures._job
    looked, is_deleted = threading.Event(), threading.Event()
    jobs: list[Any] = []
    answers: list[Any] = []

    def look_slowly(ref: Any) -> Any:
        found = look(ref)
        looked.set()
        assert is_deleted.wait(60)
        return found

    def job(ref: Any) -> Any:
        jobs.append(begin(ref))
        return jobs[-1]

    monkeypatch.setattr(node.departures, "_look", look_slowly)
    monkeypatch.setattr(node.departures, "_job", job)

    def ask() -> threading.Thread:
        made = threading.Thread(target=lambda: answers.append(node.leaving("old")))
        made.start()
        return made

    first = ask()
    assert looked.wait(60)
    node.delete("old")
    second = ask()
    node.until(lambda: len(jobs) == 2)
    is_deleted.set()
    for thread in (first, second):
        thread.join(60)
    assert jobs[0] is jobs[1]
    assert sorted(answer["captured"] for answer in answers) == [False, True]


def test_a_pod_that_kubelet_ends_with_its_node_is_saved(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "STAY_SECONDS", 3600.0)  # longer than any test
    node.pod("old")
    node.shuts_down = True
    assert node.leaving("old")["captured"] is True, "at once: its successor waits for its end"
    node.until(lambda: node.conditions("old").get("Available") == "True OnPeer")
    assert node.checkpoint("old")["spec"]["trigger"] == "NodeShutdown"
    assert node.notes == [("old", "Captured")]
    assert "(NodeShutdown)" in node.said[0]
    assert node.to_store == ["uid-old"]


def test_whether_the_node_shuts_down_is_asked_each_time(node: Any) -> None:
    node.pod("old")
    assert node.leaving("old")["reason"] == "Stays", "one container is restarted"
    node.shuts_down = True
    assert node.leaving("old")["captured"] is True


def test_a_pod_that_ended_does_not_end_again_with_its_node(node: Any) -> None:
    node.pod("old")
    node.end("old")
    node.shuts_down = True
    assert node.leaving("old")["reason"] == "Stays"
    assert node.keeper.calls == []


def test_a_pod_that_nobody_replaces_gets_its_signal_when_its_node_goes(node: Any) -> None:
    value = node.pod("old")
    value["metadata"]["ownerReferences"] = []
    node.cluster.put_pod(value)
    node.shuts_down = True
    answer = node.leaving("old")
    assert (answer["captured"], answer["reason"]) == (False, "NoController")
    assert node.checkpoint("old") is None


def test_what_was_said_of_a_pod_as_its_node_went_is_not_kept(node: Any) -> None:
    node.pod("old")
    node.cluster.objects[OWNER_PATH]["spec"]["replicas"] = 0
    node.shuts_down = True
    assert node.leaving("old")["reason"] == "ScaledDown"
    node.cluster.objects[OWNER_PATH]["spec"]["replicas"] = 1
    node.shuts_down = False
    node.delete("old")
    assert node.leaving("old")["captured"] is True


def test_where_nobody_can_tell_it_gets_its_signal(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leavers, "API_SECONDS", 0.2)
    node.pod("old")
    node.shuts_down = Unavailable("503")
    answer = node.leaving("old")
    assert (answer["captured"], answer["reason"]) == (False, "Unavailable")
    node.shuts_down = True
    assert node.leaving("old")["captured"] is True


@pytest.mark.parametrize("op", ["capture", "depart"])
def test_a_keeper_that_is_killed_is_asked_again(node: Any, op: str) -> None:
    node.keeper.troubles[op] = [Unavailable("closed the connection") for _ in range(2)]
    node.pod("old")
    node.delete("old")
    assert node.leaving("old")["captured"] is True
    assert node.keeper.ops("depart") == (3 if op == "depart" else 1)
    assert node.keeper.ops("wake") == 0


def test_an_api_server_that_is_away_for_a_moment_is_waited_for(node: Any) -> None:
    node.pod("old")
    node.delete("old")
    troubles = [Unavailable("503") for _ in range(3)]
    node.cluster.failures.append(lambda _: troubles.pop() if troubles else None)
    assert node.leaving("old")["captured"] is True


def test_a_pod_that_woke_in_between_is_captured_again(node: Any) -> None:
    node.keeper.troubles["depart"] = [Rejected("it was woken in between", reason="NotCaptured")]
    node.pod("old")
    node.delete("old")
    assert node.leaving("old")["captured"] is True
    assert node.keeper.ops("capture") == 2


def test_a_pod_whose_volume_its_successor_waits_for_does_not_stay(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "STAY_SECONDS", 3600.0)  # longer than any test
    claim = "/api/v1/namespaces/default/persistentvolumeclaims/files"
    node.cluster.put(
        claim, {"metadata": {"name": "files"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    )
    value = node.pod("old")
    value["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "files"}}]
    value["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    node.cluster.put_pod(value)
    node.delete("old")
    value = node.cluster.pod("old")
    value["metadata"]["deletionGracePeriodSeconds"] = 3600
    node.cluster.put_pod(value)
    assert node.leaving("old")["captured"] is True


def test_what_cannot_be_saved_is_woken_for_its_signal_and_says_why(node: Any) -> None:
    trouble = NodeError("MPTCP sockets cannot be dumped", reason="Mptcp")
    node.keeper.troubles["capture"] = [trouble]
    node.keeper.troubles["wake"] = [Unavailable("no keeper"), Unavailable("no keeper")]
    node.pod("old")
    node.delete("old")
    answer = node.leaving("old")
    assert (answer["captured"], answer["reason"]) == (False, "Mptcp")
    assert node.keeper.states["uid-old"] is PodState.AWAKE
    assert node.keeper.ops("wake") == 3
    assert node.conditions("old") == {"Captured": "False Mptcp", "Failed": "True CaptureFailed"}
    assert node.notes == [("old", "CaptureFailed")]
    assert node.files() == []


def test_a_disk_that_fills_up_undoes_it_before_the_pod_has_left(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path, manifest: object, *, is_durable: bool) -> bytes:
        raise OSError(28, "No space left on device", str(directory))

    monkeypatch.setattr(contents, "write", full)
    node.pod("old")
    node.delete("old")
    assert node.leaving("old")["captured"] is False
    assert node.keeper.ops("depart") == 0
    assert node.keeper.states["uid-old"] is PodState.AWAKE
    assert node.files() == []


def test_every_pod_has_its_checkpoint_before_its_turn_has_come(node: Any) -> None:
    node.departures = node.departing(at_once=1)
    node.keeper.gate = threading.Event()
    for name in ("one", "two", "three"):
        node.pod(name)
        node.delete(name)
    jobs = [node.departures._job(node.ref(name)) for name in ("one", "two", "three")]
    for name in ("one", "two", "three"):
        node.until(lambda name=name: node.conditions(name).get("Captured") == "Unknown Capturing")
    node.until(lambda: node.keeper.ops("capture") > 0)
    assert node.keeper.ops("capture") == 1
    node.keeper.gate.set()
    assert [job.result(20).is_captured for job in jobs] == [True] * 3


@pytest.mark.parametrize("condition", ["Captured", "Failed"])
def test_what_an_earlier_daemon_brought_to_an_end_stays_as_it_is(node: Any, condition: str) -> None:
    if condition == "Failed":
        node.keeper.troubles["capture"] = [Rejected("it got a signal already", reason="Signalled")]
    node.pod("old")
    node.delete("old")
    node.leaving("old")
    node.until(lambda: condition in node.conditions("old"))
    node.until(lambda: not node.departures.is_working("uid-old"))
    if condition == "Captured":
        node.until(lambda: "Available" in node.conditions("old"))
        node.depot.drop_departure("uid-old")  # it goes on elsewhere
        (node.state / "pods/uid-old/pod.json").unlink()
    said = node.conditions("old")
    node.restart()
    assert node.leaving("old")["reason"] == "AlreadyDecided"
    assert node.conditions("old") == said


def test_a_pod_that_left_under_an_earlier_daemon_gets_no_signal(node: Any) -> None:
    node.pod("old")
    node.delete("old")
    (node.state / "pods/uid-old").mkdir()
    node.keeper.has_left("uid-old")
    assert node.leaving("old")["captured"] is True
    assert node.keeper.calls == []


def test_a_pod_that_left_without_an_answer_stays_saved(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(uid: str, **_: object) -> None:
        node.keeper.has_left(uid)
        raise Rejected(f"pod {uid} is unknown", reason="UnknownPod")

    monkeypatch.setattr(node.keeper, "depart", lost)
    node.pod("old")
    node.delete("old")
    assert node.leaving("old")["captured"] is True
    assert node.depot.half_departures() == {"uid-old": True}, "upkeep gives it its name"
    assert node.keeper.ops("wake") == 0


def test_a_policy_that_cannot_be_read_is_an_answer(node: Any) -> None:
    """Anybody who may patch a pod can write it."""
    value = node.pod("old")
    value["metadata"]["annotations"][names.POLICY] = "junk"
    node.cluster.put_pod(value)
    node.delete("old")
    answer = node.leaving("old")
    assert (answer["captured"], answer["reason"]) == (False, "BadPolicy")
    assert node.conditions("old") == {}


def test_a_defect_is_an_answer(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.departures, "_depart", lambda ref: {}[ref.uid])
    node.pod("old")
    node.delete("old")
    answer = node.leaving("old")
    assert (answer["captured"], answer["reason"]) == (False, "Defect")


def test_a_pod_that_never_began_leaves_no_checkpoint(node: Any) -> None:
    node.pod("old", is_running=False)
    node.delete("old")
    assert node.leaving("old")["reason"] == "NotBegun"
    assert node.checkpoint("old") is None


def test_outcomes_of_pods_that_are_gone_are_forgotten(node: Any) -> None:
    for name in ("one", "two"):
        node.pod(name)
        node.delete(name)
        node.leaving(name)
    node.departures.forget_all_but({"uid-two"})
    assert set(node.departures._jobs) == {"uid-two"}
    node.departures.forget("uid-two")
    assert node.departures._jobs == {}


def test_a_job_under_way_is_not_forgotten(node: Any) -> None:
    node.keeper.gate = threading.Event()
    node.pod("old")
    node.delete("old")
    job = node.departures._job(node.ref("old"))
    node.departures.forget("uid-old")
    assert node.departures._job(node.ref("old")) is job
    node.keeper.gate.set()
    assert job.result(20).is_captured


def test_what_was_dumped_before_criu_was_upgraded_tells_the_criu_that_did_it(node: Any) -> None:
    node.saved("new")
    assert node.checkpoint("new")["status"]["requirements"]["criu"] == "4.2.1"
    node.pod("old")
    node.keeper.fall_asleep("uid-old")
    meta = node.state / "pods/uid-old/app/meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "criu": "4.1"}))
    node.delete("old")
    assert node.leaving("old")["captured"] is True
    node.until(lambda: node.conditions("old").get("Available", "")[:4] == "True")
    assert node.checkpoint("old")["status"]["requirements"]["criu"] == "4.1"
