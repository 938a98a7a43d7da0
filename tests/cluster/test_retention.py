"""What is kept goes in its time, with its object, or when it is nobody's. What is wanted stays."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from architect.api import names
from lab.cluster import Cluster
from lab.node import Node
from support import chart, moves, nodefiles, objectstore, parts, persistent
from support.objectstore import in_store
from support.patience import patient
from support.persistent import ask, condition
from support.storing import Gate, leave
from support.workloads import Workload, bare_pod, eventually, workload

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

SMALL_MIB, LARGE_MIB = 2, 96
KEPT = 3
KEPT_MIB = 90
"""More than three small ones, which Python makes about 15 MiB each; less than a large one."""
BRIEF = f"{patient(8):.0f}s"
"""Longer than it takes to save a small one."""
PINNED = {names.PIN: "true"}
KIND = "persistentcheckpoints.architect.dev"
EVER: Final = datetime.min.replace(tzinfo=UTC)
"""Before everything."""


@dataclass(frozen=True, kw_only=True)
class Orphans:
    """What was put into the store and onto a node by hand, and is of no object."""

    uid: str
    node: Node
    old: tuple[str, ...]
    """Keys of a checkpoint's form, two hours old."""
    young: str
    foreign: str
    """The key of something else."""


@pytest.fixture(scope="module")
def orphans(architect: Cluster) -> Iterator[Orphans]:
    """Put them there before the operators of these tests begin, which then look at once."""
    uid, namespace = str(uuid.uuid4()), f"test-{uuid.uuid4().hex[:8]}"
    found = Orphans(
        uid=uid,
        node=architect.nodes[0],
        old=(f"{namespace}/{uid}/0123456789abcdef/000000", f"{namespace}/{uid}/manifest.json"),
        young=f"{namespace}/{uuid.uuid4()}/manifest.json",
        foreign=f"{namespace}/{uid}/notes/by/hand",
    )
    for path in (*found.old, found.foreign):
        objectstore.put(architect, path, age_hours=2)
    objectstore.put(architect, found.young)
    _put_on_node(found.node, uid)
    yield found
    objectstore.remove(architect, namespace)


def _put_on_node(node: Node, uid: str) -> None:
    """Put there what no daemon has made, in each place where saved pods lie."""
    record = json.dumps({"version": 1, "namespace": "nowhere", "name": "nobody", "phase": "asleep"})
    directories = [
        *(f"{names.CHECKPOINTS}/{uid}{half}" for half in ("", ".partial")),
        *(f"{names.REQUESTS}/{uid}{half}" for half in ("", ".partial")),
        *(f"{names.ARRIVALS}/{uid}{half}" for half in ("", ".partial")),
        f"{names.PODS}/{uid}",
    ]
    script = f"""
        for d in {" ".join(directories)}; do
            mkdir -p -m 0700 $d/containers/app/image
            echo x > $d/containers/app/image/pages-1.img
        done
        mkdir -p -m 0700 {names.UPLOADS}
        echo '{{}}' > {names.UPLOADS}/{uid}.json
        echo '{record}' > {names.PODS}/{uid}/pod.json
    """
    node.exec(["sh", "-ec", script])
    assert nodefiles.exists(node, names.PODS / uid / "pod.json")


@pytest.fixture(scope="module")
def limited(architect: Cluster, orphans: Orphans) -> Iterator[Cluster]:
    """Have the operator look every other second, and keep little in each namespace."""
    with chart.changed(
        architect,
        "operator.sweepIntervalSeconds=2",
        f"objectStore.limits.namespaceCount={KEPT}",
        f"objectStore.limits.namespaceBytes={KEPT_MIB}Mi",
    ):
        # Limits hold for what tests before have left, too, and numbers are of the whole cluster.
        _until_namespaces_are_gone(architect)
        yield architect


def saved(
    app: Workload, name: str, *, after: Sequence[Mapping[str, Any]] = (), **more: Mapping[str, str]
) -> dict[str, Any]:
    """Save the workload's pod in a later second than each of *after*; return the object.

    Which of two is the newer one is told by ``capturedAt``, in whole seconds.
    """
    latest = max((_captured_at(value) for value in after), default=EVER)
    eventually(lambda: datetime.now(UTC).replace(microsecond=0) > latest, what="a later second")
    return persistent.saved(app, name, **more)


def _captured_at(value: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(value["status"]["capturedAt"])


def _there(app: Workload) -> set[str]:
    return {value["metadata"]["name"] for value in app.get_json(KIND)["items"]}


def _removed(app: Workload, value: Mapping[str, Any]) -> str:
    """Return what the event says of a PersistentCheckpoint that went, once its data has, too."""
    name, uid = value["metadata"]["name"], value["metadata"]["uid"]
    eventually(lambda: name not in _there(app), what=f"{name} is removed")
    eventually(lambda: not in_store(app.cluster, uid), what=f"the data of {name} is removed")
    selector = f"involvedObject.uid={uid},reason={names.EVENT_EXPIRED}"

    def told() -> list[str]:
        listed = app.get_json("events", fields=selector)["items"]
        return [str(event["message"]) for event in listed]

    # Another operator, which comes to lead in that moment, says it, too.
    said: list[str] = eventually(told, what=f"event {names.EVENT_EXPIRED} of {name}")
    return said[0]


def _stays(app: Workload, *values: Mapping[str, Any]) -> None:
    assert _there(app) == {value["metadata"]["name"] for value in values}
    for value in values:
        assert in_store(app.cluster, value["metadata"]["uid"]), value["metadata"]["name"]


def _operator(cluster: Cluster, name: str, **labels: str) -> float:
    return parts.operator_numbers(cluster).value(f"architect_operator_{name}", **labels)


def _saved_bytes(cluster: Cluster) -> int:
    """Return the bytes of all PersistentCheckpoints from which pods can start."""
    listed = json.loads(cluster.kubectl("get", KIND, "-A", "-o", "json"))["items"]
    return sum(
        value["status"]["bytes"]
        for value in listed
        if condition(value, "Available")["status"] == "True"
    )


def test_what_is_nobodys_is_swept_in_the_store_and_on_nodes(
    limited: Cluster, namespace: str, orphans: Orphans
) -> None:
    for path in orphans.old:
        eventually(
            lambda path=path: not objectstore.is_there(limited, path),  # type: ignore[misc]
            what="the orphan is swept",
        )
    assert objectstore.is_there(limited, orphans.young), "its object may be on its way"
    assert objectstore.is_there(limited, orphans.foreign), "it is nobody's whom we know"
    eventually(
        lambda: _operator(limited, "stored_bytes") > 0, what="the metric has what lies there"
    )
    # With the end of a pod its node looks at the images that lie there.
    with bare_pod(limited, namespace, "ends", node=orphans.node.name):
        pass
    _nothing_on_nodes(limited, orphans.uid)


def test_a_namespace_keeps_what_is_pinned_the_last_good_ones_and_no_more_than_it_may(
    limited: Cluster, namespace: str
) -> None:
    with (
        workload(limited, namespace, "other", mebibytes=SMALL_MIB) as other,
        workload(limited, namespace, "app", mebibytes=SMALL_MIB) as app,
    ):
        # In this order, the oldest first: it would be the first to go.
        only = saved(other, "the-only-one-of-other")
        pinned = saved(app, "pinned", after=[only], annotations=PINNED)
        old = saved(app, "old", after=[pinned])
        _stays(app, only, pinned, old)
        new = saved(app, "new", after=[old])
        said = _removed(app, old)
        assert f"namespace {namespace} keeps 4 of" in said
        assert f"keep {KEPT} of" in said
        _stays(app, only, pinned, new)
        _is_counted(limited)
        # Without its pin nothing speaks for it any more, but that there is room for three.
        app.kubectl("annotate", KIND, "pinned", f"{names.PIN}-")
        newest = saved(app, "newest", after=[new])
        _removed(app, pinned)
        _stays(app, only, new, newest)
        _is_counted(limited)
        eventually(
            lambda: _operator(limited, "persistent_checkpoint_bytes") == _saved_bytes(limited) > 0,
            what="the metric has their bytes",
        )


def _is_counted(cluster: Cluster) -> None:
    """See that who leads has counted what it removed a moment ago.

    How often is nobody's to compare: another one that comes to lead begins at nothing.
    """
    for name, labels in (
        ("actions_total", {"action": "Expire", "result": "done"}),
        ("store_removals_total", {"result": "done"}),
    ):
        eventually(
            lambda name=name, labels=labels: _operator(cluster, name, **labels) > 0,  # type: ignore[misc]
            what=f"the metric counts it: {name}",
        )


def test_a_namespace_keeps_no_more_bytes_than_it_may_but_the_last_good_one(
    limited: Cluster, namespace: str
) -> None:
    with workload(limited, namespace, "large", mebibytes=LARGE_MIB) as app:
        first = saved(app, "first")
        assert first["status"]["bytes"] > KEPT_MIB << 20
        second = saved(app, "second", after=[first])
        assert f"of {KEPT_MIB << 20} bytes" in _removed(app, first)
        _stays(app, second)
        eventually(
            lambda: _operator(limited, "beyond_limits") == 1,
            what="the metric tells that it holds more than it may",
        )


@contextmanager
def _namespace(cluster: Cluster) -> Iterator[str]:
    """Make a namespace that the test is to delete."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


def test_all_goes_in_its_time_or_with_its_namespace_though_the_store_is_away(
    limited: Cluster,
) -> None:
    store = limited.plane.object_store
    with _namespace(limited) as namespace:
        gate = Gate(cluster=limited, name=namespace)
        gate.open()
        try:
            with (
                workload(limited, namespace, "runs", mebibytes=SMALL_MIB) as runs,
                workload(
                    limited, namespace, "left", mebibytes=SMALL_MIB,
                    spec={"nodeSelector": gate.selector},
                ) as left,
            ):  # fmt: skip
                # Its time may be over before anybody has looked.
                brief = ask(runs, "brief", retention={"ttl": BRIEF})
                warm = saved(runs, "warm")
                gate.close()
                old = leave(left)
                assert f"retention.ttl is {BRIEF}" in _removed(runs, brief)
                stored = [warm["metadata"]["uid"], old["metadata"]["uid"]]
                # Of tests before: what they have left would be counted, too.
                _until_namespaces_are_gone(limited)
                eventually(
                    lambda: _operator(limited, "store_removals_left") == 0,
                    what="what was in them is removed from the store",
                )
                store.stop()
                try:
                    late = _copied_only(runs, "late")
                    _is_deleted(limited, namespace)
                    _nothing_on_nodes(limited, old["metadata"]["uid"], late["metadata"]["uid"])
                    eventually(
                        lambda: _operator(limited, "store_removals_left") == len(stored),
                        what="the metric tells of data that could not be removed",
                    )
                    eventually(
                        lambda: _operator(limited, "store_removals_total", result="failed") > 0,
                        what="the metric counts the failures",
                    )
                    assert all(in_store(limited, uid) for uid in stored)
                finally:
                    store.start()
                for uid in stored:
                    eventually(
                        lambda uid=uid: not in_store(limited, uid),  # type: ignore[misc]
                        what="the data goes once the store is back",
                    )
                eventually(
                    lambda: _operator(limited, "store_removals_left") == 0,
                    what="nothing is left to be removed",
                )
        finally:
            gate.close()


def _until_namespaces_are_gone(cluster: Cluster) -> None:
    eventually(lambda: not _ending_namespaces(cluster), what="the namespaces of before are gone")


def _ending_namespaces(cluster: Cluster) -> list[str]:
    """Return the namespaces that are being deleted."""
    found = json.loads(cluster.kubectl("get", "namespaces", "-o", "json"))["items"]
    return [n["metadata"]["name"] for n in found if "deletionTimestamp" in n["metadata"]]


def _copied_only(app: Workload, name: str) -> dict[str, Any]:
    """Save the pod while the store is away; return the object once its copy lies on the node."""
    ask(app, name)

    def found() -> dict[str, Any] | None:
        value = app.get_json(KIND, name)
        return value if condition(value, "Captured")["status"] == "True" else None

    value: dict[str, Any] = eventually(found, what="it is copied")
    # Why not depends on whether it was tried by now.
    assert condition(value, "Available")["status"] != "True"
    copy = names.REQUESTS / value["metadata"]["uid"]
    assert nodefiles.exists(_node_of(app, value), copy)
    return value


def _node_of(app: Workload, value: Mapping[str, Any]) -> Node:
    return app.cluster.node(value["status"]["node"])


def _is_deleted(cluster: Cluster, namespace: str) -> None:
    """Delete the namespace; return once it is gone, with all that was in it."""
    for kind in ("checkpoints.architect.dev", KIND):
        assert cluster.kubectl("-n", namespace, "get", kind, "-o", "name"), kind
    cluster.kubectl("delete", "namespace", namespace, "--timeout=280s", timeout_seconds=300)


def _nothing_on_nodes(cluster: Cluster, *uids: str) -> None:
    def left() -> list[str]:
        return [
            f"{node.name}:{directory}/{name}"
            for node in cluster.nodes
            for directory in _DIRECTORIES
            for name in nodefiles.listing(node, directory)
            if any(uid in name for uid in uids)
        ]

    eventually(lambda: not left(), what="nothing of it lies on any node")


_DIRECTORIES = (names.CHECKPOINTS, names.REQUESTS, names.UPLOADS, names.ARRIVALS, names.PODS)


def test_the_cluster_keeps_no_more_than_it_may(limited: Cluster) -> None:
    with _namespace(limited) as one, _namespace(limited) as two:
        chart.change(limited, "objectStore.limits.count=2")
        with (
            workload(limited, one, "app", mebibytes=SMALL_MIB) as first,
            workload(limited, two, "app", mebibytes=SMALL_MIB) as second,
        ):
            oldest = saved(first, "oldest")
            newer = saved(first, "newer", after=[oldest])
            other = saved(second, "other", after=[newer])
            assert "the cluster keeps 3 of" in _removed(first, oldest)
            _stays(first, newer)
            _stays(second, other)
            held = newer["status"]["bytes"] + other["status"]["bytes"]
            limit = (held >> 10) + 1
            chart.change(
                limited, "objectStore.limits.count=0", f"objectStore.limits.bytes={limit}Ki"
            )
            newest = saved(second, "newest", after=[other])
            assert f"of {limit << 10} bytes" in _removed(second, other)
            _stays(first, newer)
            _stays(second, newest)
        chart.change(limited, "objectStore.limits.bytes=0Ki")


def test_one_that_is_not_used_goes(limited: Cluster, namespace: str) -> None:
    with workload(limited, namespace, "app", mebibytes=SMALL_MIB) as app:
        unused = saved(app, "unused", retention={"unusedFor": BRIEF})
        assert f"retention.unusedFor is {BRIEF}" in _removed(app, unused)


def test_nobody_came_for_it_in_its_time(architect: Cluster, namespace: str) -> None:
    """On its node and in the store; and the object says it, until it goes as well."""
    gate = Gate(cluster=architect, name=namespace)
    gate.open()
    try:
        with (
            chart.changed(
                architect, "daemon.migration.ttlSeconds=60", "operator.sweepIntervalSeconds=2"
            ),
            workload(
                architect, namespace, "late", mebibytes=SMALL_MIB,
                spec={"nodeSelector": gate.selector},
            ) as app,
        ):  # fmt: skip
            identity = app.get()["identity"]
            gate.close()
            old = leave(app)
            uid = old["metadata"]["uid"]
            eventually(
                lambda: moves.conditions(app, old).get("Available") == ("False", "Expired"),
                what="the object says that its time is over",
            )
            _nothing_on_nodes(architect, uid)
            eventually(lambda: not in_store(architect, uid), what="the data in the store goes")
            eventually(
                lambda: moves.conditions(app, old).get("Stored") == ("False", "Removed"),
                what="the object says so",
            )
            gate.open()
            (new,) = moves.ready(app, apart_from=[old])
            assert moves.answer(app, new)["identity"] != identity
            (said,) = eventually(
                lambda: moves.events(app, new, names.EVENT_RESTORE_FAILED),
                what="event RestoreFailed",
            )
            assert "Expired" in said
            eventually(
                lambda: moves.checkpoint(app, old) is None, what="the object goes", seconds=300
            )
    finally:
        gate.close()
