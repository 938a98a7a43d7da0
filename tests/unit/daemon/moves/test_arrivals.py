"""A pod that comes gets the memory before it once, or starts fresh and says why."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from architect.core.errors import Unavailable
from architect.kube.errors import Conflict


def test_it_goes_on_with_what_was_saved_before_it(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    assert node.claimant("old") == "uid-new"
    assert node.files() == ["arrivals/uid-new", "arrivals/uid-new.json"]
    node.adopt("new")
    node.endings.restored("uid-new", pod=node.make.pod("new"))
    assert node.conditions("old")["Restored"] == "True Restored"
    assert node.conditions("old")["Available"] == "False Restored"
    assert node.notes[-1] == ("new", "Restored")
    assert node.files() == ["arrivals/uid-new.json"]


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_container_that_comes_again_starts_fresh(
    node: Any, is_told: bool, is_restarted: bool
) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.adopt("new")
    if not is_told:  # the API server was away just then
        node.cluster.failures.append(lambda request: _no_status(request))
    node.endings.restored("uid-new", pod=None)
    node.cluster.failures.clear()
    if is_restarted:
        node.restart()
    assert node.arriving("new")["restore"] is False


def _no_status(request: Any) -> Unavailable | None:
    return Unavailable("503") if request.method == "PATCH" else None


def test_a_question_is_answered_by_the_daemon_that_comes_after(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.restart()
    assert node.arriving("new")["restore"] is True


def test_a_claim_whose_daemon_ended_is_taken_up(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    bring = node.bringing.bring

    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit

    node.bringing.bring = killed
    with pytest.raises(SystemExit):
        node.arriving("new")
    assert node.claimant("old") == "uid-new"
    node.bringing.bring = bring
    node.restart()
    assert node.arriving("new")["restore"] is True


def test_of_two_that_come_one_gets_it(node: Any) -> None:
    node.saved()
    answers: dict[str, Any] = {}

    def come(name: str) -> None:
        answers[name] = node.arriving(name)

    for name in ("one", "two"):
        node.pod(name, is_running=False)
    threads = [threading.Thread(target=come, args=(n,)) for n in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(a["restore"] for a in answers.values()) == [False, True]
    assert [a["reason"] for a in answers.values() if not a["restore"]] == ["Taken"]


def test_an_api_server_that_is_away_is_waited_for(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    troubles = [Unavailable("503"), Conflict("changed")]

    def trouble(request: Any) -> Exception | None:
        is_list = request.method == "GET" and request.path.endswith("/checkpoints")
        return troubles.pop() if troubles and is_list else None

    node.cluster.failures.append(trouble)
    assert node.arriving("new")["restore"] is True
    assert troubles == []


def test_a_pod_that_began_without_an_answer_gets_none_any_more(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    (node.state / "arrivals").mkdir()
    (node.state / "arrivals" / "uid-new.fresh").touch()
    assert node.arriving("new")["restore"] is False
    assert node.claimant("old") == ""


def test_one_that_had_no_answer_does_not_get_what_came_too_late(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    (node.state / "arrivals" / "uid-new.fresh").touch()
    assert node.arriving("new")["restore"] is False


def test_pods_that_are_gone_are_forgotten(node: Any) -> None:
    for name in ("one", "two"):
        node.pod(name, is_running=False)
        node.arriving(name)
    node.arrivals.forget_all_but({"uid-two"})
    assert set(node.arrivals._pods) == {"uid-two"}


def test_a_pod_that_has_left_does_not_begin_anew(node: Any) -> None:
    node.saved()
    node.pod("old")
    node.leaves = {"uid-old"}
    answer = node.arriving("old")
    assert (answer["restore"], answer["left"], answer["reason"]) == (False, True, "Captured")
    node.leaves = set()
    assert "left" not in node.arriving("old")
