from __future__ import annotations

from typing import Any

import pytest

from architect.api import names
from architect.core.errors import ArchitectError, Rejected, Retryable, Unavailable
from architect.daemon import counting, workqueue
from architect.daemon import writer as writer_module
from architect.daemon.autoscalers import NOBODY
from architect.daemon.counting import Counting
from architect.daemon.metrics import Metrics
from architect.daemon.observation import read_pod
from architect.daemon.registry import Registry
from architect.daemon.store import PodStore
from architect.daemon.writer import Writer
from architect.kube.api import Api
from architect.kube.errors import Forbidden, NotFound
from architect.kube.watch import Snapshot

SCALER = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/scaler"
LIST = "/apis/autoscaling/v2/horizontalpodautoscalers"
REPLICA_SET = "/apis/apps/v1/namespaces/default/replicasets/web-1a"
OWN = {"cpu": "100m", "memory": "64Mi"}
LOW = {"cpu": "1m", "memory": "1Ki"}


def reference(kind: str, name: str, api_version: str = "apps/v1") -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": f"uid-{name}",
        "controller": True,
    }


OF_REPLICA_SET = [reference("ReplicaSet", "web-1a")]


def scaler(kind: str = "Deployment", target: str = "web") -> dict[str, Any]:
    metrics = [
        {"type": "Resource", "resource": {"name": each, "target": {"type": "Utilization"}}}
        for each in ("cpu", "memory")
    ]
    return {
        "metadata": {"namespace": "default", "name": "scaler"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": target},
            "metrics": metrics,
        },
    }


def replica_set(*owners: dict[str, Any], uid: str = "uid-web-1a") -> dict[str, Any]:
    metadata = {"namespace": "default", "name": "web-1a", "uid": uid}
    return {"metadata": {**metadata, "ownerReferences": list(owners)}}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 10_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (counting, writer_module, workqueue):
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def asked(api: Api, metrics: Metrics, clock: Clock) -> Counting:
    return Counting(api, metrics=metrics)


def fails(cluster: Any, error: ArchitectError, *, path: str = LIST) -> None:
    cluster.failures.append(lambda r: error if r.path == path else None)


def reads(cluster: Any, path: str) -> int:
    return sum(r.path == path for r in cluster.requests)


def errors(metrics: Metrics, reason: str) -> float:
    return (
        metrics.registry.get_sample_value("architect_api_errors_total", {"reason": reason}) or 0.0
    )


def test_a_pod_of_a_deployment_is_found_through_its_replica_set(
    asked: Counting, cluster: Any, make: Any
) -> None:
    cluster.put(REPLICA_SET, replica_set(reference("Deployment", "web")))
    cluster.put(SCALER, scaler())
    pod = make.pod(ownerReferences=OF_REPLICA_SET)
    assert asked.of(pod).names("app", "memory") == ("scaler",)
    assert asked.known("uid-web") == asked.of(pod)
    assert asked.of(make.pod()) == NOBODY, "without an owner"


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(replica_set(reference("Deployment", "web"), uid="another"), id="replaced"),
        pytest.param(replica_set({**reference("Deployment", "web"), "controller": False}), id="no"),
        pytest.param(None, id="gone"),
    ],
)
def test_a_chain_ends_where_nobody_controls(
    asked: Counting, cluster: Any, make: Any, found: dict[str, Any] | None
) -> None:
    if found is not None:
        cluster.put(REPLICA_SET, found)
    cluster.put(SCALER, scaler())
    assert asked.of(make.pod(ownerReferences=OF_REPLICA_SET)) == NOBODY


def test_owners_that_own_each_other_in_a_circle_have_an_end(
    asked: Counting, cluster: Any, make: Any
) -> None:
    cluster.put(REPLICA_SET, replica_set(reference("ReplicaSet", "web-1a")))
    cluster.put(SCALER, scaler())
    assert asked.of(make.pod(ownerReferences=OF_REPLICA_SET)) == NOBODY
    assert reads(cluster, REPLICA_SET) == counting.MAX_LINKS


def test_one_list_serves_all_pods_for_half_a_minute(
    asked: Counting, cluster: Any, make: Any, clock: Clock
) -> None:
    cluster.put(REPLICA_SET, replica_set(reference("Deployment", "web")))
    cluster.put(SCALER, scaler())
    pods = [make.pod(f"web{i}", ownerReferences=OF_REPLICA_SET) for i in range(50)]
    for second in range(0, 300, 5):
        clock.now = 10_000.0 + second
        asked.changed(pods)
        for pod in pods:
            asked.of(pod)
    assert reads(cluster, LIST) == 10
    assert reads(cluster, REPLICA_SET) == 1


def test_no_owner_is_read_where_nobody_divides(asked: Counting, cluster: Any, make: Any) -> None:
    assert asked.of(make.pod(ownerReferences=OF_REPLICA_SET)) == NOBODY
    assert [r.path for r in cluster.requests] == [LIST]


def test_nothing_is_asked_where_no_pod_may_sleep(asked: Counting, cluster: Any, make: Any) -> None:
    assert asked.changed([]) == []
    asked.of(make.pod())
    assert cluster.requests == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Forbidden("cannot list: 403", reason="Forbidden"), "Forbidden"),
        (Unavailable("no answer"), "Unavailable"),
        (Retryable("cannot list: 429"), "Retryable"),
    ],
)
def test_a_list_that_fails_leaves_it_unknown_and_is_repeated(
    asked: Counting,
    cluster: Any,
    make: Any,
    clock: Clock,
    metrics: Metrics,
    error: ArchitectError,
    reason: str,
) -> None:
    fails(cluster, error)
    pod = make.pod(ownerReferences=OF_REPLICA_SET)
    assert asked.of(pod).unknown == error.message
    assert asked.of(pod).unknown
    assert errors(metrics, reason) == 1, "it was not asked again at once"
    cluster.failures.clear()
    assert asked.changed([pod]) == []
    clock.now += counting.LIST_SECONDS
    assert asked.changed([pod]) == ["uid-web"]
    assert asked.known("uid-web") == NOBODY


def test_the_last_list_is_believed_for_a_while(
    asked: Counting, cluster: Any, make: Any, clock: Clock
) -> None:
    cluster.put(SCALER, scaler("ReplicaSet", "web-1a"))
    cluster.put(REPLICA_SET, replica_set())
    pod = make.pod(ownerReferences=OF_REPLICA_SET)
    first = asked.of(pod)
    fails(cluster, Unavailable("no answer"))
    clock.now += counting.TRUSTED_SECONDS
    assert asked.of(pod) == first
    clock.now += counting.LIST_SECONDS
    assert asked.of(pod).unknown == "no answer"


def test_an_api_server_without_the_kind_has_none(
    asked: Counting, cluster: Any, make: Any, metrics: Metrics
) -> None:
    fails(cluster, NotFound("404", reason="NotFound"))
    assert asked.of(make.pod(ownerReferences=OF_REPLICA_SET)) == NOBODY
    assert errors(metrics, "NotFound") == 0


def test_an_owner_that_cannot_be_read_leaves_it_unknown_for_half_a_minute(
    asked: Counting, cluster: Any, make: Any, clock: Clock
) -> None:
    cluster.put(SCALER, scaler())
    cluster.put(REPLICA_SET, replica_set(reference("Deployment", "web")))
    fails(cluster, Forbidden("cannot read", reason="Forbidden"), path=REPLICA_SET)
    pod = make.pod(ownerReferences=OF_REPLICA_SET)
    assert asked.of(pod).unknown == "cannot read"
    assert asked.of(pod).unknown == "cannot read"
    assert reads(cluster, REPLICA_SET) == 1
    cluster.failures.clear()
    clock.now += counting.LIST_SECONDS
    assert asked.of(pod).names("app", "cpu") == ("scaler",)


def test_pods_that_are_gone_are_forgotten(
    asked: Counting, cluster: Any, make: Any, clock: Clock, metrics: Metrics
) -> None:
    cluster.put(SCALER, scaler("ReplicaSet", "web-1a"))
    cluster.put(REPLICA_SET, replica_set())
    pod = make.pod(ownerReferences=OF_REPLICA_SET)
    asked.changed([pod])

    def kept() -> float | None:
        labels = {"reason": "Autoscaler"}
        return metrics.registry.get_sample_value("architect_kept_requests", labels)

    assert kept() == 1
    clock.now += counting.LIST_SECONDS
    asked.changed([])
    assert asked.known("uid-web") == NOBODY
    assert kept() == 0


# With the writer that asks


class World:
    """A pod that sleeps, its writer, and what was told."""

    def __init__(self, api: Api, cluster: Any, make: Any, keeper: Any, asked: Counting) -> None:
        self.cluster, self.told = cluster, list[Any]()
        keeper.add("uid-web")
        self.keeper = keeper
        cluster.put_pod(make.pod_json(ownerReferences=OF_REPLICA_SET))
        cluster.put(REPLICA_SET, replica_set(reference("Deployment", "web")))
        self.store, self.registry = PodStore(), Registry()
        self.store.take(Snapshot(objects=(cluster.pod("web"),)))
        self.state("asleep")
        self.writer = Writer(
            api,
            node="node1",
            store=self.store,
            registry=self.registry,
            metrics=Metrics(),
            counting=asked,
            tell=lambda _, note: self.told.append(note),
            condition_interval_seconds=30,
        )

    def state(self, state: str) -> None:
        self.registry.set_all([read_pod({**self.keeper.pods["uid-web"], "state": state})])

    def settle(self) -> None:
        for _ in range(4):
            self.writer.reconcile("uid-web")

    def requested(self) -> Any:
        return self.cluster.pod("web")["spec"]["containers"][0]["resources"]["requests"]


@pytest.fixture
def world(api: Api, cluster: Any, make: Any, keeper: Any, asked: Counting) -> World:
    return World(api, cluster, make, keeper, asked)


def test_requests_of_a_pod_that_is_counted_stay(world: World, cluster: Any) -> None:
    cluster.put(SCALER, scaler())
    world.settle()
    assert world.requested() == OWN
    assert names.ORIGINAL_REQUESTS not in cluster.pod("web")["metadata"]["annotations"]
    assert world.told == [], "the event of its sleep tells it"


def test_requests_follow_an_autoscaler_that_comes_and_goes(
    world: World, cluster: Any, clock: Clock
) -> None:
    world.settle()
    assert world.requested() == LOW
    cluster.put(SCALER, scaler())
    world.writer.look_at_autoscalers()
    clock.now += counting.LIST_SECONDS
    world.writer.look_at_autoscalers()
    assert world.writer._queue.take(timeout_seconds=0) == "uid-web"
    world.settle()
    assert world.requested() == OWN
    assert [note.reason for note in world.told] == ["RequestsKept"]
    assert "HorizontalPodAutoscaler scaler" in world.told[0].text
    cluster.remove(SCALER)
    clock.now += counting.LIST_SECONDS
    world.settle()
    assert world.requested() == LOW
    world.state("awake")
    world.settle()
    assert world.requested() == OWN
    assert names.ORIGINAL_REQUESTS not in cluster.pod("web")["metadata"]["annotations"]


def test_a_pod_sleeps_and_says_so_where_autoscalers_may_not_be_listed(
    world: World, cluster: Any
) -> None:
    fails(cluster, Forbidden("cannot list: 403", reason="Forbidden"))
    world.settle()
    assert world.requested() == OWN
    assert cluster.pod("web")["status"]["conditions"][0]["status"] == "True"


def test_a_quota_that_refuses_what_comes_back_is_told_once_and_asked_again(
    world: World, cluster: Any, clock: Clock
) -> None:
    world.settle()
    cluster.put(SCALER, scaler())
    clock.now += counting.LIST_SECONDS
    refused = Rejected("exceeded quota", reason="Forbidden")
    cluster.failures.append(lambda r: refused if r.path.endswith("/resize") else None)
    tries = len(cluster.requests)
    for _ in range(3):
        world.settle()
    assert [note.reason for note in world.told] == ["ResizePending"]
    assert sum(r.path.endswith("/resize") for r in cluster.requests[tries:]) == 1
    cluster.failures.clear()
    clock.now += writer_module.RAISE_AGAIN_SECONDS
    world.settle()
    assert world.requested() == OWN
