"""A pod that comes gets the memory before it once, or starts fresh and says why."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from architect.api import names, saved
from architect.api.keeper import PodState
from architect.api.policy import ContainerPolicy, OnRestoreFailure, Policy
from architect.checkpoint import manifest
from architect.core.errors import FormatError, NodeError, Rejected, Unavailable
from architect.daemon.checkpoint import contents
from architect.daemon.claims import Fresh
from architect.daemon.moves import arrivals
from architect.kube import checkpoints, conditions
from architect.kube.errors import Conflict
from unit.daemon.moves.conftest import CHECKPOINTS


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


@pytest.mark.parametrize("where", ["node1", "node2"])
def test_another_manifest_than_the_claimed_one_is_refused(node: Any, where: str) -> None:
    node.saved()
    saved = node.state / "checkpoints/uid-old"
    claimed = contents.read(saved)
    later = replace(claimed.about, created=claimed.about.created + timedelta(seconds=1))
    contents.write(saved, manifest.make(later, claimed.pieces))
    node.checkpoint("old")["status"]["location"]["peer"]["node"] = where
    node.pod("new", is_running=False)

    def fetch(*_: Any, accept: Callable[[manifest.Manifest], None], **__: Any) -> None:
        accept(contents.read(saved))

    node.fetch = fetch
    answer = node.arriving("new")
    assert answer["restore"] is False and answer["reason"] == "WrongCheckpoint"
    assert claimed.sha256 in answer["message"]
    assert node.notes[-1] == ("new", "RestoreFailed")


def test_a_source_that_does_not_answer_is_said_aloud(node: Any) -> None:
    node.saved()
    node.checkpoint("old")["status"]["location"]["peer"]["node"] = "node2"
    node.pod("new", is_running=False)

    def fetch(*_: Any, **__: Any) -> None:
        raise Unavailable("node2 does not answer")

    node.fetch = fetch
    answer = node.arriving("new")
    assert answer["restore"] is False and "node2 does not answer" in answer["message"]
    assert node.conditions("old")["Failed"] == "True RestoreFailed"
    said = conditions.said(node.checkpoint("old"), checkpoints.FAILED)
    assert said["message"] == "Unavailable: node2 does not answer"
    assert node.notes[-1] == ("new", "RestoreFailed")
    node.restart()
    assert node.arriving("new")["restore"] is False, "the pod has begun"


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


def test_a_restore_that_failed_for_good_is_said_in_the_checkpoint(node: Any) -> None:
    node.saved()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    node.endings.not_restored("uid-new", "Unknown: restore ended with status 1")
    assert node.conditions("old")["Failed"] == "True RestoreFailed"
    node.adopt("new")
    node.endings.restored("uid-new", pod=None)
    assert node.conditions("old")["Restored"] == "False RestoreFailed"


def test_pods_that_are_gone_are_forgotten(node: Any) -> None:
    for name in ("one", "two"):
        node.pod(name, is_running=False)
        node.arriving(name)
    node.arrivals.forget_all_but({"uid-two"})
    assert set(node.arrivals._pods) == {"uid-two"}


# The object store

S3 = {"bucket": "checkpoints", "key": "default/uid-old/manifest.json", "manifestSha256": "c" * 64}


def _stored(node: Any, *, source: str = "node2") -> list[Any]:
    """Have the saved pod lie with node *source* and in the store; return what is retrieved."""
    node.saved()
    location = node.checkpoint("old")["status"]["location"]
    location["peer"]["node"] = source
    location["s3"] = dict(S3)
    retrieved: list[Any] = []

    def retrieve(checkpoint: Any, pod: Any, target: Path, *, accept: Any, **_: Any) -> None:
        retrieved.append(checkpoint)
        accept(contents.read(node.state / "checkpoints" / "uid-old"))
        (target / "containers" / "app" / "image").mkdir(parents=True)

    node.retrieve = retrieve
    node.pod("new", is_running=False)
    return retrieved


def test_a_peer_that_answers_is_asked_first(node: Any) -> None:
    retrieved = _stored(node)
    patience: list[float | None] = []

    def fetch(_: str, __: str, target: Path, **more: Any) -> None:
        patience.append(more["patience_seconds"])
        (target / "containers" / "app" / "image").mkdir(parents=True)

    node.fetch = fetch
    assert node.arriving("new")["restore"] is True
    assert retrieved == []
    assert patience == [3.0]


@pytest.mark.parametrize(
    "trouble",
    [
        Unavailable("the daemon of node node2 does not run"),
        Rejected("no such checkpoint", reason="UnknownCheckpoint"),
        FormatError("damaged"),
    ],
)
def test_without_its_node_it_comes_from_the_store(node: Any, trouble: Exception) -> None:
    retrieved = _stored(node)

    def fetch(*_: Any, **__: Any) -> None:
        raise trouble

    node.fetch = fetch
    assert node.arriving("new")["restore"] is True
    assert len(retrieved) == 1


def test_what_was_stored_while_the_peer_was_asked_is_found(node: Any) -> None:
    retrieved = _stored(node)
    location = node.checkpoint("old")["status"]["location"]
    s3 = location.pop("s3")

    def fetch(*_: Any, **more: Any) -> None:
        assert more["patience_seconds"] is None, "there is nobody else to ask yet"
        node.checkpoint("old")["status"]["location"]["s3"] = s3
        raise Unavailable("the daemon of node node2 does not run")

    node.fetch = fetch
    assert node.arriving("new")["restore"] is True
    assert len(retrieved) == 1


def test_what_this_node_has_lost_comes_from_the_store(node: Any) -> None:
    retrieved = _stored(node, source="node1")
    node.depot.departure("uid-old").rename(node.state / "kept")

    def retrieve(checkpoint: Any, pod: Any, target: Path, **_: Any) -> None:
        retrieved.append(checkpoint)
        (target / "containers" / "app" / "image").mkdir(parents=True)

    node.retrieve = retrieve
    assert node.arriving("new")["restore"] is True
    assert len(retrieved) == 1


def test_a_disk_that_is_full_is_full_for_the_store_as_well(node: Any) -> None:
    retrieved = _stored(node)

    def fetch(*_: Any, **__: Any) -> None:
        raise NodeError("no room", reason="DiskFull")

    node.fetch = fetch
    assert node.arriving("new")["reason"] == "DiskFull"
    assert retrieved == []


def test_what_lies_in_the_store_alone_comes_from_there(node: Any) -> None:
    retrieved = _stored(node)
    del node.checkpoint("old")["status"]["location"]["peer"]
    assert node.arriving("new")["restore"] is True
    assert len(retrieved) == 1


def test_a_node_that_is_about_to_end_is_spared(node: Any) -> None:
    retrieved = _stored(node)
    node.checkpoint("old")["spec"]["trigger"] = "SpotInterruption"
    assert node.arriving("new")["restore"] is True, "and node2 is not asked"
    assert len(retrieved) == 1


def test_a_node_that_is_about_to_end_is_asked_where_the_store_fails(node: Any) -> None:
    _stored(node)
    node.checkpoint("old")["spec"]["trigger"] = "SpotInterruption"

    def retrieve(*_: Any, **__: Any) -> None:
        raise Unavailable("503")

    def fetch(_: str, __: str, target: Path, **more: Any) -> None:
        (target / "containers" / "app" / "image").mkdir(parents=True)

    node.retrieve, node.fetch = retrieve, fetch
    assert node.arriving("new")["restore"] is True


def test_what_a_node_that_is_about_to_end_saved_it_takes_itself(node: Any) -> None:
    retrieved = _stored(node, source="node1")
    node.checkpoint("old")["spec"]["trigger"] = "SpotInterruption"
    assert node.arriving("new")["restore"] is True
    assert retrieved == []


def test_a_pod_that_has_left_does_not_begin_anew(node: Any) -> None:
    node.saved()
    node.pod("old")
    node.leaves = {"uid-old"}
    answer = node.arriving("old")
    assert (answer["restore"], answer["left"], answer["reason"]) == (False, True, "Captured")
    node.leaves = set()
    assert "left" not in node.arriving("old")


def test_of_a_node_that_is_lost_with_all_it_had_nothing_comes(node: Any) -> None:
    retrieved = _stored(node)
    del node.checkpoint("old")["status"]["location"]["s3"]

    def fetch(*_: Any, **__: Any) -> None:
        raise Unavailable("the daemon of node node2 does not run")

    node.fetch = fetch
    answer = node.arriving("new")
    assert answer["restore"] is False
    assert "does not run" in answer["message"]
    assert retrieved == []


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


# Pods that do not start without their memory.


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


def test_a_pod_of_another_version_brings_its_init_along(node: Any) -> None:
    node.saved()
    (init,) = (node.state / "init").glob("*/init")
    content = init.read_bytes()
    init.unlink()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    assert init.read_bytes() == content


@pytest.mark.parametrize("policy", [OnRestoreFailure.FRESH, OnRestoreFailure.RETRY])
def test_what_does_not_fit_says_it_itself_until_a_pod_has_it(
    node: Any, policy: OnRestoreFailure
) -> None:
    node.saved()
    right = node.images.digests["app:1"]
    node.images.digests["app:1"] = f"sha256:{'b' * 64}"
    wanting(node, policy)
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
