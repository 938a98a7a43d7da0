"""What the API says of one pod is made true, with nothing written that is there already."""

from __future__ import annotations

import json
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import Rejected
from architect.daemon import writer as writer_module
from architect.daemon.counting import Counting
from architect.daemon.metrics import Metrics
from architect.daemon.observation import read_pod
from architect.daemon.registry import Registry
from architect.daemon.store import PodStore
from architect.daemon.writer import Writer
from architect.kube.api import Api
from architect.kube.watch import Snapshot
from support.daemons import CHECKPOINT


def make_writer(api: Api, store: PodStore, registry: Registry, told: list[Any]) -> Writer:
    return Writer(
        api,
        node="node1",
        store=store,
        registry=registry,
        metrics=Metrics(),
        counting=Counting(api, metrics=Metrics()),
        tell=lambda _, note: told.append(note),
        condition_interval_seconds=30,
    )


def asleep(keeper_status: dict[str, Any]) -> Registry:
    registry = Registry()
    registry.set_all([read_pod({**keeper_status, "state": "asleep"})])
    return registry


def test_a_reconciled_pod_needs_no_request_any_more(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store, told = PodStore(), list[Any]()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    writer = make_writer(api, store, asleep(keeper.pods["uid-web"]), told)
    writer.reconcile("uid-web")
    assert [w.split()[0] for w in cluster.writes()] == ["PATCH", "PATCH", "PATCH", "POST", "PATCH"]
    before = len(cluster.writes())
    writer.reconcile("uid-web")
    assert len(cluster.writes()) == before
    assert told == []


def test_a_restarted_daemon_finds_its_work_done(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store = PodStore()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    make_writer(api, store, asleep(keeper.pods["uid-web"]), []).reconcile("uid-web")
    before = len(cluster.writes())
    again = PodStore()
    again.take(Snapshot(objects=(cluster.pod("web"),)))
    make_writer(api, again, asleep(keeper.pods["uid-web"]), []).reconcile("uid-web")
    assert len(cluster.writes()) == before


def resized(cluster: Any, **requests: str) -> None:
    """Resize the pod as its owner does."""
    value = cluster.pod("web")
    value["spec"]["containers"][0]["resources"]["requests"] = requests
    cluster.put_pod(value)


def noted(cluster: Any) -> Any:
    return json.loads(cluster.pod("web")["metadata"]["annotations"][names.ORIGINAL_REQUESTS])


def requested(cluster: Any) -> Any:
    return cluster.pod("web")["spec"]["containers"][0]["resources"]["requests"]


OWN = {"cpu": "2", "memory": "1Gi"}
LOW = {"cpu": "1m", "memory": "1Ki"}


def test_what_its_owner_asked_for_before_the_daemon_heard_of_it_is_what_a_pod_gets_back(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store = PodStore()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    resized(cluster, **OWN)
    writer = make_writer(api, store, asleep(keeper.pods["uid-web"]), [])
    writer.reconcile("uid-web")
    assert requested(cluster) == OWN, "nothing was decided on these"
    writer.reconcile("uid-web")
    assert requested(cluster) == LOW
    assert noted(cluster)["app"] == OWN


def test_what_its_owner_asks_for_in_the_middle_of_it_is_what_a_pod_gets_back(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store = PodStore()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    owner = [lambda: resized(cluster, **OWN)]

    def comes_first(request: Any) -> None:
        if request.path.endswith("/resize") and owner:
            owner.pop()()

    cluster.failures.append(comes_first)
    writer = make_writer(api, store, asleep(keeper.pods["uid-web"]), [])
    writer.reconcile("uid-web")
    assert requested(cluster) == OWN
    store.update(cluster.pod("web"))
    writer.reconcile("uid-web")
    assert requested(cluster) == LOW
    assert noted(cluster)["app"] == OWN


def test_a_refused_resize_is_told_once_and_the_rest_is_done(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store, told = PodStore(), list[Any]()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    cluster.failures.append(
        lambda r: (
            Rejected("pod QoS would change", reason="Invalid")
            if r.path.endswith("/resize")
            else None
        )
    )
    writer = make_writer(api, store, asleep(keeper.pods["uid-web"]), told)
    for _ in range(3):
        writer.reconcile("uid-web")
    assert [note.reason for note in told] == ["ResizePending"]
    assert CHECKPOINT in cluster.objects


def test_requests_that_are_refused_at_a_wake_are_asked_for_again(
    api: Api, cluster: Any, make: Any, keeper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else had the quota, and gives it back later."""
    monkeypatch.setattr(writer_module, "RAISE_AGAIN_SECONDS", 0.0)
    keeper.add("uid-web")
    store, told = PodStore(), list[Any]()
    low = [{"name": "app", "resources": {"requests": {"cpu": "1m", "memory": "1Ki"}}}]
    noted = {names.ORIGINAL_REQUESTS: '{"app":{"cpu":"100m","memory":"64Mi"}}'}
    cluster.put_pod(make.pod_json(containers=low, annotations=noted))
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    registry = Registry()
    registry.set_all([read_pod({**keeper.pods["uid-web"], "state": "awake"})])
    cluster.failures.append(
        lambda r: (
            Rejected("exceeded quota", reason="Forbidden") if r.path.endswith("/resize") else None
        )
    )
    writer = make_writer(api, store, registry, told)
    for _ in range(3):
        writer.reconcile("uid-web")
    assert [note.reason for note in told] == ["ResizePending"], "it is told once"
    cluster.failures.clear()
    writer.reconcile("uid-web")
    requests = cluster.pod("web")["spec"]["containers"][0]["resources"]["requests"]
    assert requests == {"cpu": "100m", "memory": "64Mi"}
    writer.reconcile("uid-web")
    assert names.ORIGINAL_REQUESTS not in cluster.pod("web")["metadata"]["annotations"]


def test_a_pod_that_was_replaced_is_not_written_to(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store = PodStore()
    store.take(Snapshot(objects=(make.pod_json(),)))
    make_writer(api, store, asleep(keeper.pods["uid-web"]), []).reconcile("uid-web")
    assert cluster.objects == {}


def test_nothing_is_written_before_the_keeper_has_spoken(api: Api, cluster: Any, make: Any) -> None:
    store = PodStore()
    store.take(Snapshot(objects=(make.pod_json(),)))
    make_writer(api, store, Registry(), []).reconcile("uid-web")
    assert cluster.requests == []
