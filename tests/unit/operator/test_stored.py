"""What lies in the object store goes with its Checkpoint, and not before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.core.errors import Rejected, Unavailable
from architect.kube import checkpoints, conditions
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS
from architect.objectstore.control import Listed, Undeleted
from architect.operator import collector as collecting
from architect.operator import metrics, stored
from architect.operator.collector import Collector
from architect.operator.metrics import Metrics
from architect.operator.stored import Place

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
S3 = {"bucket": "b", "key": "default/uid-old/manifest.json"}


def checkpoint(uid: str = "uid-old", *, is_stored: bool = True, **said: str) -> dict[str, Any]:
    told = {"Captured": "True", "Available": "True", **said}
    if is_stored:
        told.setdefault("Stored", "True")
    return {
        "kind": "Checkpoint",
        "metadata": {"name": f"web-{uid}", "namespace": "default", "generation": 1},
        "spec": {"podRef": {"name": "web", "uid": uid}, "trigger": "Eviction"},
        "status": {
            "location": {"s3": dict(S3)} if is_stored else {"peer": {"node": "n", "id": uid}},
            "conditions": [
                {"type": k, "status": v, "reason": "R", "message": ""} for k, v in told.items()
            ],
        },
    }


def persistent(uid: str = "pc-uid", *, is_stored: bool = True, **said: str) -> dict[str, Any]:
    """Return one of the same pod as :func:`checkpoint`'s."""
    value = checkpoint("uid-old", is_stored=is_stored, **said)
    value["kind"] = "PersistentCheckpoint"
    value["metadata"] |= {"name": "warm", "uid": uid}
    value["spec"] = {"podName": "web"}
    value["status"]["podRef"] = {"name": "web", "uid": "uid-old"}
    if not is_stored:
        del value["status"]["location"]
    return value


def start(**said: str) -> dict[str, Any]:
    """Return a Checkpoint by which a pod starts from :func:`persistent`."""
    value = checkpoint("uid-old", is_stored=True, **said)
    value["metadata"]["name"] = "web-new-start"
    value["spec"] |= {"trigger": "Request", "startFrom": {"name": "warm", "uid": "pc-uid"}}
    return value


class Bucket:
    """A store in memory; *trouble* is raised by each call, *stubborn* keys are not deleted."""

    def __init__(self) -> None:
        self.keys: dict[str, datetime] = {}
        self.deleted: list[str] = []
        self.trouble: Exception | None = None
        self.stubborn: set[str] = set()

    def fill(self, place: str, *, age: timedelta = timedelta(hours=2)) -> None:
        for name in ("0123456789abcdef/000000", "0123456789abcdef/000001", "manifest.json"):
            self.keys[f"{place}/{name}"] = NOW - age

    def list(self, prefix: str) -> Iterator[Listed]:
        if self.trouble:
            raise self.trouble
        for key in sorted(k for k in self.keys if k.startswith(prefix)):
            yield Listed(key=key, size=1, modified=self.keys[key])

    def delete(self, keys: Iterable[str]) -> tuple[Undeleted, ...]:
        left = []
        for key in keys:
            if key in self.stubborn:
                left.append(Undeleted(key=key, error=Rejected("denied", reason="AccessDenied")))
                continue
            self.keys.pop(key, None)
            self.deleted.append(key)
        return tuple(left)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def numbers() -> Metrics:
    return Metrics()


@pytest.fixture
def collector(api, bucket, numbers) -> Collector:
    return Collector(
        api, numbers, open_bucket=lambda: bucket, prefix="one", clock=lambda: NOW.timestamp()
    )


def put(server, value: dict[str, Any]) -> dict[str, Any]:
    metadata = value["metadata"]
    path = CHECKPOINTS.path(namespace=metadata["namespace"], name=metadata["name"])
    stored_value: dict[str, Any] = server.put(path, value)
    return stored_value


# Decisions


@pytest.mark.parametrize(
    ("said", "is_over"),
    [
        ({}, False),
        ({"Claimed": "True"}, False),
        ({"Failed": "True"}, False),
        ({"Restored": "True"}, True),
        ({"Available": "False"}, True),
        ({"Captured": "Unknown", "Available": "False"}, False),
    ],
)
def test_data_is_kept_as_long_as_somebody_may_want_it(said: dict[str, str], is_over: bool) -> None:
    value = checkpoint(is_stored=True, **said)
    assert stored.is_over(value) is is_over
    assert (stored.for_checkpoint(value) is not None) is is_over


def test_data_that_may_not_have_run_is_kept_as_long_as_its_object() -> None:
    value = checkpoint(is_stored=True, Available="False")
    conditions.find(value["status"]["conditions"], "Available")["reason"] = "MayHaveRun"  # type: ignore[index]
    assert not stored.is_over(value)
    assert stored.for_checkpoint(value) is None


def test_what_never_got_there_is_not_looked_for() -> None:
    assert stored.for_checkpoint(checkpoint(is_stored=False, Restored="True")) is None
    assert stored.for_deleted(checkpoint(is_stored=False)) is None


@pytest.mark.parametrize(
    ("known", "age", "goes"),
    [
        ([checkpoint()], timedelta(days=9), False),
        ([checkpoint(is_stored=False)], timedelta(days=9), False),
        ([checkpoint(Restored="True")], timedelta(0), True),
        ([checkpoint(is_stored=False, Restored="True")], timedelta(0), True),
        ([], timedelta(minutes=59), False),
        ([], timedelta(minutes=61), True),
        ([checkpoint("uid-other")], timedelta(minutes=61), True),
    ],
)
def test_everything_is_compared_with_all_checkpoints(
    known: list[dict[str, Any]], age: timedelta, goes: bool
) -> None:
    listed = {Place("default", "uid-old"): NOW - age}
    assert bool(stored.for_all(listed, known, now=NOW)) is goes


def test_of_two_checkpoints_of_one_pod_one_is_enough() -> None:
    asleep = checkpoint(Restored="True")
    listed = {Place("default", "uid-old"): NOW}
    assert stored.for_all(listed, [asleep, checkpoint()], now=NOW) == []


def test_another_namespaces_checkpoint_keeps_nothing() -> None:
    listed = {Place("other", "uid-old"): NOW - timedelta(hours=2)}
    assert len(stored.for_all(listed, [checkpoint()], now=NOW)) == 1


def test_a_persistent_checkpoints_data_stays_as_long_as_the_object() -> None:
    listed = {Place("default", "pc-uid"): NOW - timedelta(days=9)}
    for value in (
        persistent(),
        persistent(is_stored=False, Available="False"),
        persistent(Available="False", Failed="True"),
    ):
        assert not stored.is_over(value)
        assert stored.for_checkpoint(value) is None
        assert stored.for_all(listed, [value], now=NOW) == []
    assert len(stored.for_all(listed, [persistent("another")], now=NOW)) == 1
    (gone,) = [stored.for_deleted(persistent())]
    assert gone is not None
    assert gone.place == Place("default", "pc-uid")
    assert stored.for_deleted(persistent(is_stored=False)) is None


def test_what_a_pod_started_from_goes_with_no_pod() -> None:
    """The saved pod may have left something of its own, too: that is not touched either."""
    for value in (start(), start(Restored="True")):
        assert stored.place_of(value) is None
        assert stored.for_checkpoint(value) is None
        assert stored.for_deleted(value) is None
    listed = {
        Place("default", "uid-old"): NOW - timedelta(minutes=5),
        Place("default", "pc-uid"): NOW - timedelta(days=9),
    }
    assert stored.for_all(listed, [start(Restored="True"), persistent()], now=NOW) == []


# What is done


def test_it_goes_once_its_pod_goes_on_and_that_is_said(server, collector, bucket, numbers) -> None:
    bucket.fill("one/default/uid-old")
    bucket.fill("one/default/uid-other")
    value = put(server, checkpoint(Restored="True"))
    collector.changed(value)
    assert sorted(bucket.keys) == sorted(k for k in bucket.keys if "uid-other" in k)
    assert bucket.deleted[0] == "one/default/uid-old/manifest.json", "the commit first"
    (changed,) = [v for p, v in server.objects.items() if "checkpoints" in p]
    said = conditions.find(changed["status"]["conditions"], checkpoints.STORED)
    assert said is not None
    assert (said["status"], said["reason"]) == ("False", "Removed")
    assert 'architect_operator_store_removals_total{result="done"} 1' in numbers.render()
    collector.changed(changed)
    assert len(bucket.deleted) == 3, "once"


def test_it_goes_with_its_checkpoint(collector, bucket) -> None:
    bucket.fill("one/default/uid-old")
    collector.deleted(checkpoint())
    assert bucket.keys == {}


def test_a_persistent_checkpoints_data_goes_with_it_and_stays_in_a_sweep(
    server, collector, bucket
) -> None:
    bucket.fill("one/default/pc-uid", age=timedelta(days=9))
    value = persistent()
    path = PERSISTENT_CHECKPOINTS.path(namespace="default", name="warm")
    server.put(path, value)
    collector.sweep()
    assert len(bucket.keys) == 3
    del server.objects[path]
    collector.deleted(value)
    assert bucket.keys == {}


@pytest.mark.parametrize("why", ["the store is away", "a key cannot be deleted"])
def test_what_cannot_be_removed_stays_for_the_next_look(
    server, collector, bucket, numbers, why: str
) -> None:
    bucket.fill("one/default/uid-old")
    value = put(server, checkpoint(Restored="True"))
    if why == "the store is away":
        bucket.trouble = Unavailable("no route")
    else:
        bucket.stubborn.add("one/default/uid-old/manifest.json")
    collector.changed(value)
    (same,) = [v for p, v in server.objects.items() if "checkpoints" in p]
    said = conditions.find(same["status"]["conditions"], checkpoints.STORED)
    assert said is not None and said["status"] == "True"
    assert 'architect_operator_store_removals_total{result="failed"} 1' in numbers.render()
    bucket.trouble, bucket.stubborn = None, set()
    collector.sweep()
    assert bucket.keys == {}


@pytest.mark.parametrize("kind", ["Checkpoint", "PersistentCheckpoint"])
def test_what_could_not_go_with_its_object_goes_once_the_store_is_back(
    collector, bucket, numbers, kind: str
) -> None:
    """And not an hour later, though it is young and nobody's by then."""
    value, uid = (checkpoint(), "uid-old") if kind == "Checkpoint" else (persistent(), "pc-uid")
    collector.sweep()
    bucket.fill(f"one/default/{uid}", age=timedelta(0))
    bucket.trouble = Unavailable("no route")
    collector.deleted(value)
    for _ in range(3):
        collector.sweep()
    assert len(bucket.keys) == 3
    assert numbers.get(metrics.REMOVALS_LEFT) == 1
    bucket.trouble = None
    collector.sweep()
    assert bucket.keys == {}
    assert numbers.get(metrics.REMOVALS_LEFT) == 0
    assert numbers.get(metrics.REMOVALS, result="done") == 1


def test_one_that_stays_keeps_no_other_from_going(collector, bucket, numbers) -> None:
    collector.sweep()
    bucket.trouble = Unavailable("no route")
    for uid in ("uid-1", "uid-2", "uid-3"):
        bucket.fill(f"one/default/{uid}", age=timedelta(0))
        collector.deleted(checkpoint(uid))
    bucket.trouble = None
    bucket.stubborn.add("one/default/uid-1/manifest.json")
    for _ in range(3):
        collector.sweep()
    assert {key.split("/")[2] for key in bucket.keys} == {"uid-1"}
    assert numbers.get(metrics.REMOVALS_LEFT) == 1


def test_what_is_left_is_asked_about_again(server, collector, bucket, numbers) -> None:
    """It may be another's by now, or the API server may not say."""
    collector.sweep()
    bucket.fill("one/default/pc-uid", age=timedelta(0))
    server.fail = lambda _: Unavailable("503")
    collector.deleted(persistent())
    assert numbers.get(metrics.REMOVALS_LEFT) == 1
    server.fail = lambda _: None
    server.put(PERSISTENT_CHECKPOINTS.path(namespace="default", name="warm"), persistent())
    collector.sweep()
    assert len(bucket.keys) == 3
    assert numbers.get(metrics.REMOVALS_LEFT) == 0


def test_a_sweep_says_what_it_removed_of_a_checkpoint_that_is_over(
    server, collector, bucket
) -> None:
    bucket.fill("one/default/uid-old")
    bucket.trouble = Unavailable("no route")
    collector.changed(put(server, checkpoint(Restored="True")))
    bucket.trouble = None
    collector.sweep()
    assert bucket.keys == {}
    (same,) = [v for p, v in server.objects.items() if "checkpoints" in p]
    said = conditions.find(same["status"]["conditions"], checkpoints.STORED)
    assert said is not None
    assert (said["status"], said["reason"]) == ("False", "Removed")


def test_a_sweep_removes_what_nobody_knows_and_nothing_else(
    server, collector, bucket, numbers
) -> None:
    put(server, checkpoint("uid-live"))
    bucket.fill("one/default/uid-live")
    bucket.fill("one/default/uid-orphan")
    bucket.fill("one/default/uid-young", age=timedelta(minutes=1))
    bucket.fill("two/default/uid-elsewhere")
    bucket.keys["one/README"] = NOW - timedelta(days=400)
    bucket.keys["one/Not A Namespace/x/y"] = NOW - timedelta(days=400)
    before = set(bucket.keys)
    collector.sweep()
    gone = before - set(bucket.keys)
    assert gone == {k for k in before if "uid-orphan" in k}
    assert "architect_operator_stored_checkpoints 3" in numbers.render()
    assert "architect_operator_stored_bytes 9" in numbers.render()


def test_a_sweep_comes_now_and_then(server, collector, bucket, monkeypatch) -> None:
    collector.sweep()
    bucket.fill("one/default/uid-orphan")
    collector.sweep()
    assert bucket.keys, "it is too soon"
    monkeypatch.setattr(collecting, "LOOK_SECONDS", 0.0)
    collector.sweep()
    assert bucket.keys == {}


def test_without_the_api_server_nothing_goes(server, collector, bucket) -> None:
    bucket.fill("one/default/uid-orphan")
    server.fail = lambda _: Unavailable("503")
    collector.sweep()
    assert len(bucket.keys) == 3


def test_another_clusters_data_below_our_prefix_is_not_ours(server, collector, bucket) -> None:
    """Whoever has no prefix, or ``one``, does not take ``one/two/…`` for a namespace's."""
    bucket.fill("one/two/default/uid-orphan", age=timedelta(days=9))
    bucket.keys["one/default/uid-orphan/notes/by/hand"] = NOW - timedelta(days=9)
    before = dict(bucket.keys)
    collector.sweep()
    assert bucket.keys == before
    # Nor does what is ours take with it what only lies beside it.
    bucket.fill("one/default/uid-orphan", age=timedelta(days=9))
    collector.deleted(checkpoint("uid-orphan"))
    assert bucket.keys == before


@pytest.mark.parametrize("event", ["deleted", "changed"])
def test_whoever_names_anothers_place_as_his_removes_nothing(
    server, collector, bucket, event: str
) -> None:
    bucket.fill("one/default/pc-uid")
    server.put(PERSISTENT_CHECKPOINTS.path(namespace="default", name="warm"), persistent())
    hostile = checkpoint("pc-uid", Restored="True")
    if event == "changed":
        collector.changed(put(server, hostile))
    else:
        collector.deleted(hostile)
    assert len(bucket.keys) == 3


def test_what_cannot_be_asked_about_is_not_removed_by_an_event(server, collector, bucket) -> None:
    bucket.fill("one/default/uid-old")
    server.fail = lambda _: Unavailable("503")
    collector.deleted(checkpoint())
    assert len(bucket.keys) == 3
