"""Who may read a checkpoint, and where the daemon of a node is: answers from the API."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core.errors import ArchitectError, FormatError, Unavailable
from architect.daemon.peer.addresses import Addresses, choose
from architect.daemon.peer.claims import TRUSTED_SECONDS, Claims, is_claimed, why_not
from architect.kube.api import Api
from support.checkpointdirs import about, fill, successor

OBJECT = "/apis/architect.dev/v1alpha1/namespaces/default/checkpoints/web-uid-web-move"


def checkpoint(**status: Any) -> dict[str, Any]:
    return {
        "apiVersion": "architect.dev/v1alpha1",
        "kind": "Checkpoint",
        "metadata": {"name": "web-uid-web", "namespace": "default", "uid": "c"},
        "spec": {"podRef": {"name": "web", "uid": "uid-web"}},
        "status": {
            "location": {"peer": {"node": "node-a", "id": "web-1234"}},
            "claimedBy": {"name": "web", "uid": "uid-2", "node": "node-b"},
            **status,
        },
    }


class World:
    def __init__(self, cluster: Any, api: Api, directory: Path) -> None:
        self.cluster = cluster
        cluster.put_pod(successor())
        self.now = 1000.0
        self.directory = directory
        fill(directory)
        self.claims = Claims(
            api,
            node="node-a",
            locate=lambda name: directory if name == "web-1234" else None,
            clock=lambda: self.now,
        )


@pytest.fixture
def world(cluster: Any, api: Api, tmp_path: Path) -> World:
    return World(cluster, api, tmp_path)


def test_the_node_that_claimed_it_may_read_and_no_other(world: World) -> None:
    world.cluster.put(OBJECT, checkpoint())
    assert world.claims.may_read("node-b", "web-1234")
    assert not world.claims.may_read("node-c", "web-1234")
    assert not world.claims.may_read("node-a", "web-1234")
    assert not world.claims.may_read("", "web-1234")


def test_nobody_may_read_what_nobody_claimed(world: World) -> None:
    assert not world.claims.may_read("node-b", "web-1234")
    world.cluster.put(OBJECT, checkpoint(claimedBy=None))
    assert not world.claims.may_read("node-b", "web-1234")
    assert not world.claims.may_read("node-b", "other")


def test_a_claim_is_believed_for_seconds_and_then_asked_for_again(world: World) -> None:
    world.cluster.put(OBJECT, checkpoint())
    assert world.claims.may_read("node-b", "web-1234")
    asked = len(world.cluster.requests)
    world.cluster.put(OBJECT, checkpoint(claimedBy=None))
    assert world.claims.may_read("node-b", "web-1234")
    assert len(world.cluster.requests) == asked
    world.now += TRUSTED_SECONDS
    assert not world.claims.may_read("node-b", "web-1234")


@pytest.mark.parametrize("what", ["checkpoints", "pods"])
def test_an_api_that_does_not_answer_is_no_permission(world: World, what: str) -> None:
    def away(request: Any) -> Any:
        if f"/{what}/" in request.path:
            return Unavailable("away")
        return None

    world.cluster.put(OBJECT, checkpoint())
    world.cluster.failures.append(away)
    with pytest.raises(ArchitectError):
        world.claims.may_read("node-b", "web-1234")


def test_a_manifest_of_ours_that_is_damaged_is_no_permission(world: World) -> None:
    world.cluster.put(OBJECT, checkpoint())
    (world.directory / "manifest.json").write_bytes(b"{}")
    with pytest.raises(FormatError):
        world.claims.may_read("node-b", "web-1234")
    (world.directory / "manifest.json").unlink()
    assert not world.claims.may_read("node-b", "web-1234")


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["metadata"].update(deletionTimestamp="2030-01-01T00:00:00Z"),
        lambda v: v["spec"]["podRef"].update(uid="another"),
        lambda v: v["status"]["location"]["peer"].update(node="node-c"),
        lambda v: v["status"]["location"]["peer"].update(id="another"),
        lambda v: v["status"].update(location={"s3": {"bucket": "b"}}),
        lambda v: v["status"]["claimedBy"].update(node="node-c"),
        lambda v: v["status"].pop("claimedBy"),
        lambda v: v.pop("status"),
        lambda v: v.pop("spec"),
    ],
)
def test_whatever_differs_in_the_object_is_no_claim(change: Any) -> None:
    value = checkpoint()
    assert is_claimed(value, about(), by="node-b", source="node-a")
    change(value)
    assert not is_claimed(value, about(), by="node-b", source="node-a")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v["metadata"].update(uid="another"), "PodReplaced"),
        (lambda v: v["spec"].update(nodeName="node-c"), "WrongNode"),
        (lambda v: v["spec"].pop("nodeName"), "WrongNode"),
        (lambda v: v["status"].update(phase="Succeeded"), "PodEnded"),
        (lambda v: v["status"].update(phase="Failed"), "PodEnded"),
        (lambda v: v["metadata"]["ownerReferences"][0].update(uid="another"), "WrongOwner"),
        (lambda v: v["metadata"]["ownerReferences"][0].update(controller=False), "WrongOwner"),
        (lambda v: v["metadata"].pop("ownerReferences"), "WrongOwner"),
    ],
)
def test_a_claim_for_a_pod_that_may_not_have_it_is_none(
    world: World, change: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Any daemon can write a claim; what nobody but the API server says is which pods it has."""
    world.cluster.put(OBJECT, checkpoint())
    pod = successor()
    change(pod)
    world.cluster.put_pod(pod)
    assert not world.claims.may_read("node-b", "web-1234")
    assert f"node node-b claims checkpoint web-1234: {reason}: pod web " in caplog.text
    world.cluster.put_pod(successor())
    assert world.claims.may_read("node-b", "web-1234"), "what was refused is asked for again"


def test_a_claim_for_a_pod_that_is_not_there_is_none(world: World) -> None:
    world.cluster.put(OBJECT, checkpoint(claimedBy={"name": "x", "uid": "u", "node": "node-b"}))
    assert not world.claims.may_read("node-b", "web-1234")


def test_whose_pod_was_saved_is_what_our_manifest_says(world: World) -> None:
    """Somebody who may create Checkpoints can name the owner of a pod that he has."""
    value = checkpoint()
    value["spec"]["owner"] = {"uid": "his"}
    world.cluster.put(OBJECT, value)
    his = successor()
    his["metadata"]["ownerReferences"][0]["uid"] = "his"
    world.cluster.put_pod(his)
    assert not world.claims.may_read("node-b", "web-1234")


def test_what_nobody_replaces_is_nobodys() -> None:
    claim = checkpoint()["status"]["claimedBy"]
    assert why_not(claim, successor(), about()) is None
    differs = why_not(claim, successor(), dataclasses.replace(about(), owner=None))
    assert differs is not None and differs[0] == "WrongOwner"


def pod(name: str, *, node: str = "node-a", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "architect", "uid": f"uid-{name}",
                     "creationTimestamp": f"2030-01-01T00:00:0{name[-1]}Z"},
        "spec": {"nodeName": node, "containers": [
            {"name": "daemon", "ports": [{"name": "metrics", "containerPort": 1},
                                         {"name": "peer", "containerPort": 9465}]}]},
        "status": {"phase": "Running", "podIP": f"10.0.0.{name[-1]}", **status},
    }  # fmt: skip


def test_the_daemon_of_a_node_is_found_by_its_pod(cluster: Any, api: Api) -> None:
    for value in (pod("d1"), pod("d2", node="node-b")):
        value["metadata"]["labels"] = {"a": "b"}
        cluster.put_pod(value)
    found = Addresses(api, namespace="architect", selector="a=b")
    assert found.address_of("node-b") == "10.0.0.2:9465"
    (request,) = cluster.requests
    assert request.path == "/api/v1/namespaces/architect/pods"
    assert request.query["labelSelector"] == "a=b"
    assert request.query["fieldSelector"] == "spec.nodeName=node-b"


def test_the_youngest_that_stays_is_asked() -> None:
    going = pod("d3")
    going["metadata"]["deletionTimestamp"] = "2030-01-01T01:00:00Z"
    assert choose([pod("d1"), going, pod("d2")], node="node-a") == "10.0.0.2:9465"
    assert choose([going], node="node-a") == "10.0.0.3:9465"


def test_an_address_of_ipv6_has_brackets() -> None:
    assert choose([pod("d1", podIP="fd00::1")], node="node-a") == "[fd00::1]:9465"


@pytest.mark.parametrize("pods", [[], [pod("d1", phase="Pending")], [pod("d1", node="node-b")]])
def test_a_node_without_a_daemon_is_named(pods: list[dict[str, Any]]) -> None:
    with pytest.raises(Unavailable, match="the daemon of node node-a does not run"):
        choose(pods, node="node-a")


def test_a_daemon_of_a_version_without_peers_is_named() -> None:
    old = pod("d1")
    old["spec"]["containers"][0]["ports"].pop()
    with pytest.raises(Unavailable, match="older version"):
        choose([old], node="node-a")


@given(st.permutations([pod("d1"), pod("d2"), pod("d3", podIP=None)]))
def test_the_order_in_which_pods_are_listed_does_not_matter(pods: list[dict[str, Any]]) -> None:
    assert choose(pods, node="node-a") == "10.0.0.2:9465"
