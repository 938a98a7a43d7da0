"""What was claimed is brought: from this node, from another one, or from the object store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from architect.checkpoint import manifest
from architect.core.errors import FormatError, NodeError, Rejected, Unavailable
from architect.daemon.checkpoint import contents
from architect.kube import checkpoints, conditions


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


def test_a_pod_of_another_version_brings_its_init_along(node: Any) -> None:
    node.saved()
    (init,) = (node.state / "init").glob("*/init")
    content = init.read_bytes()
    init.unlink()
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    assert init.read_bytes() == content
