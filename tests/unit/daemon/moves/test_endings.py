"""That a pod goes on is said before it does, and how that ended once it is known."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from architect.api import saved
from architect.api.keeper import PodState
from architect.api.policy import ContainerPolicy, OnRestoreFailure, Policy
from architect.core.errors import Unavailable
from architect.daemon.checkpoint import contents
from architect.daemon.moves import arrivals
from architect.kube.errors import Conflict


def test_a_restore_that_failed_for_good_is_said_in_the_checkpoint(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.endings.not_restored("uid-new", "Unknown: restore ended with status 1")
    assert node.conditions("old")["Failed"] == "True RestoreFailed"
    node.adopt("new")
    node.endings.restored("uid-new", pod=None)
    assert node.conditions("old")["Restored"] == "False RestoreFailed"


def test_that_a_pod_goes_on_is_said_before_its_first_instruction(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    assert node.conditions("old")["Restored"] == "Unknown Restoring"
    assert node.conditions("old")["Available"] == "True OnPeer"
    node.restart()
    asked = len(node.cluster.requests)
    assert node.arriving("new")["restore"] is True
    assert len(node.cluster.requests) == asked  # once is enough


def test_that_a_pod_slept_goes_along_and_that_it_sleeps_on_is_told(node: Any) -> None:
    node.saved(is_asleep=True)
    note = node.state / "checkpoints/uid-old" / saved.ASLEEP
    assert note.stat().st_mode & 0o777 == 0o600
    assert saved.ASLEEP in {p.name for p in contents.read(note.parent).pieces}
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    assert (node.state / "arrivals/uid-new" / saved.ASLEEP).exists()
    assert node.conditions("old")["Restored"] == "Unknown Restoring", "nobody is asked at its wake"
    node.adopt("new")
    node.endings.restored("uid-new", pod=node.make.pod("new"), is_asleep=True)
    assert node.conditions("old")["Restored"] == "True Restored"
    restored = next(
        c for c in node.checkpoint("old")["status"]["conditions"] if c["type"] == "Restored"
    )
    assert restored["message"].startswith("on node node1, asleep, ")
    assert node.said[-1].startswith("sleeps on with the memory of pod old, ")


def test_a_pod_that_was_awake_is_not_said_to_have_slept(node: Any) -> None:
    node.saved()
    assert not (node.state / "checkpoints/uid-old" / saved.ASLEEP).exists()


def test_an_api_server_that_does_not_hear_it_is_asked_again(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "API_SECONDS", 0.01)
    node.saved()
    node.pod("new", is_running=False)
    troubles = [Unavailable("503"), Conflict("changed"), Unavailable("503")]

    def trouble(request: Any) -> Exception | None:
        is_announcement = request.method == "PATCH" and "Restoring" in str(request.body)
        return troubles.pop() if troubles and is_announcement else None

    node.cluster.failures.append(trouble)
    assert node.arriving("new")["restore"] is True
    assert troubles == []
    assert node.conditions("old")["Restored"] == "Unknown Restoring"


def test_what_cannot_be_announced_does_not_run(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "ANNOUNCE_SECONDS", 0.0)
    node.saved()
    node.pod("new", is_running=False)
    node.cluster.failures.append(
        lambda r: Unavailable("503") if "Restor" in str(r.body or "") else None
    )
    answer = node.arriving("new")
    assert (answer["restore"], answer["reason"]) == (False, "Unavailable")
    assert node.notes[-1] == ("new", "RestoreFailed")
    assert "Failed" not in node.conditions("old"), "nobody heard that, either"
    node.restart()
    assert node.arriving("new")["restore"] is False
    node.cluster.failures.clear()
    node.keeper.states["uid-new"] = PodState.AWAKE
    node.watched("new")
    node.upkeep.run()
    assert node.conditions("old")["Restored"] == "False RestoreFailed"
    assert node.files() == ["arrivals/uid-new.json"]
    assert node.arriving("new")["restore"] is False


@pytest.mark.parametrize("freed_for", ["uid-other", ""])
@pytest.mark.parametrize("policy", list(OnRestoreFailure))
def test_a_pod_whose_claim_was_taken_back_does_not_run_what_is_anothers(
    node: Any, freed_for: str, policy: OnRestoreFailure
) -> None:
    # Its node was silent, taken for gone, and is there again.
    node.saved()
    wish = Policy(containers={"app": ContainerPolicy()}, on_restore_failure=policy)
    node.pod("new", is_running=False, policy=wish)
    bring = node.bringing.bring

    def silent(*args: Any, **more: Any) -> None:
        bring(*args, **more)
        (path,) = [p for p, v in node.cluster.objects.items() if v is node.checkpoint("old")]
        freed = copy.deepcopy(node.checkpoint("old"))
        del freed["status"]["claimedBy"]
        if freed_for:
            freed["status"]["claimedBy"] = {"uid": freed_for, "name": "other", "node": "node3"}
        node.cluster.put(path, freed)

    node.bringing.bring = silent
    assert node.arriving("new")["restore"] is False
    node.bringing.bring = bring
    assert node.claimant("old") == freed_for
    assert "Restored" not in node.conditions("old")
    assert "Failed" not in node.conditions("old")
    assert node.notes[-1] == ("new", "RestoreFailed")
    # It lies where it lay, for whoever has claimed it, or will.
    assert "checkpoints/uid-old" in node.files()
    assert node.arriving("new")["restore"] is False


def test_what_a_pod_claimed_in_vain_is_not_given_back_at_its_end(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "ANNOUNCE_SECONDS", 0.0)
    node.saved()
    node.pod("new", is_running=False)
    node.cluster.failures.append(
        lambda r: Unavailable("503") if "Restor" in str(r.body or "") else None
    )
    assert node.arriving("new")["restore"] is False
    node.cluster.failures.clear()
    node.gone("new")
    node.arrivals.forget("uid-new")
    assert node.conditions("old")["Restored"] == "False RestoreFailed"
    assert node.files() == []


def test_what_criu_refuses_is_said_of_what_is_kept_for_its_pod(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.endings.fails("uid-new", "Criu: restore ended with status 1")
    # As before: if its node is lost now, nobody knows whether it has gone on.
    assert node.conditions("old")["Restored"] == "Unknown RestoreFailed"
    assert node.conditions("old")["Available"] == "True OnPeer"
    node.adopt("new")
    node.endings.restored("uid-new", pod=None)
    assert node.conditions("old")["Restored"] == "True Restored"
    node.endings.fails("uid-new", "a sleep of its own, later")
    assert node.conditions("old")["Restored"] == "True Restored"
