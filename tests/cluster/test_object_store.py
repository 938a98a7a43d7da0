"""Saved pods in the object store: they outlive their node, and go once nobody needs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from architect.api import names
from architect.api.policy import Storage
from architect.checkpoint import envelope
from lab import release
from lab.cluster import Cluster
from lab.node import Node
from support import chart, moves
from support.moves import Pod
from support.objectstore import in_store, stored_bytes
from support.storing import leave, lose_copy
from support.tiers import sized
from support.workloads import Workload, eventually, workload

pytestmark = pytest.mark.timeout(900)

MIB = 24
"""Several shards, the last one short."""


@contextmanager
def _left_and_stored(app: Workload, *, stored: str = "True") -> Iterator[tuple[Pod, str, Node]]:
    """Delete the workload's pod while nothing can replace it, and wait until it is stored.

    Or until condition ``Stored`` is *stored*.
    """
    (old,) = moves.ready(app)
    identity = str(moves.answer(app, old)["identity"])
    nodes = [n.name for n in app.cluster.nodes]
    try:
        for name in nodes:
            app.kubectl("cordon", name)
        leave(app, stored=stored)
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
            held = in_store(architect, uid)
            assert len(held) >= 1 + MIB // 8, held
            assert sum(path.endswith("/manifest.json") for path in held) == 1
            if lost == "the machine":
                node.machine.destroy()
            else:
                lose_copy(app, old)
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
        eventually(lambda: not in_store(architect, uid), what="the data goes once the pod goes on")
        eventually(lambda: _condition(app, old, "Stored") == "False", what="the object says so")
        if lost == "the machine":
            architect.up(count)
            release.install(architect)
        moves.nothing_left(app, [old])


@pytest.mark.long
def test_memory_in_the_store_cannot_be_read(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "secret", mebibytes=MIB) as app:
        with _left_and_stored(app) as (old, identity, _):
            held = in_store(architect, old["metadata"]["uid"])
            assert len(held) >= 1 + MIB // 8, held
            for path in held:
                assert identity.encode() not in stored_bytes(architect, path), path
            (manifest,) = (path for path in held if path.endswith("/manifest.json"))
            assert json.loads(stored_bytes(architect, manifest))["version"] == envelope.VERSION
        moves.ready(app, apart_from=[old])


def test_data_goes_with_its_checkpoint(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "deleted", mebibytes=MIB) as app:
        with _left_and_stored(app) as (old, identity, _):
            uid = old["metadata"]["uid"]
            assert in_store(architect, uid)
            found = moves.checkpoint(app, old)
            assert found is not None
            app.kubectl("delete", "checkpoint", found["metadata"]["name"])
            eventually(lambda: not in_store(architect, uid), what="the data is gone")
        (new,) = moves.ready(app, apart_from=[old])
        assert moves.answer(app, new)["identity"] != identity


def test_a_pod_that_stays_with_nodes_is_not_uploaded(architect: Cluster, namespace: str) -> None:
    annotations = {names.IDLE: "1h", names.STORAGE: Storage.NODE.value}
    with workload(architect, namespace, "stays", mebibytes=MIB, annotations=annotations) as app:
        with _left_and_stored(app, stored="False") as (old, identity, _):
            assert moves.conditions(app, old)["Stored"] == ("False", "StaysOnNode")
            assert set(_location(app, old)) == {"peer"}
            assert in_store(architect, old["metadata"]["uid"]) == []
            printed = app.kubectl("get", "checkpoints", "-o", "wide").splitlines()
            columns = printed[0].split()
            assert {"STORED", "STORAGE"} <= set(columns), columns
            assert "Node" in " ".join(printed[1:]).split()
        (new,) = moves.ready(app, apart_from=[old])
        assert moves.answer(app, new)["identity"] == identity
        assert in_store(architect, old["metadata"]["uid"]) == []


@pytest.mark.long
def test_the_chart_says_who_is_uploaded_that_does_not_say_it(
    architect: Cluster, namespace: str
) -> None:
    asks = {names.IDLE: "1h", names.STORAGE: Storage.OBJECT_STORE.value}
    with (
        chart.changed(architect, f"objectStore.default={Storage.NODE.value}"),
        workload(architect, namespace, "plain", mebibytes=MIB) as plain,
        workload(architect, namespace, "asks", mebibytes=MIB, annotations=asks) as other,
    ):
        with _left_and_stored(plain, stored="False") as (old, _, _):
            assert moves.conditions(plain, old)["Stored"] == ("False", "StaysOnNode")
            assert in_store(architect, old["metadata"]["uid"]) == []
            with _left_and_stored(other) as (stored, identity, _):
                assert {"peer", "s3"} <= set(_location(other, stored))
                assert in_store(architect, stored["metadata"]["uid"])
        moves.ready(plain, apart_from=[old])
        (new,) = moves.ready(other, apart_from=[stored])
        assert moves.answer(other, new)["identity"] == identity
