"""A pod that its owner replaces goes on in its replacement: memory, files, on another node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pytest

from architect.api import names
from architect.core import durations
from lab import errors
from lab.cluster import Cluster
from lab.dockerfiles import version
from support import moves
from support.patience import patient
from support.tiers import sized
from support.workloads import (
    Workload,
    apply,
    ask,
    code,
    eventually,
    memory_server,
    pod_template,
    service,
    workload,
)

CTR: Final = ("ctr", "-n", "k8s.io", "images")
DRAIN_SECONDS: Final = patient(200.0)


@contextmanager
def drained(app: Workload) -> Iterator[dict[str, Any]]:
    """Drain the pod's node of this workload's pods; gives the pod that left."""
    old = app.pod()
    node = old["spec"]["nodeName"]
    try:
        app.kubectl(
            *("drain", node, f"--pod-selector=app={app.name}", "--ignore-daemonsets"),
            *("--delete-emptydir-data", f"--timeout={DRAIN_SECONDS:.0f}s"),
            timeout_seconds=DRAIN_SECONDS + 20,
        )
        yield old
    finally:
        app.kubectl("uncordon", node)


def successor(app: Workload, old: dict[str, Any]) -> dict[str, Any]:
    """Return the ready pod that came after *old*."""

    def found() -> dict[str, Any] | None:
        pods = app.get_json("pods", labels=f"app={app.name}")["items"]
        living = [p for p in pods if "deletionTimestamp" not in p["metadata"]]
        new = [p for p in living if p["metadata"]["uid"] != old["metadata"]["uid"]]
        conditions = new[0]["status"].get("conditions", []) if new else []
        is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return new[0] if is_ready else None

    pod: dict[str, Any] = eventually(found, what=f"a successor of {old['metadata']['name']}")
    return pod


def stateful_set(name: str, *, replicas: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}},
            "template": pod_template(name, [memory_server()]),
        },
    }


def once(app: Workload, pod: dict[str, Any], path: str = "/") -> dict[str, Any]:
    """Ask a ready pod at its own address, once: it counts each request, answered in time or not."""
    return ask(app.cluster, f"http://{pod['status']['podIP']}:8080{path}", seconds=DRAIN_SECONDS)


def answer(app: Workload, path: str = "/") -> dict[str, Any]:
    """Ask the application until it answers: kube-proxy follows the pods in its own time."""
    found: list[dict[str, Any]] = []

    def answers() -> bool:
        try:
            found.append(ask(app.cluster, f"http://{app.service_ip()}:8080{path}", seconds=5))
        except errors.CommandFailed:
            return False
        return True

    eventually(answers, what=f"the Service of {app.name} leads to a pod that answers")
    return found[0]


def moved(app: Workload, old: dict[str, Any]) -> dict[str, Any] | None:
    """Return the Checkpoint by which *old* moved."""
    items = app.get_json("checkpoints.architect.dev")["items"]
    uid = old["metadata"]["uid"]
    return next(
        (c for c in items if c["spec"]["podRef"]["uid"] == uid and c["spec"]["trigger"] != "Sleep"),
        None,
    )


def conditions(value: dict[str, Any]) -> dict[str, tuple[str, str]]:
    found = value.get("status", {}).get("conditions", [])
    return {c["type"]: (c["status"], c["reason"]) for c in found}


def test_a_drained_pod_goes_on_on_another_node_with_its_memory(
    architect: Cluster, namespace: str
) -> None:
    with workload(architect, namespace, "drained", mebibytes=64) as app:
        before = app.get("/digest")
        with drained(app) as old:
            new = successor(app, old)
        assert new["spec"]["nodeName"] != old["spec"]["nodeName"]
        after = once(app, new, "/digest")
        assert after["identity"] == before["identity"]
        assert after["digest"] == before["digest"]
        assert after["count"] == before["count"] + 1
        assert after["host"] == new["metadata"]["name"]
        assert answer(app)["identity"] == before["identity"], "by its Service, too"
        assert app.restarts() == 0
        checkpoint = moved(app, old)
        assert checkpoint is not None
        assert checkpoint["spec"]["trigger"] == "Eviction"
        assert checkpoint["status"]["claimedBy"]["uid"] == new["metadata"]["uid"]
        eventually(
            lambda: conditions(moved(app, old) or {}).get("Restored") == ("True", "Restored"),
            what="condition Restored",
        )
        (said,) = eventually(lambda: app.events(names.EVENT_RESTORED), what="event Restored")
        assert old["metadata"]["name"] in said
        tells_its_story(app, old, new)


def tells_its_story(app: Workload, old: dict[str, Any], new: dict[str, Any]) -> None:
    """See that `kubectl describe` says where, how long, how large, by whom, and when."""
    checkpoint = moved(app, old)
    assert checkpoint is not None
    said = app.kubectl("describe", "checkpoint", checkpoint["metadata"]["name"])
    status, (here, there) = checkpoint["status"], (pod["spec"]["nodeName"] for pod in (old, new))
    took = status["durations"]["capture"]
    assert durations.parse(took) > 0
    told = {c["type"]: c for c in status["conditions"]}
    # As its keeper told it, with the time, or as upkeep found it a moment before.
    assert re.fullmatch(
        rf"on node {there}(, [\dms.]+ after its start)?", told["Restored"]["message"]
    )
    for text in (
        f"the pod was saved on node {here}",
        f"pod {new['metadata']['name']} on node {there} goes on from it",
        told["Restored"]["message"],
        *(status["capturedAt"], took, status["size"]),
        *(told[kind]["lastTransitionTime"] for kind in ("Captured", "Claimed", "Restored")),
    ):
        assert text in said, text


def test_a_sleeping_pod_is_drained_without_waking_and_wakes_where_it_went(
    architect: Cluster, namespace: str
) -> None:
    app = Workload(cluster=architect, namespace=namespace, name="asleep")
    apply(app, code(app.name), service(app.name), stateful_set(app.name))
    eventually(app.exists_and_is_ready, what="the pod is ready")
    before = once(app, app.pod())
    app.sleep()
    with drained(app) as old:
        new = successor(app, old)
    assert new["spec"]["nodeName"] != old["spec"]["nodeName"]
    assert app.state() == "asleep"
    (said,) = eventually(lambda: app.events(names.EVENT_RESTORED), what="event Restored")
    # As its keeper told it, or as upkeep found it a moment before.
    assert re.match("(sleeps on with|has) the memory of pod asleep-0", said)
    assert moves.ended(app, old)["Restored"] == ("True", "Restored")
    eventually(lambda: app.label() == names.STATUS_SCALED_DOWN, what="label SCALED_DOWN")
    eventually(lambda: app.requests() == {"cpu": "1m", "memory": "1Ki"}, what="low requests")
    eventually(lambda: app.asleep_reason()[:2] == ("True", "Slept"), what="the condition")
    own = eventually(app.checkpoint, what="a Checkpoint of its own")
    assert own["spec"]["trigger"] == "Sleep"
    assert app.state() == "asleep"
    assert app.is_ready()
    after = once(app, new)
    assert after["identity"] == before["identity"]
    assert after["count"] == before["count"] + 1
    assert answer(app)["identity"] == before["identity"], "by its Service, too"
    assert app.restarts() == 0
    eventually(lambda: app.label() == names.STATUS_RUNNING, what="label RUNNING")
    app.kubectl("delete", "statefulset", app.name, "--wait=false")


@contextmanager
def tag_that_moves(cluster: Cluster, tag: str, images: Mapping[str, str]) -> Iterator[None]:
    """Have *tag* stand for another image on each node of *images*."""
    try:
        for node, image in images.items():
            cluster.node(node).exec([*CTR, "tag", "--force", image, tag])
        yield
    finally:
        for node in images:
            cluster.node(node).exec([*CTR, "rm", tag])


@pytest.mark.long
def test_a_pod_whose_tag_is_another_image_there_starts_fresh_and_says_so(
    architect: Cluster, namespace: str
) -> None:
    tag = "localhost/tagged:1"
    here, there = (node.name for node in architect.nodes)
    images = {here: "localhost/py:3", there: f"localhost/architect/operator:{version()}"}
    with (
        tag_that_moves(architect, tag, images),
        workload(architect, namespace, "tagged", container={"image": tag}) as app,
    ):
        before = app.get()
        with drained(app) as old:
            new = successor(app, old)
        assert new["spec"]["nodeName"] != old["spec"]["nodeName"]
        assert answer(app)["identity"] != before["identity"]
        (said,) = eventually(lambda: app.events(names.EVENT_RESTORE_FAILED), what="the event")
        assert "ImageDiffers: checkpoint" in said
        assert "container app ran image sha256:" in said
        checkpoint = moved(app, old) or {}
        assert conditions(checkpoint)["Captured"] == ("True", "Captured")
        assert "claimedBy" not in checkpoint["status"]


@pytest.mark.concurrent
def test_a_deleted_pod_goes_on_in_its_replacement_and_its_hook_knows_the_new_one(
    architect: Cluster, namespace: str
) -> None:
    hook = ["sh", "-c", "echo $HOSTNAME >/tmp/hook"]
    annotations = {names.IDLE: "1h", names.AFTER_RESTORE: json.dumps(hook)}
    with workload(architect, namespace, "deleted", annotations=annotations) as app:
        before = app.get()
        old = app.pod()
        app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
        new = successor(app, old)
        assert answer(app)["identity"] == before["identity"]
        (said,) = eventually(lambda: app.events(names.EVENT_HOOK_RAN), what="event HookRan")
        assert "after-restore of container app ended well" in said
        name = new["metadata"]["name"]
        assert app.kubectl("exec", name, "--", "cat", "/tmp/hook").strip() == name


def test_files_move_with_the_memory(architect: Cluster, namespace: str) -> None:
    """Of every kind, with whose they are and since when: in the layer and in volumes."""
    empty = {"data": {}, "memory": {"medium": "Memory"}}
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in empty]
    volumes = [{"name": name, "emptyDir": empty_dir} for name, empty_dir in empty.items()]
    where = ("/dev/shm", "/data", "/memory")
    with workload(
        architect,
        namespace,
        "files",
        container={"volumeMounts": [{"name": "code", "mountPath": "/app"}, *mounts]},
        spec={"volumes": [{"name": "code", "configMap": {"name": "files"}}, *volumes]},
    ) as app:
        identity = app.get()["identity"]

        def files(pod: dict[str, Any], verb: str) -> str:
            words = ("python3", "/app/files.py", verb, *where)
            return app.kubectl("exec", pod["metadata"]["name"], "--", *words)

        pod = app.pod()
        files(pod, "write")
        before = json.loads(files(pod, "tell"))
        assert_they_are_of_every_kind(before)
        with drained(app) as old:
            new = successor(app, old)
        assert json.loads(files(new, "tell")) == before
        assert answer(app)["identity"] == identity


def assert_they_are_of_every_kind(told: dict[str, Any]) -> None:
    """Fail where what is to be moved is not what it was meant to be."""
    assert told["/usr/share/common-licenses"] is False
    layer, sparse = told["/root/layer"], told["/root/sparse"]
    assert (layer["mode"], layer["owner"], layer["links"]) == ("-rwsr-x--x", [1001, 1002], 2)
    assert layer["xattrs"] == {"user.note": "kept"}
    assert told["/root/hard"] == layer
    assert (told["/root/link"]["target"], told["/root/link"]["owner"]) == ("layer", [1003, 1004])
    assert told["/root/directory"]["mode"] == "drwxr-s--x"
    assert told["/root/fifo"]["mode"].startswith("p")
    assert (told["/root/null"]["mode"], told["/root/null"]["device"]) == ("crw--w----", [1, 3])
    assert (sparse["size"], sparse["is_sparse"]) == (1 << 30, True)
    assert sparse["text"] == "x" * (8 << 10)
    for path in ("/dev/shm/file", "/data/file", "/memory/file"):
        assert (told[path]["text"], told[path]["owner"]) == (path, [1001, 1002])
    for path in told.keys() - {"/usr/share/common-licenses"}:
        assert told[path]["modified"] % 10**9 == 500_000_000, path


@pytest.mark.long
def test_all_managed_containers_of_a_pod_go_on_beside_one_that_starts_anew(
    architect: Cluster, namespace: str
) -> None:
    ticker = {
        "name": "ticker",
        "image": "localhost/py:3",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "echo begins; exec sleep infinity"],
    }
    with workload(
        architect,
        namespace,
        "trio",
        annotations={names.IDLE: "1h", names.CONTAINERS: "app,cache"},
        more_containers=[memory_server("cache", port=8081), ticker],
    ) as app:

        def identities(pod: dict[str, Any]) -> list[str]:
            address = pod["status"]["podIP"]
            ports = (8080, 8081)
            return [ask(architect, f"http://{address}:{p}/")["identity"] for p in ports]

        old = app.pod()
        before = identities(old)
        with drained(app):
            new = successor(app, old)
        assert identities(new) == before
        logs = ("logs", new["metadata"]["name"], "-c", "ticker")
        eventually(lambda: app.kubectl(*logs), what="what the other one says")
        assert app.kubectl(*logs) == "begins\n"


@pytest.mark.long
def test_a_pod_whose_root_is_read_only_has_no_layer_and_moves(
    architect: Cluster, namespace: str
) -> None:
    read_only = {"securityContext": {"readOnlyRootFilesystem": True}}
    with workload(architect, namespace, "readonly", container=read_only) as app:
        before = app.get()
        old = app.pod()
        app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
        successor(app, old)
        assert answer(app)["identity"] == before["identity"]


@pytest.mark.concurrent
@pytest.mark.parametrize(
    "how", sized(["rolled out"], ["scaled down", "rolled out", "labelled fresh"])
)
def test_a_pod_without_a_successor_of_its_identity_gets_its_signal(
    architect: Cluster, namespace: str, how: str
) -> None:
    with workload(architect, namespace, "ended") as app:
        before = app.get()
        old = app.pod()
        with moves.said(app, old) as said:
            if how == "scaled down":
                app.kubectl("scale", "deploy/ended", "--replicas=0")
            elif how == "rolled out":
                app.kubectl("set", "env", "deploy/ended", "NEW=1")
            else:
                app.kubectl("label", "pod", old["metadata"]["name"], f"{names.FRESH}=true")
                app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
        assert any("TERM" in line for line in said), said
        assert moved(app, old) is None
        if how != "scaled down":
            successor(app, old)
            assert answer(app)["identity"] != before["identity"]


@pytest.mark.concurrent
def test_each_pod_of_a_stateful_set_gets_its_own_memory(architect: Cluster, namespace: str) -> None:
    name = "ordinals"
    app = Workload(cluster=architect, namespace=namespace, name=name)
    apply(app, code(name), service(name), stateful_set(name, replicas=2))

    def pods() -> dict[str, dict[str, Any]]:
        items = app.get_json("pods", labels=f"app={name}")["items"]
        return {p["metadata"]["name"]: p for p in items}

    def ready(*, apart_from: frozenset[str] = frozenset()) -> dict[str, dict[str, Any]] | None:
        found = pods()
        is_ready = len(found) == 2 and all(
            p["metadata"]["uid"] not in apart_from
            and any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in p["status"].get("conditions", [])
            )
            for p in found.values()
        )
        return found if is_ready else None

    old = eventually(ready, what="two pods are ready")
    before = {n: app.get(host=p["status"]["podIP"])["identity"] for n, p in old.items()}
    assert len(set(before.values())) == 2
    app.kubectl("delete", "pod", *old, "--wait=false")
    gone = frozenset(p["metadata"]["uid"] for p in old.values())
    new = eventually(lambda: ready(apart_from=gone), what="both pods are back")
    after = {n: app.get(host=p["status"]["podIP"])["identity"] for n, p in new.items()}
    assert after == before
    app.kubectl("delete", "statefulset", name, "--wait=false")
