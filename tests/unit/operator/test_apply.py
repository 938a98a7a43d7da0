from __future__ import annotations

import threading

from architect.api import names
from architect.core.errors import Unavailable
from architect.kube import checkpoints, resources
from architect.kube.checkpoints import CheckpointSpec, Trigger
from architect.kube.events import Recorder
from architect.kube.notes import Notes
from architect.kube.resources import CHECKPOINTS, NODES, PERSISTENT_CHECKPOINTS, PODS, ObjectRef
from architect.kube.watch import Backoff
from architect.operator import metrics, plan
from architect.operator.apply import Applier
from architect.operator.metrics import Metrics
from architect.operator.registrar import Registrar
from architect.operator.sweep import Sweeper
from architect.operator.unmanaged import UnmanagedPods
from support.patience import patient

POD = resources.pod("shop", "web-0", uid="12345678")


def put_checkpoint(server):
    spec = CheckpointSpec(pod=POD, trigger=Trigger.SLEEP, template_hash="", containers=("a",))
    path = CHECKPOINTS.path(namespace="shop", name=checkpoints.name_of(POD))
    server.put(path, checkpoints.build(spec))
    return path


def put_pod(server, *, name="web-0", uid="12345678", annotations=None, **spec):
    path = PODS.path(namespace="shop", name=name)
    metadata = {"name": name, "namespace": "shop", "uid": uid, "annotations": annotations or {}}
    containers = [{"name": "app", "image": "x"}]
    server.put(path, {"metadata": metadata, "spec": {"containers": containers, **spec}})
    return path


def events(server):
    return [v for p, v in server.objects.items() if "/events/" in p]


def test_a_sweep_collects_what_has_no_pod(server, sweeper, numbers):
    path = put_checkpoint(server)
    put_pod(server, uid="another")
    assert sweeper.sweep()
    assert path not in server.objects
    assert numbers.get(metrics.CHECKPOINTS) == 1
    assert numbers.get(metrics.SWEEPS, result="complete") == 1


def test_a_sweep_tells_what_namespaces_hold(server, sweeper, numbers):
    spec = CheckpointSpec(pod=POD, trigger=Trigger.EVICTION, template_hash="", containers=("a",))
    said = [{"type": "Available", "status": "True", "reason": "R", "message": ""}]
    value = {**checkpoints.build(spec), "status": {"bytes": 7, "conditions": said}}
    server.put(CHECKPOINTS.path(namespace="shop", name="moves"), value)
    warm = {
        "kind": "PersistentCheckpoint",
        "metadata": {"name": "warm", "namespace": "shop"},
        "spec": {"podName": "web-0"},
        "status": {"bytes": 5, "capturedAt": "2030-01-01T00:00:00Z", "conditions": said},
    }
    path = PERSISTENT_CHECKPOINTS.path(namespace="shop", name="warm")
    server.put(path, warm)
    assert sweeper.sweep()
    held = {"namespace": "shop", "kind": "moving"}
    assert numbers.get(metrics.HELD, **held) == 1
    assert numbers.get(metrics.HELD_BYTES, **held) == 7
    assert numbers.get(metrics.HELD_BYTES, namespace="shop", kind="persistent") == 5
    del server.objects[path]
    assert sweeper.sweep()
    assert 'kind="persistent"' not in numbers.render()


def test_a_sweep_keeps_what_has_its_pod(server, sweeper):
    path = put_checkpoint(server)
    put_pod(server)
    assert sweeper.sweep()
    assert path in server.objects


def test_a_checkpoint_is_judged_by_a_read_of_its_pod_and_not_by_a_list(server, sweeper):
    put_checkpoint(server)
    sweeper.sweep()
    reads = [r for r in server.requests if r.path == PODS.path(namespace="shop", name="web-0")]
    assert len(reads) == 1
    assert reads[0].query == {}


def test_a_checkpoint_that_changed_in_between_is_decided_anew(server, sweeper, numbers):
    path = put_checkpoint(server)

    def touch(request):
        if request.method == "DELETE":
            server.put(path, server.objects[path])
        return

    server.fail = touch
    assert sweeper.sweep()
    assert path in server.objects
    assert numbers.get(metrics.ACTIONS, action="Collect", result="late") == 1
    server.fail = lambda _: None
    sweeper.sweep()
    assert path not in server.objects


def test_the_checkpoint_of_a_deleted_pod_goes_at_once(server, sweeper):
    path = put_checkpoint(server)
    pod = put_pod(server)
    sweeper.changed(server.objects[path])
    assert path in server.objects
    gone = server.objects.pop(pod)
    sweeper.pod_deleted(gone)
    assert path not in server.objects


def test_one_that_outlives_its_pod_has_nothing_read(server, sweeper):
    spec = CheckpointSpec(pod=POD, trigger=Trigger.EVICTION, template_hash="", containers=("a",))
    path = CHECKPOINTS.path(namespace="shop", name="moves")
    server.put(path, checkpoints.build(spec))
    sweeper.changed(server.objects[path])
    sweeper.pod_deleted({"metadata": {"name": "web-0", "namespace": "shop", "uid": POD.uid}})
    assert server.requests == []


def test_a_sweep_tells_a_persistent_checkpoint_what_it_lacks(server, sweeper):
    path = PERSISTENT_CHECKPOINTS.path(namespace="shop", name="warm")
    value = {
        "kind": "PersistentCheckpoint",
        "metadata": {"name": "warm", "namespace": "shop"},
        "spec": {"podName": "web-0"},
    }
    server.put(path, value)
    sweeper.sweep()
    said = server.objects[path]["status"]["conditions"]
    assert [(c["type"], c["status"], c["reason"]) for c in said] == [
        ("Accepted", "False", "NoObjectStore"),
        ("Available", "False", "NoObjectStore"),
    ]
    patches = server.methods().count("PATCH")
    sweeper.sweep()
    assert server.methods().count("PATCH") == patches


def test_an_unmanaged_pod_is_reported_once_and_counted_while_it_is_there(
    server, sweeper, numbers, unmanaged
):
    path = put_pod(server, annotations={names.IDLE: "60s"})
    for _ in range(3):
        sweeper.sweep()
    assert len(events(server)) == 1
    assert server.methods().count("POST") == 1
    assert numbers.get(metrics.UNMANAGED) == 1
    assert numbers.get(metrics.UNMANAGED_TOTAL) == 1
    unmanaged.forget(server.objects[path])
    assert numbers.get(metrics.UNMANAGED) == 0
    del server.objects[path]
    sweeper.sweep()
    assert numbers.get(metrics.UNMANAGED) == 0


def test_another_replica_does_not_repeat_the_report(server, api, sweeper, numbers):
    put_pod(server, annotations={names.IDLE: "60s"})
    sweeper.sweep()
    recorder = Recorder(api, component="operator", instance="p")
    other_applier = Applier(api, recorder, Metrics(), tell=recorder.record)
    other = Sweeper(
        api, other_applier, Metrics(), UnmanagedPods(other_applier, Metrics()),
        Registrar(api, other_applier, Metrics(), has_store=False),
        daemon_namespace="architect", daemon_selector="",
    )  # fmt: skip
    other.sweep()
    assert len(events(server)) == 1


def test_a_lost_report_is_tried_again(server, sweeper):
    put_pod(server, annotations={names.IDLE: "60s"})
    server.fail = lambda r: Unavailable("away") if r.method == "POST" else None
    sweeper.sweep()
    assert events(server) == []
    server.fail = lambda _: None
    sweeper.sweep()
    assert len(events(server)) == 1


def test_what_happens_once_is_told_when_the_api_server_is_back(server, api, numbers):
    path = PERSISTENT_CHECKPOINTS.path(namespace="shop", name="warm")
    value = server.put(path, {"metadata": {"name": "warm", "namespace": "shop"}})
    left = [Unavailable("away")] * 3
    server.fail = lambda r: left.pop() if r.method == "POST" and left else None
    recorder = Recorder(api, component="operator", instance="o")
    notes = Notes(recorder, backoff=Backoff(first_seconds=0.01, max_seconds=0.02))
    stop = threading.Event()
    thread = threading.Thread(target=notes.run, args=(stop,), daemon=True)
    thread.start()
    try:
        applier = Applier(api, recorder, numbers, tell=notes.tell)
        expire = plan.Expire(
            persistent=ObjectRef.of(PERSISTENT_CHECKPOINTS, value),
            resource_version=value["metadata"]["resourceVersion"],
            why="nobody came",
        )
        assert applier.apply(expire)
        assert path not in server.objects
        assert notes.settle(patient(60.0))
    finally:
        stop.set()
        notes.poke()
        thread.join(patient(60.0))
    assert left == []
    assert [(e["reason"], e["note"]) for e in events(server)] == [
        (names.EVENT_EXPIRED, "removed: nobody came")
    ]


def test_a_label_that_nobody_stands_for_goes_at_the_second_sweep(server, sweeper):
    path = NODES.path(name="n2")
    for name in ("n1", "n2"):
        labels = {names.NODE_READY_LABEL: "true"}
        server.put(NODES.path(name=name), {"metadata": {"name": name, "labels": labels}})
    server.put(
        PODS.path(namespace="architect", name="daemon-x"),
        {"metadata": {"name": "daemon-x", "namespace": "architect"}, "spec": {"nodeName": "n1"}},
    )
    sweeper.sweep()
    assert names.NODE_READY_LABEL in server.objects[path]["metadata"]["labels"]
    sweeper.sweep()
    assert names.NODE_READY_LABEL not in server.objects[path]["metadata"]["labels"]
    assert server.objects[NODES.path(name="n1")]["metadata"]["labels"]


def test_a_sweep_without_the_api_server_is_incomplete_and_no_error(server, sweeper, numbers):
    server.fail = lambda _: Unavailable("away")
    assert not sweeper.sweep()
    assert numbers.get(metrics.SWEEPS, result="incomplete") == 1
