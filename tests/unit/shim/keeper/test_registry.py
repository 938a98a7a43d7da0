"""Which pods there are, and which of them somebody means."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from architect.api import names
from architect.api.keeper import Event, PodState
from architect.api.policy import ContainerPolicy, Policy
from architect.core.errors import FormatError, NodeError, Rejected
from architect.shim import record_files, records
from architect.shim.keeper import criu, images
from architect.shim.keeper.hooks import Hooks
from architect.shim.keeper.loop import Loop
from architect.shim.keeper.network import NodeNetwork
from architect.shim.keeper.registry import Registry
from architect.shim.keeper.volumes import Volumes
from architect.shim.records import Record

POLICY = Policy(containers={"app": ContainerPolicy(), "more": ContainerPolicy()})


class Network:
    """Of the node and of each pod: takes what it is told."""

    def pod(self, _: str) -> Network:
        return self

    def add(self, *_: Any) -> None: ...

    def state(self) -> None: ...

    def close(self) -> None: ...


class Node:
    def __init__(self, runc_root: Path) -> None:
        self.runc_root = runc_root
        self.events: list[tuple[Event, str]] = []
        self.pods = Registry(
            loop=cast(Loop, None),
            server=cast(criu.Server, None),
            network=cast(NodeNetwork, Network()),
            hooks=cast(Hooks, None),
            volumes=cast(Volumes, None),
            emit=lambda event, details: self.events.append((event, details["container"])),
        )

    def record(self, id: str, *, pod: str, name: str = "web-0", container: str = "app") -> Record:
        return Record(
            id=id,
            pod=pod,
            namespace="shop" if name else "",
            pod_name=name,
            container=container,
            sandbox_id=None,
            bundle="",
            pid_file=None,
            runc_root=str(self.runc_root),
            systemd_cgroup=False,
            runtime="runc",
            netns=None,
            policy=POLICY.to_dict(),
            init_sha="",
            created=0.0,
            hollow=False,
        )

    def register(self, id: str, **more: str) -> None:
        records.write(self.record(id, **more))
        self.pods.register(id)

    def uids(self) -> list[str]:
        return [pod.uid for pod in self.pods.everyone()]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(names, "CONTAINER_RECORDS", tmp_path / "records")
    monkeypatch.setattr(names, "STATE", tmp_path)
    monkeypatch.setattr(names, "PODS", tmp_path / "pods")
    return Node(tmp_path / "runc")


def test_a_pod_is_there_from_its_first_container_to_its_last(node: Node) -> None:
    node.register("one", pod="uid-1")
    node.register("two", pod="uid-1", container="more")
    node.pods.register("two")
    assert node.uids() == ["uid-1"]
    node.pods.removed("one")
    node.pods.removed("unknown")
    assert node.uids() == ["uid-1"]
    node.pods.removed("two")
    assert node.uids() == []
    assert list(records.identities()) == []
    assert node.events == [
        (Event.REGISTERED, "one"),
        (Event.REGISTERED, "two"),
        (Event.REMOVED, "one"),
        (Event.REMOVED, "two"),
    ]


def test_a_container_that_is_made_again_takes_the_place_of_the_one_before(node: Node) -> None:
    node.register("old", pod="uid-1")
    pod = node.pods.find("uid-1")
    pod.note_signal("old")
    node.register("new", pod="uid-1")
    assert node.pods.find("uid-1") is pod
    assert not pod.signalled, "that went to the old one"
    assert node.pods.pod_of("old") is None
    assert node.pods.member("new") == (pod, pod.containers["app"])


def test_one_with_the_id_of_another_whose_end_nobody_told_makes_a_new_pod(node: Node) -> None:
    node.register("main", pod="main", name="")
    before = node.pods.find("main")
    records.write(replace(node.record("main", pod="main", name=""), created=1.0))
    after = node.pods.register("main")
    assert after is not before
    assert node.uids() == ["main"]
    assert [event for event, _ in node.events] == [
        Event.REGISTERED,
        Event.REMOVED,
        Event.REGISTERED,
    ]


def test_a_pod_is_found_by_all_that_people_call_it(node: Node) -> None:
    node.register("0123456789abcdef", pod="uid-1", name="web-0")
    node.register("fedcba9876543210", pod="fedcba9876543210", name="")
    for wanted in ("uid-1", "shop/web-0", "web-0", "0123456789abcdef"):
        assert node.pods.find(wanted).uid == "uid-1"
    for wanted in ("fedcba9876543210", "fedcba987654"):
        assert node.pods.find(wanted).uid == "fedcba9876543210"
    for wanted in ("web", "fedcba98765", "0123456789ab", "/"):
        with pytest.raises(Rejected, match="no managed pod") as refused:
            node.pods.find(wanted)
        assert refused.value.reason == "UnknownPod"


def test_a_name_that_several_have_is_told_and_a_uid_goes_first(node: Node) -> None:
    node.register("one", pod="uid-1")
    node.register("two", pod="uid-2")
    node.register("three", pod="web-0", name="other")
    assert node.pods.find("web-0").uid == "web-0"
    with pytest.raises(Rejected, match="ambiguous: shop/web-0, shop/web-0") as refused:
        node.pods.find("shop/web-0")
    assert refused.value.reason == "Ambiguous"


def test_what_is_not_managed_is_told_by_its_id(node: Node) -> None:
    for ask in (node.pods.register, node.pods.member):
        with pytest.raises(Rejected, match="'nobody'") as refused:
            ask("nobody")
        assert refused.value.reason == "UnknownContainer"
    node.pods.forget("nobody")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"container": "third"}, "its policy has no 'third'"),
        ({"policy": {"version": 99}}, "record of container one"),
        ({"version": 99}, "version 99 is not 1"),
    ],
)
def test_a_record_that_cannot_be_read_is_told_and_takes_nobody_in(
    node: Node, change: dict[str, Any], said: str
) -> None:
    value = {"version": record_files.VERSION, **asdict(node.record("one", pod="uid-1")), **change}
    names.CONTAINER_RECORDS.mkdir()
    record_files.path("one").write_text(json.dumps(value))
    with pytest.raises(FormatError, match=said):
        node.pods.register("one")
    assert node.uids() == []


@pytest.mark.parametrize("uid", ["..", "../b", "a/b", ".hidden", "x" * 300])
def test_a_pod_whose_name_is_a_path_is_none(node: Node, uid: str) -> None:
    with pytest.raises(NodeError, match="not usable as a file name"):
        node.register("c1", pod=uid)
    assert node.uids() == []
    node.register("c2", pod="b")
    assert node.uids() == ["b"]


def image_of(pod: str) -> Path:
    """Make what a container that slept has left."""
    directory = names.PODS / pod / "app"
    image = directory / "image"
    image.mkdir(parents=True)
    for name, content in (("inventory.img", ""), ("dump.exit", "0"), ("../meta.json", "{}")):
        (image / name).write_text(content)
    return directory


def test_a_container_that_is_made_has_no_image_of_one_that_ended_asleep(node: Node) -> None:
    directory = image_of("uid-1")
    records.write(node.record("new", pod="uid-1"))
    node.pods.register("new", is_new=True)
    assert not images.is_complete(directory)
    assert not list(directory.glob("failed-*"))  # such images must not pile up


def test_a_container_that_is_made_keeps_aside_what_could_not_be_restored(node: Node) -> None:
    directory = image_of("uid-1")
    node.register("old", pod="uid-1")
    pod = node.pods.get("uid-1")
    assert pod is not None
    pod.state = PodState.FAILED
    records.write(node.record("new", pod="uid-1"))
    node.pods.register("new", is_new=True)
    assert not images.is_complete(directory)
    assert (directory / "failed-1" / "inventory.img").exists()


def test_one_that_was_there_before_this_keeper_keeps_its_image(node: Node) -> None:
    directory = image_of("uid-1")
    node.register("old", pod="uid-1")
    # As the runtime does that is answered late: the container is the same.
    node.pods.register("old", is_new=True)
    assert images.is_complete(directory)
