"""Who asks for a PersistentCheckpoint is answered, soon, and without reading what is not needed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.api import names
from architect.core import pods as admission
from architect.core.errors import Unavailable
from architect.kube import conditions
from architect.kube.events import Recorder
from architect.kube.resources import PERSISTENT_CHECKPOINTS, PODS
from architect.operator import metrics, registrar
from architect.operator.apply import Applier
from architect.operator.metrics import Metrics
from architect.operator.registrar import Registrar

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
PATH = PERSISTENT_CHECKPOINTS.path(namespace="shop", name="warm")


class World:
    def __init__(self, api: Any, server: Any, *, has_store: bool = True) -> None:
        self.server = server
        self.numbers = Metrics()
        self.now = NOW
        recorder = Recorder(api, component="operator", instance="o")
        applier = Applier(api, recorder, self.numbers, tell=recorder.record)
        self.registrar = Registrar(
            api, applier, self.numbers, has_store=has_store, clock=lambda: self.now
        )

    def ask(self, name: str = "warm", **spec: Any) -> dict[str, Any]:
        value = {
            "kind": "PersistentCheckpoint",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": spec or {"podName": "web-0"},
        }
        path = PERSISTENT_CHECKPOINTS.path(namespace="shop", name=name)
        return dict(self.server.put(path, value))

    def put_pod(self, *, ready: bool = True, namespace: str = "shop") -> dict[str, Any]:
        bare: dict[str, Any] = {
            "metadata": {
                "name": "web-0", "namespace": namespace, "uid": "uid-0",
                "labels": {"app": "web"}, "annotations": {names.IDLE: "60s"},
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "app", "image": "x"}]},
        }  # fmt: skip
        pod = dict(admission.expected_pod(bare, admission.judge(bare).policy))
        said = {"type": "Ready", "status": "True" if ready else "False"}
        pod["status"] = {"phase": "Running", "conditions": [said]}
        return dict(self.server.put(PODS.path(namespace=namespace, name="web-0"), pod))

    def value(self) -> dict[str, Any]:
        return dict(self.server.objects[PATH])

    def said(self) -> tuple[str, str]:
        found = conditions.find(self.value()["status"]["conditions"], "Accepted")
        assert found is not None
        return found["status"], found["reason"]

    def reads(self) -> list[str]:
        return [r.path for r in self.server.requests if r.method == "GET"]


@pytest.fixture
def world(api, server) -> World:
    return World(api, server)


def test_a_pod_that_is_there_is_chosen_at_once(world: World) -> None:
    world.put_pod()
    world.registrar.look_at(world.ask())
    assert world.said() == ("True", "PodChosen")
    assert world.value()["status"]["podRef"] == {"name": "web-0", "uid": "uid-0"}
    assert world.value()["status"]["node"] == "n1"


def test_a_pod_is_found_by_its_labels(world: World) -> None:
    world.put_pod()
    world.put_pod(namespace="vault")
    world.registrar.look_at(world.ask(selector={"matchLabels": {"app": "web"}}))
    assert world.said() == ("True", "PodChosen")
    (listed,) = [r for r in world.server.requests if r.method == "GET"]
    assert listed.path == PODS.path(namespace="shop")
    assert listed.query["labelSelector"] == "app=web"


def test_an_event_of_the_pod_leads_to_who_waits_for_it(world: World) -> None:
    world.registrar.look_at(world.ask())
    assert world.said() == ("Unknown", "WaitingForPod")
    world.registrar.pod_changed(world.put_pod(ready=False))
    assert world.said() == ("Unknown", "WaitingForPod")
    world.registrar.pod_changed(world.put_pod())
    assert world.said() == ("True", "PodChosen")


def test_while_nobody_waits_an_event_of_a_pod_reads_nothing(world: World) -> None:
    pod = world.put_pod()
    world.registrar.pod_changed(pod)
    world.registrar.look_at(world.ask())
    world.registrar.look_at(world.value())
    world.server.requests.clear()
    world.registrar.pod_changed(pod)
    assert world.reads() == []


def test_only_who_waits_for_this_pod_is_read(world: World) -> None:
    world.registrar.look_at(world.ask("other", podName="db-0"))
    world.registrar.look_at(world.ask())
    pod = world.put_pod()
    world.server.requests.clear()
    world.registrar.pod_changed(pod)
    assert PATH in world.reads()
    assert not [path for path in world.reads() if path.endswith("/other")]


def test_who_was_deleted_waits_no_longer(world: World) -> None:
    value = world.ask()
    world.registrar.look_at(value)
    pod = world.put_pod()
    world.registrar.deleted(world.value())
    world.server.requests.clear()
    world.registrar.pod_changed(pod)
    assert world.reads() == []
    # Nor who was deleted while nobody watched.
    world.registrar.look_at(world.value())
    del world.server.objects[PATH]
    world.registrar.pod_changed(pod)
    world.server.requests.clear()
    world.registrar.pod_changed(pod)
    assert world.reads() == []


def test_more_than_can_be_remembered_are_found_by_the_sweep(world, monkeypatch) -> None:
    monkeypatch.setattr(registrar, "REMEMBERED", 0)
    world.registrar.look_at(world.ask())
    world.registrar.pod_changed(world.put_pod())
    assert world.said() == ("Unknown", "WaitingForPod")
    world.registrar.sweep()
    assert world.said() == ("True", "PodChosen")


def test_without_a_store_nothing_is_read_and_nobody_is_remembered(api, server) -> None:
    world = World(api, server, has_store=False)
    world.registrar.look_at(world.ask())
    assert world.said() == ("False", "NoObjectStore")
    world.registrar.pod_changed(world.put_pod())
    assert world.reads() == []


def test_a_store_that_comes_later_is_enough(api, server) -> None:
    before = World(api, server, has_store=False)
    before.put_pod()
    before.registrar.look_at(before.ask())
    after = World(api, server)
    after.registrar.sweep()
    assert after.said() == ("True", "PodChosen")


def test_a_sweep_repeats_nothing_and_counts(world: World) -> None:
    world.put_pod()
    world.ask()
    world.ask("other", podName="db-0")
    world.registrar.sweep()
    writes = world.server.methods().count("PATCH")
    world.registrar.sweep()
    assert world.server.methods().count("PATCH") == writes == 2
    assert world.numbers.get(metrics.PERSISTENT, state="saving") == 1
    assert world.numbers.get(metrics.PERSISTENT, state="waiting") == 1
    assert world.numbers.get(metrics.PERSISTENT, state="available") == 0


def test_a_pod_that_is_lost_before_its_capture_is_told_of(world: World) -> None:
    pod = world.put_pod()
    world.registrar.look_at(world.ask())
    del world.server.objects[PODS.path(namespace="shop", name=pod["metadata"]["name"])]
    world.registrar.sweep()
    available = conditions.find(world.value()["status"]["conditions"], "Available")
    assert available is not None
    assert available["reason"] == "PodGone"
    assert world.said() == ("True", "PodChosen")


def test_what_is_too_old_is_deleted_unless_it_was_used_meanwhile(world: World) -> None:
    world.put_pod()
    world.registrar.look_at(world.ask(podName="web-0", retention={"unusedFor": "1h"}))
    value = world.value()
    value["status"]["capturedAt"] = "2030-01-01T12:00:00Z"
    value["status"]["conditions"].append({"type": "Captured", "status": "True", "reason": "R"})
    stale = world.server.put(PATH, value)
    world.now = NOW + timedelta(minutes=61)
    value["status"]["lastUsedAt"] = "2030-01-01T13:00:00Z"
    world.server.put(PATH, value)
    world.registrar.look_at(stale)
    assert PATH in world.server.objects, "a stale event deletes nothing"
    world.registrar.sweep()
    assert PATH in world.server.objects
    world.now = NOW + timedelta(hours=2)
    world.registrar.sweep()
    assert PATH not in world.server.objects
    assert world.numbers.get(metrics.ACTIONS, action="Expire", result="done") == 1
    (event,) = [v for p, v in world.server.objects.items() if "/events/" in p]
    assert (event["reason"], event["regarding"]["name"]) == ("Expired", "warm")
    assert event["note"].startswith("removed: ")


def test_without_the_api_server_nothing_is_decided(world: World) -> None:
    value = world.ask()
    world.server.fail = lambda _: Unavailable("away")
    world.registrar.look_at(value)
    world.registrar.pod_changed(world.put_pod())
    with pytest.raises(Unavailable):
        world.registrar.sweep()
    world.server.fail = lambda _: None
    world.registrar.pod_changed(world.put_pod())
    assert world.said() == ("True", "PodChosen")
