"""How often the API server is asked for a move: all that moves at once shares what it costs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from architect.core.errors import Unavailable
from architect.daemon.moves.latest import Latest
from architect.kube import checkpoints, resources
from architect.kube.conditions import Condition, Status
from architect.kube.resources import CHECKPOINTS, ObjectRef

MANY = 20
SAID = (Condition(type=checkpoints.STORED, status=Status.TRUE, reason="Stored"),)


def counted(requests: Iterable[Any]) -> dict[str, int]:
    """Return requests by verb and resource."""
    found: Counter[str] = Counter()
    for request in requests:
        resource, *more = request.path.rpartition("/namespaces/default/")[2].split("/")
        verb = "LIST" if request.method == "GET" and not more else request.method
        found[" ".join((verb, "/".join((resource, *more[1:]))))] += 1
    return dict(found)


def test_a_move_is_written_and_hardly_read(node: Any) -> None:
    asked = node.cluster.requests
    node.pod("old")
    node.delete("old")
    node.watched("old")
    assert node.leaving("old")["captured"]
    node.until(lambda: node.conditions("old").get("Available") == "True OnPeer")
    assert counted(asked) == {
        "GET replicasets": 1,
        "LIST pods": 1,
        "POST checkpoints": 1,
        "PATCH checkpoints/status": 2,
    }
    node.gone("old")
    node.pod("new", is_running=False)
    asked.clear()
    assert node.arriving("new")["restore"] is True
    assert counted(asked) == {
        "GET pods": 1,
        "LIST pods": 1,
        "LIST checkpoints": 1,
        "PATCH checkpoints/status": 2,
    }
    node.adopt("new")
    asked.clear()
    node.endings.restored("uid-new", pod=None)
    assert counted(asked) == {"PATCH checkpoints/status": 1}


def test_of_many_that_move_at_once_none_asks_in_vain(node: Any) -> None:
    old, new = ([f"{which}-{n}" for n in range(MANY)] for which in ("old", "new"))
    for name in old:
        node.pod(name)
        node.delete(name)
    for name in new:
        node.pod(name, is_running=False)
    answers: dict[str, Any] = {}

    def come(name: str) -> None:
        answers[name] = node.arriving(name)

    node.keeper.gate = threading.Event()
    leaving = [threading.Thread(target=node.leaving, args=(name,)) for name in old]
    coming = [threading.Thread(target=come, args=(name,)) for name in new]
    for thread in leaving:
        thread.start()
    node.until(lambda: all("Captured" in node.conditions(name) for name in old))
    for thread in coming:
        thread.start()
    node.keeper.gate.set()
    for thread in (*leaving, *coming):
        thread.join(60)
    assert [answer for answer in answers.values() if not answer["restore"]] == []
    assert {node.claimant(name) for name in old} == {f"uid-{name}" for name in new}
    found = counted(node.cluster.requests)
    assert "GET checkpoints" not in found
    assert found["POST checkpoints"] == MANY
    # Begun, saved, claimed, about to go on: each once, and nobody was refused.
    assert found["PATCH checkpoints/status"] == 4 * MANY


def checkpoint(node: Any) -> ObjectRef:
    node.saved()
    return ObjectRef.of(CHECKPOINTS, node.checkpoint("old"))


def test_what_others_wrote_since_is_read_and_kept(node: Any) -> None:
    ref = checkpoint(node)
    latest = Latest(node.api)
    latest.note(node.api.find(ref))
    pod = resources.pod("default", "new", uid="uid-new")
    checkpoints.claim(node.api, node.api.find(ref), pod=pod, node="node2")
    assert latest.change(ref, SAID) is not None
    assert node.conditions("old")["Claimed"] == "True Claimed"
    assert node.conditions("old")["Stored"] == "True Stored"


def test_who_tells_late_what_they_wrote_first_hides_nothing(node: Any) -> None:
    ref = checkpoint(node)
    latest = Latest(node.api)
    before = node.api.find(ref)
    assert latest.change(ref, SAID) is not None
    latest.note(before)
    node.cluster.requests.clear()
    more = Condition(type=checkpoints.RESTORED, status=Status.UNKNOWN, reason="Restoring")
    assert latest.change(ref, (more,)) is not None
    assert [request.method for request in node.cluster.requests] == ["PATCH"]


def test_what_seems_to_be_said_already_is_read_before_that_is_believed(node: Any) -> None:
    ref = checkpoint(node)
    latest = Latest(node.api)
    assert latest.change(ref, SAID) is not None
    other = Condition(type=checkpoints.STORED, status=Status.FALSE, reason="Removed")
    checkpoints.set_status(node.api, node.api.find(ref), other)
    assert latest.change(ref, SAID) is not None
    assert node.conditions("old")["Stored"] == "True Stored"


def test_one_that_is_gone_is_not_changed(node: Any) -> None:
    ref = checkpoint(node)
    latest = Latest(node.api)
    latest.note(node.api.find(ref))
    node.api.delete(ref)
    assert latest.change(ref, SAID) is None


def test_a_write_of_which_nothing_was_heard_is_followed_by_a_read(node: Any) -> None:
    ref = checkpoint(node)
    latest = Latest(node.api)
    latest.note(node.api.find(ref))
    node.cluster.failures.append(
        lambda request: Unavailable("503") if request.method == "PATCH" else None
    )
    node.cluster.requests.clear()
    with pytest.raises(Unavailable):
        latest.change(ref, SAID)
    node.cluster.failures.clear()
    assert latest.change(ref, SAID) is not None
    assert [request.method for request in node.cluster.requests] == ["PATCH", "GET", "PATCH"]
