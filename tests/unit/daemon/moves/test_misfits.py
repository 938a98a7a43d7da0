"""What was saved does not fit the pod that comes: that is told, and it stays for another."""

from __future__ import annotations

from typing import Any

import pytest

from architect.api.policy import ContainerPolicy, OnRestoreFailure, Policy
from architect.core.errors import Unavailable
from architect.daemon.claims import Fresh


def test_a_tag_that_has_moved_is_told_and_brings_nothing_back(node: Any) -> None:
    node.saved()
    saved = node.checkpoint("old")
    assert saved["status"]["requirements"]["images"] == {"app": node.images.digests["app:1"]}
    node.images.digests["app:1"] = f"sha256:{'b' * 64}"
    node.pod("new", is_running=False)
    answer = node.arriving("new")
    assert (answer["restore"], answer["reason"]) == (False, "ImageDiffers")
    assert "container app ran image sha256:aaaa" in answer["message"]
    assert node.claimant("old") == ""


@pytest.mark.parametrize("known", ["there", "here", "nowhere"])
def test_images_are_compared_where_both_nodes_know_them(node: Any, known: str) -> None:
    digests = node.images.digests
    node.images.digests = digests if known == "there" else {}
    node.saved()
    node.images.digests = digests if known == "here" else {}
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True


def test_a_manifest_of_another_image_is_not_what_was_claimed(node: Any) -> None:
    node.saved()
    value = node.checkpoint("old")
    value["status"]["requirements"]["images"] = {"app": f"sha256:{'b' * 64}"}
    node.images.digests = {}
    node.pod("new", is_running=False)
    assert node.arriving("new")["reason"] == "WrongCheckpoint"


@pytest.mark.parametrize("policy", [OnRestoreFailure.FRESH, OnRestoreFailure.RETRY])
def test_what_does_not_fit_says_it_itself_until_a_pod_has_it(
    node: Any, policy: OnRestoreFailure
) -> None:
    node.saved()
    right = node.images.digests["app:1"]
    node.images.digests["app:1"] = f"sha256:{'b' * 64}"
    wish = Policy(containers={"app": ContainerPolicy()}, on_restore_failure=policy)
    node.pod("new", is_running=False, policy=wish)
    node.arriving("new")
    assert node.conditions("old")["Claimed"] == "False ImageDiffers"
    assert node.conditions("old")["Available"] == "True OnPeer"
    (told,) = [
        c["message"]
        for c in node.checkpoint("old")["status"]["conditions"]
        if c["type"] == "Claimed"
    ]
    assert told.startswith("pod new on node node1 does not go on from it: checkpoint old-")
    node.images.digests["app:1"] = right
    node.pod("newer", is_running=False)
    assert node.arriving("newer")["restore"] is True
    assert node.conditions("old")["Claimed"] == "True Claimed"


def test_that_it_does_not_fit_changes_nothing_of_what_somebody_has(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    why = Fresh(
        reason="FormatVersion", message="x", misfit=node.checkpoint("old")["metadata"]["name"]
    )
    node.endings.does_not_fit(node.ref("other"), why)
    assert node.conditions("old")["Claimed"] == "True Claimed"


def test_an_api_server_that_does_not_hear_that_it_does_not_fit_delays_nobody(node: Any) -> None:
    node.saved()
    node.images.digests["app:1"] = f"sha256:{'b' * 64}"
    node.pod("new", is_running=False)
    node.cluster.failures.append(
        lambda request: Unavailable("down") if request.method == "PATCH" else None
    )
    answer = node.arriving("new")
    assert (answer["restore"], answer["reason"]) == (False, "ImageDiffers")
    assert "Claimed" not in node.conditions("old")
