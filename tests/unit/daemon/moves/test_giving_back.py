"""What came for a pod that never begins is the next one's, and who waits for it gets it."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

from unit.daemon.moves.conftest import CHECKPOINTS


def test_a_claim_of_one_that_leaves_its_silent_node_is_waited_for(node: Any) -> None:
    """Of a node that is out of service, pods are removed some time after they were to leave."""
    node.saved()
    node.pod("lost", is_running=False)
    node.delete("lost")
    held = copy.deepcopy(node.checkpoint("old"))
    held["status"]["claimedBy"] = {"uid": "uid-lost", "name": "lost", "node": "node3"}
    path = f"{CHECKPOINTS}/{held['metadata']['name']}"
    node.cluster.put(path, held)
    node.pod("new", is_running=False)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(node.arriving("new")))
    asking.start()
    asking.join(1)
    assert answers == []
    freed = copy.deepcopy(held)
    del freed["status"]["claimedBy"]
    node.cluster.put(path, freed)
    asking.join(20)
    assert answers[0]["restore"] is True


def test_a_pod_that_is_deleted_while_it_waits_claims_nothing(node: Any) -> None:
    node.pod("old")
    node.delete("old")
    node.keeper.gate = threading.Event()
    job = node.departures._job(node.ref("old"))
    node.until(lambda: "Captured" in node.conditions("old"))
    node.pod("new", is_running=False)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(node.arriving("new")))
    asking.start()
    node.delete("new")
    asking.join(20)
    assert answers[0]["restore"] is False
    assert answers[0]["reason"] == "Leaving"
    node.keeper.gate.set()
    assert job.result(20).is_captured
    assert node.claimant("old") == ""
    assert ("new", "RestoreFailed") not in node.notes


def test_what_has_not_begun_hands_on_what_came_for_it(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.keeper.states["uid-new"] = None  # hollow: the keeper knows it
    node.delete("new")
    assert node.leaving("new")["reason"] == "NotBegun"
    assert node.claimant("old") == ""
    assert node.conditions("old")["Claimed"] == "False GivenBack"
    assert node.conditions("old")["Restored"] == "False GivenBack"
    assert node.checkpoint("new") is None
    node.pod("newer", is_running=False)
    assert node.arriving("newer")["restore"] is True
    assert node.claimant("old") == "uid-newer"


def test_what_has_begun_hands_on_nothing(node: Any) -> None:
    node.saved()
    node.pod("new")
    node.cluster.pod("new")
    value = node.cluster.pod("new")
    value["status"]["containerStatuses"] = []
    node.cluster.put_pod(value)
    assert node.arriving("new")["restore"] is True
    node.adopt("new")
    assert node.arrivals.hand_on(node.ref("new")) is False
    assert node.claimant("old") == "uid-new"


def test_what_came_from_elsewhere_goes_back_to_where_it_lies(node: Any) -> None:
    node.saved()
    node.checkpoint("old")["status"]["location"]["peer"]["node"] = "node2"
    node.pod("new", is_running=False)

    def fetch(_: str, checkpoint_id: str, target: Path, **__: Any) -> None:
        (node.state / "checkpoints" / checkpoint_id).rename(target)

    node.fetch = fetch
    assert node.arriving("new")["restore"] is True
    node.delete("new")
    assert node.arrivals.hand_on(node.ref("new")) is True
    assert node.files() == ["arrivals/uid-new.json"]
    assert node.claimant("old") == ""


def test_a_pod_that_is_gone_before_it_began_gives_back(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.gone("new")
    node.arrivals.forget("uid-new")
    assert node.claimant("old") == ""
    assert node.files() == ["checkpoints/uid-old"]


def test_a_pod_that_ended_before_it_began_gives_back(node: Any) -> None:
    """Its node shut down, or refused it; its object stays for days."""
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.end("new")
    node.arrivals.forget("uid-new")
    assert node.claimant("old") == ""
    assert node.files() == ["checkpoints/uid-old"]
    node.pod("newer", is_running=False)
    assert node.arriving("newer")["restore"] is True


def test_the_claim_of_a_pod_that_ended_is_waited_for(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.end("new")
    node.pod("newer", is_running=False)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(node.arriving("newer")))
    thread.start()
    node.until(lambda: node.arrivals.is_working("uid-newer"))
    node.arrivals.forget("uid-new")
    thread.join(20)
    assert found[0]["restore"] is True
    assert node.claimant("old") == "uid-newer"


def test_a_pod_that_ends_while_it_waits_claims_nothing(node: Any) -> None:
    node.keeper.gate = threading.Event()
    node.pod("old")
    node.delete("old")
    job = node.departures._job(node.ref("old"))
    node.until(lambda: "Captured" in node.conditions("old"))
    node.pod("new", is_running=False)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(node.arriving("new")))
    thread.start()
    node.until(lambda: node.arrivals.is_working("uid-new"))
    node.end("new")
    thread.join(20)
    assert found[0]["reason"] == "Leaving"
    node.keeper.gate.set()
    assert job.result(20).is_captured
    assert node.claimant("old") == ""
