"""Pods that do not start without their memory: held, tried again, and left to their users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.api.policy import ContainerPolicy, OnRestoreFailure, Policy
from architect.core.errors import Unavailable
from architect.daemon.checkpoint import contents


def wanting(node: Any, policy: OnRestoreFailure, name: str = "new", **metadata: Any) -> None:
    made = Policy(containers={"app": ContainerPolicy()}, on_restore_failure=policy)
    node.pod(name, is_running=False, annotations={names.POLICY: made.to_json()}, **metadata)


class Source:
    """Another node's daemon, with which the checkpoint lies."""

    def __init__(self, node: Any, *, leaves: str = "") -> None:
        self.node = node
        self.asked = 0
        self.works = False
        self.trouble: BaseException = Unavailable("connection refused")
        self.leaves = leaves
        """Name of a file in what has come until then."""
        node.saved()
        node.checkpoint("old")["status"]["location"]["peer"]["node"] = "node2"
        node.fetch = self.fetch

    def fetch(self, _: str, checkpoint_id: str, target: Path, **more: Any) -> None:
        self.asked += 1
        if not self.works:
            if self.leaves:
                half = target.with_name(f"{target.name}.partial")
                half.mkdir(exist_ok=True)
                (half / self.leaves).touch()
            raise self.trouble
        directory = self.node.depot.departure(checkpoint_id)
        more["accept"](contents.read(directory))
        directory.rename(target)


def test_what_cannot_be_fetched_is_tried_again_at_each_start(node: Any) -> None:
    source = Source(node)
    wanting(node, OnRestoreFailure.RETRY)
    for tries in (1, 2):
        answer = node.arriving("new")
        assert (answer["restore"], answer["hold"], answer["reason"]) == (False, True, "Unavailable")
        assert source.asked == tries
        assert node.conditions("old")["Restored"] == "False Unavailable"
    assert node.notes[-2:] == [("new", "RestoreFailed")] * 2
    assert node.claimant("old") == "uid-new"
    assert "Failed" not in node.conditions("old")
    node.restart()
    source.works = True
    assert node.arriving("new") == {
        "restore": True,
        "hold": False,
        "reason": "Restored",
        "message": "",
    }


@pytest.mark.parametrize(
    ("policy", "is_kept"),
    [
        (OnRestoreFailure.RETRY, True),
        (OnRestoreFailure.FAIL, False),
        (OnRestoreFailure.FRESH, False),
    ],
)
def test_what_has_come_so_far_stays_as_long_as_it_is_tried_again(
    node: Any, policy: OnRestoreFailure, is_kept: bool
) -> None:
    Source(node, leaves=".notes")
    wanting(node, policy)
    node.arriving("new")
    half = node.state / "arrivals/uid-new.partial"
    assert half.exists() is is_kept
    node.restart()
    node.watched()
    node.upkeep.run()
    assert half.exists() is is_kept
    node.gone("new")
    node.watched()
    node.upkeep.run()
    node.upkeep.run()
    assert not half.exists()


def test_what_has_come_when_the_daemon_ended_stays_for_the_next_one(node: Any) -> None:
    source = Source(node, leaves=".notes")
    source.trouble = SystemExit()
    wanting(node, OnRestoreFailure.FRESH)
    with pytest.raises(SystemExit):
        node.arriving("new")
    node.restart()
    node.watched()
    node.upkeep.run()
    assert (node.state / "arrivals/uid-new.partial/.notes").exists()
    (node.state / "arrivals/uid-new.fresh").touch()  # the runtime waits no longer
    node.upkeep.run()
    assert not (node.state / "arrivals/uid-new.partial").exists()


def test_what_cannot_be_fetched_is_told_once_and_waits_for_its_user(node: Any) -> None:
    source = Source(node)
    wanting(node, OnRestoreFailure.FAIL)
    first = node.arriving("new")
    assert first["hold"] is True
    node.restart()
    source.works = True
    assert node.arriving("new") == first
    assert source.asked == 1
    assert node.claimant("old") == "uid-new"
    value = node.cluster.pod("new")
    value["metadata"]["labels"] = {names.FRESH: "true"}
    node.cluster.put_pod(value)
    answer = node.arriving("new")
    assert (answer["restore"], answer["hold"], answer["reason"]) == (False, False, "Fresh")
    assert node.conditions("old")["Failed"] == "True RestoreFailed"
    node.restart()
    assert node.arriving("new") == answer


@pytest.mark.parametrize("policy", list(OnRestoreFailure))
def test_an_image_that_differs_goes_as_the_policy_says(node: Any, policy: OnRestoreFailure) -> None:
    node.saved()
    right = node.images.digests["app:1"]
    node.images.digests["app:1"] = f"sha256:{'b' * 64}"
    wanting(node, policy)
    answer = node.arriving("new")
    assert answer["reason"] == "ImageDiffers"
    assert answer["hold"] is (policy is not OnRestoreFailure.FRESH)
    node.images.digests["app:1"] = right
    assert node.arriving("new")["restore"] is (policy is OnRestoreFailure.RETRY)


def test_what_kubelet_tells_of_tries_in_vain_is_no_run_of_a_pod_that_is_held(node: Any) -> None:
    node.saved()
    right = node.images.digests["app:1"]
    node.images.digests["app:1"] = f"sha256:{'b' * 64}"
    wanting(node, OnRestoreFailure.RETRY)
    assert node.arriving("new")["hold"] is True
    value = node.cluster.pod("new")
    refused = {"exitCode": 128, "reason": "StartError"}
    value["status"]["containerStatuses"] = [
        {"name": "app", "restartCount": 1, "state": {"terminated": refused}}
    ]
    node.cluster.put_pod(value)
    node.restart()
    answer = node.arriving("new")
    assert (answer["hold"], answer["reason"]) == (True, "ImageDiffers")
    node.images.digests["app:1"] = right
    assert node.arriving("new")["restore"] is True


def test_who_has_no_predecessor_starts_whatever_the_policy_says(node: Any) -> None:
    wanting(node, OnRestoreFailure.FAIL)
    answer = node.arriving("new")
    assert (answer["restore"], answer["hold"], answer["reason"]) == (False, False, "NoCheckpoint")


def test_one_that_is_held_and_deleted_hands_on_what_it_claimed(node: Any) -> None:
    source = Source(node)
    wanting(node, OnRestoreFailure.RETRY)
    assert node.arriving("new")["hold"] is True
    node.delete("new")
    assert node.leaving("new")["reason"] == "NotBegun"
    assert node.claimant("old") == ""
    source.works = True
    wanting(node, OnRestoreFailure.RETRY, "next")
    assert node.arriving("next")["restore"] is True


def test_one_that_is_held_keeps_its_claim_while_nobody_can_be_asked(node: Any) -> None:
    Source(node, leaves=".notes")
    wanting(node, OnRestoreFailure.RETRY)
    assert node.arriving("new")["hold"] is True
    node.watched("new")
    node.cluster.failures.append(lambda _: Unavailable("503"))
    assert node.arriving("new")["hold"] is True
    node.cluster.failures.clear()
    node.watched()
    node.upkeep.run()
    assert (node.state / "arrivals/uid-new.partial/.notes").exists()
    node.gone("new")
    node.watched()
    node.upkeep.run()
    assert node.claimant("old") == ""


def test_one_that_is_held_and_deleted_while_it_is_tried_again_hands_on_its_claim(node: Any) -> None:
    Source(node)
    wanting(node, OnRestoreFailure.RETRY)
    assert node.arriving("new")["hold"] is True
    node.arrivals._pods["uid-new"].is_leaving = True
    answer = node.arriving("new")
    assert (answer["restore"], answer["hold"], answer["reason"]) == (False, False, "Leaving")
    assert node.claimant("old") == ""


def test_a_pod_whose_policy_nobody_knows_here_is_left_to_its_runtime(node: Any) -> None:
    Source(node)
    wanting(node, OnRestoreFailure.FAIL)
    assert node.arriving("new")["hold"] is True
    node.restart()  # and its watch has told nothing yet
    node.cluster.failures.append(lambda _: Unavailable("503"))
    with pytest.raises(Unavailable):
        node.arriving("new")
    node.cluster.failures.clear()
    assert node.arriving("new")["hold"] is True
    assert node.claimant("old") == "uid-new"
