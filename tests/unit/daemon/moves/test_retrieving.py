"""A claimed checkpoint out of the object store: the key for who claimed it, and nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from architect.checkpoint import keys
from architect.checkpoint.envelope import Envelope
from architect.checkpoint.keys import Binding, Claimant
from architect.core.errors import FormatError, NodeError, Rejected, Unavailable
from architect.daemon.checkpoint import contents
from architect.daemon.moves import retrieving
from architect.daemon.moves.retrieving import Retrieving
from architect.kube import conditions

DATA_KEY = bytes(range(32))
S3 = {"bucket": "checkpoints", "key": "default/uid-old/manifest.json", "manifestSha256": "c" * 64}


class VaultDouble:
    bucket = "checkpoints"

    def __init__(self, described: Envelope) -> None:
        self.described = described
        self.opened_with: list[bytes] = []

    def describe(self, key: str, *, sha256: str) -> Envelope:
        assert (key, sha256) == (S3["key"], S3["manifestSha256"])
        return self.described

    def download(self, described: Envelope, data_key: bytes, target: Path, **_: Any) -> Any:
        self.opened_with.append(data_key)
        target.mkdir(parents=True)

        class Downloaded:
            seconds = 0.1
            resumed_shards = 0

        return Downloaded()


class Story:
    """The checkpoint of pod old, claimed by pod new of node1, in the store only."""

    def __init__(self, node: Any) -> None:
        self.node = node
        node.saved()
        directory = node.depot.departure("uid-old")
        manifest = contents.read(directory)
        self.vault = VaultDouble(
            Envelope(
                manifest=manifest,
                attempt="0" * 16,
                sealed=manifest.about.created,
                shards=(),
                key_id="0" * 16,
                wrapped_key=b"",
            )
        )
        node.pod("new", is_running=False)
        value = node.checkpoint("old")
        value["status"]["location"]["s3"] = dict(S3)
        value["status"]["claimedBy"] = {"name": "new", "uid": "uid-new", "node": "node1"}
        self.retrieving = Retrieving(
            node.api, node="node1", vault=cast(Any, self.vault), latest=node.latest
        )

    def retrieve(self, **more: Any) -> Path:
        target: Path = self.node.depot.arrival_of("uid-new")
        self.retrieving.retrieve(
            more.pop("checkpoint", self.node.checkpoint("old")),
            self.node.ref("new"),
            target,
            accept=more.pop("accept", lambda _: None),
            timeout_seconds=20,
        )
        return target

    def operator(self, act: Callable[[Any, str], None]) -> threading.Thread:
        """Have *act* done with the checkpoint once it asks for a key."""

        def watch() -> None:
            def asked() -> str:
                value = self.node.checkpoint("old")["status"]
                return str(value.get("claimedBy", {}).get("publicKey", ""))

            self.node.until(asked)
            act(self.node.checkpoint("old")["status"], asked())

        thread = threading.Thread(target=watch)
        thread.start()
        return thread

    def give(self, status: Any, public: str, *, node: str = "node1", pod: str = "uid-old") -> None:
        binding = Binding(
            namespace="default", pod_uid=pod, owner_uid="owner-1", checkpoint_id="uid-old"
        )
        sealed = keys.release(
            DATA_KEY,
            keys.public_from_text(public),
            binding,
            claimant=Claimant(pod_uid="uid-new", node=node),
        )
        status["keyRelease"] = {"publicKey": public, "sealedKey": keys.sealed_to_text(sealed)}


@pytest.fixture
def story(node: Any) -> Story:
    return Story(node)


def test_the_key_that_was_given_opens_it(story: Story) -> None:
    operator = story.operator(story.give)
    assert story.retrieve().is_dir()
    operator.join(20)
    assert story.vault.opened_with == [DATA_KEY]


def test_each_claim_has_a_key_of_its_own(story: Story) -> None:
    seen = []
    for _ in range(2):

        def give(status: Any, public: str) -> None:
            seen.append(public)
            story.give(status, public)

        operator = story.operator(give)
        story.retrieve().rmdir()
        operator.join(20)
        del story.node.checkpoint("old")["status"]["claimedBy"]["publicKey"]
    assert seen[0] != seen[1]


@pytest.mark.parametrize("other", [{"node": "node2"}, {"pod": "uid-other"}])
def test_a_key_for_another_claim_opens_nothing(story: Story, other: dict[str, str]) -> None:
    operator = story.operator(lambda status, public: story.give(status, public, **other))
    with pytest.raises(FormatError):
        story.retrieve()
    operator.join(20)
    assert story.vault.opened_with == []


def test_a_refusal_is_told_at_once_by_its_name(story: Story) -> None:
    def refuse(status: Any, public: str) -> None:
        said = f"{keys.claim_mark(public)}pod new is on node2"
        status["conditions"] = conditions.replace(
            status["conditions"],
            {"type": "KeyReleased", "status": "False", "reason": "OtherNode", "message": said},
        )

    operator = story.operator(refuse)
    with pytest.raises(Rejected, match="pod new is on node2") as caught:
        story.retrieve()
    operator.join(20)
    assert caught.value.reason == "OtherNode"


def test_an_operator_that_is_away_is_named(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieving, "KEY_SECONDS", 0.2)
    with pytest.raises(Unavailable, match="the operator gave no key"):
        story.retrieve()


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_kept_the_operator_from_an_answer_is_named(
    story: Story, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    monkeypatch.setattr(retrieving, "KEY_SECONDS", 0.0)

    def delay(_: Any) -> None:
        """Say it once it was asked."""
        status = story.node.checkpoint("old")["status"]
        mark = keys.claim_mark(status["claimedBy"]["publicKey"] if is_ours else "another's")
        said = {
            "type": "KeyReleased", "status": "Unknown", "reason": "KmsAccessDenied",
            "message": f"{mark}not you",
        }  # fmt: skip
        status["conditions"] = conditions.replace(status["conditions"], said)

    text = "could give no key: KmsAccessDenied: claim .*: not you" if is_ours else "does it run"
    with pytest.raises(Unavailable, match=text):
        story.retrieve(accept=delay)


def test_a_claim_of_another_pod_is_not_touched(story: Story) -> None:
    story.node.checkpoint("old")["status"]["claimedBy"]["uid"] = "uid-other"
    with pytest.raises(Rejected, match="claimed by another pod"):
        story.retrieve()
    assert "publicKey" not in story.node.checkpoint("old")["status"]["claimedBy"]


def test_a_manifest_that_is_refused_costs_no_download(story: Story) -> None:
    def accept(_: Any) -> None:
        raise Rejected("of another pod", reason="WrongCheckpoint")

    operator = story.operator(story.give)
    with pytest.raises(Rejected, match="of another pod"):
        story.retrieve(accept=accept)
    operator.join(20)
    assert story.vault.opened_with == []


def test_another_bucket_is_named(story: Story) -> None:
    story.node.checkpoint("old")["status"]["location"]["s3"]["bucket"] = "elsewhere"
    with pytest.raises(NodeError, match="elsewhere") as caught:
        story.retrieve()
    assert caught.value.reason == "OtherBucket"
