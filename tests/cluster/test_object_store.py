"""Saved pods in the object store: they outlive their node, and go once nobody needs them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from architect.api import names
from lab import object_store, release
from lab.cluster import Cluster
from lab.node import Node
from support import moves
from support.moves import Pod
from support.tiers import sized
from support.workloads import Workload, eventually, workload

pytestmark = pytest.mark.timeout(400)

MIB = 24
"""Several shards, the last one short."""

STORED_SECONDS = 90

BUCKET = f"{object_store.DATA}/{object_store.BUCKET}"
"""In the control plane's machine."""


def _in_store(cluster: Cluster, uid: str) -> list[str]:
    """Return the files in which the object store keeps what it has of a pod."""
    find = f"cd {BUCKET} && find . -type f -path '*/{uid}/*'"
    return sorted(cluster.plane.machine.exec(["sh", "-c", find]).split())


def _bytes(cluster: Cluster, path: str) -> bytes:
    """Return an object as it lies on the store's disk."""
    return base64.b64decode(cluster.plane.machine.exec(["base64", f"{BUCKET}/{path}"]))


@contextmanager
def _left_and_stored(app: Workload) -> Iterator[tuple[Pod, str, Node]]:
    """Delete the workload's pod while nothing can replace it, and wait until it is stored."""
    (old,) = moves.ready(app)
    identity = str(moves.answer(app, old)["identity"])
    nodes = [n.name for n in app.cluster.nodes]
    try:
        for name in nodes:
            app.kubectl("cordon", name)
        app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
        eventually(
            lambda: _condition(app, old, "Stored") == "True",
            what="the pod lies in the object store",
            seconds=STORED_SECONDS,
        )
        yield old, identity, app.cluster.node(old["spec"]["nodeName"])
    finally:
        for name in nodes:
            app.kubectl("uncordon", name)


def _condition(app: Workload, old: Pod, kind: str) -> str:
    return moves.conditions(app, old).get(kind, ("", ""))[0]


def _location(app: Workload, old: Pod) -> dict[str, Any]:
    found = moves.checkpoint(app, old)
    assert found is not None
    location: dict[str, Any] = found["status"]["location"]
    return location


@pytest.mark.parametrize("lost", sized(["the copy"], ["the copy", "the machine"]))
def test_a_pod_goes_on_without_its_node(architect: Cluster, namespace: str, lost: str) -> None:
    with workload(architect, namespace, "outlives", mebibytes=MIB) as app:
        count = len(architect.nodes)
        with _left_and_stored(app) as (old, identity, node):
            uid = old["metadata"]["uid"]
            assert {"peer", "s3"} <= set(_location(app, old))
            held = _in_store(architect, uid)
            assert len(held) >= 1 + MIB // 8, held
            assert sum(path.endswith("/manifest.json") for path in held) == 1
            if lost == "the machine":
                node.machine.destroy()
            else:
                node.machine.exec(["rm", "-rf", f"{names.CHECKPOINTS}/{uid}"])
            for other in architect.nodes:
                if other.name != node.name:
                    app.kubectl("uncordon", other.name)
            (new,) = moves.ready(app, apart_from=[old], seconds=300)
            assert moves.answer(app, new)["identity"] == identity
            assert new["spec"]["nodeName"] != node.name
        assert moves.ended(app, old)["Restored"] == ("True", "Restored")
        found = moves.checkpoint(app, old)
        assert found is not None
        given = found["status"]["keyRelease"]
        assert given["publicKey"] == found["status"]["claimedBy"]["publicKey"]
        eventually(lambda: not _in_store(architect, uid), what="the data goes once the pod goes on")
        assert _condition(app, old, "Stored") == "False"
        if lost == "the machine":
            architect.up(count)
            release.install(architect)
        moves.nothing_left(app, [old])


def test_memory_in_the_store_cannot_be_read(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "secret", mebibytes=MIB) as app:
        with _left_and_stored(app) as (old, identity, _):
            uid = old["metadata"]["uid"]
            for path in _in_store(architect, uid):
                data = _bytes(architect, path)
                assert identity.encode() not in data, path
                if path.endswith("manifest.json"):
                    assert json.loads(data)["version"] == 1
        moves.ready(app, apart_from=[old])


def test_data_goes_with_its_checkpoint(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "deleted", mebibytes=MIB) as app:
        with _left_and_stored(app) as (old, identity, _):
            uid = old["metadata"]["uid"]
            assert _in_store(architect, uid)
            found = moves.checkpoint(app, old)
            assert found is not None
            app.kubectl("delete", "checkpoint", found["metadata"]["name"])
            eventually(lambda: not _in_store(architect, uid), what="the data is gone")
        (new,) = moves.ready(app, apart_from=[old])
        assert moves.answer(app, new)["identity"] != identity
