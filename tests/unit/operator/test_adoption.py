"""What a silent node left in the store becomes a Checkpoint, if it is that node's own pod's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.api import names
from architect.checkpoint import envelope
from architect.core import identity
from architect.core.errors import Rejected, Unavailable
from architect.kube import checkpoints, conditions
from architect.kube.checkpoints import CheckpointSpec, Trigger
from architect.kube.errors import Conflict
from architect.kube.events import Recorder
from architect.kube.resources import LEASES, NODES, PODS, pod
from architect.objectstore.control import Fetched
from architect.operator import adopter as adopting
from architect.operator import dismissal, metrics
from architect.operator.adopter import Adopter
from architect.operator.stored import Place
from support import strandeds
from support.issuer import Issuer
from support.strandeds import CHECKPOINT_PATH, NAMESPACE, NODE, NODE_PATH, POD_PATH, UID

Object = dict[str, Any]

KEY = f"one/{NAMESPACE}/{UID}/manifest.json"
PLACE = Place(NAMESPACE, UID)


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


class Bucket:
    """A store in memory; *trouble* is raised by each call."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.sent = 0
        self.trouble: Exception | None = None

    def get(self, key: str, *, most: int, unless: str = "") -> Fetched:
        self.asked.append(key)
        if self.trouble:
            raise self.trouble
        if key not in self.objects:
            raise Rejected("404", reason="NoSuchKey")
        body = self.objects[key]
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if len(body) > most or etag == unless:
            return Fetched(etag=etag, size=len(body), body=None)
        self.sent += 1
        return Fetched(etag=etag, size=len(body), body=body)


class World:
    """One cluster with a silent node and its pod."""

    def __init__(self, api: Any, server: Any, numbers: Any, issuer: Issuer) -> None:
        self.server, self.numbers, self.issuer = server, numbers, issuer
        self.bucket = Bucket()
        self.now = 1000.0
        self.adopter = Adopter(
            api,
            numbers,
            tell=Recorder(api, component="operator", instance="o").record,
            open_bucket=lambda: self.bucket,
            bucket="pods",
            prefix="one",
            authorities=lambda: issuer.authorities.trusted,
            clock=lambda: self.now,
        )
        server.put(POD_PATH, strandeds.its_pod())
        server.put(NODE_PATH, strandeds.node())

    def leave(self, **changes: Any) -> None:
        self.bucket.objects[KEY] = strandeds.sealed(self.issuer, **changes)

    def adopt(self) -> bool:
        return self.adopter.adopt({NODE})

    def checkpoint(self) -> Object | None:
        found: Object | None = self.server.objects.get(CHECKPOINT_PATH)
        return found

    def said(self) -> dict[str, tuple[str, str]]:
        status = (self.checkpoint() or {}).get("status") or {}
        return {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions") or ()}

    def put_checkpoint(self, *, trigger: Trigger = Trigger.SPOT_INTERRUPTION, **said: str) -> None:
        spec = CheckpointSpec(
            pod=pod(NAMESPACE, "web-0", uid=UID),
            trigger=trigger,
            template_hash="h",
            containers=("app",),
            owner=strandeds.OWNER,
        )
        value = checkpoints.build(spec)
        value["status"] = {
            "location": {"peer": {"node": NODE, "id": UID}},
            "conditions": [
                {"type": k, "status": v, "reason": "R", "message": ""} for k, v in said.items()
            ],
        }
        path = CHECKPOINT_PATH.replace(
            CHECKPOINT_PATH.rpartition("/")[2], value["metadata"]["name"]
        )
        self.server.put(path, value)

    def reported(self) -> list[tuple[str, str]]:
        events = [v for p, v in self.server.objects.items() if "/events/" in p]
        return [(v["reason"], v["note"]) for v in events]


@pytest.fixture
def world(api, server, numbers, issuer: Issuer) -> World:
    return World(api, server, numbers, issuer)


def test_it_becomes_the_checkpoint_that_its_daemon_would_have_written(world: World) -> None:
    world.leave()
    assert world.adopt()
    value = world.checkpoint()
    assert value is not None
    raw = world.bucket.objects[KEY]
    opened = envelope.from_bytes(raw, authorities=world.issuer.authorities.trusted)
    assert value["spec"] == {
        "podRef": {"name": "web-0", "uid": UID},
        "trigger": "SpotInterruption",
        "templateHash": "v1:" + "f" * 64,
        "containers": ["app"],
        "owner": {
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "owner-uid",
            "ordinal": 0,
        },
        "storage": "ObjectStore",
    }  # fmt: skip
    assert value["metadata"]["labels"] == {names.OWNER_LABEL: "owner-uid"}
    assert [o["uid"] for o in value["metadata"]["ownerReferences"]] == ["owner-uid"]
    status = value["status"]
    s3 = status["location"].pop("s3")
    assert status["location"] == {}
    assert (s3["bucket"], s3["key"]) == ("pods", KEY)
    assert s3["manifestSha256"] == hashlib.sha256(raw).hexdigest()
    assert (s3["keyID"], bool(s3["wrappedKey"])) == (opened.key_id, True)
    assert (status["node"], status["bytes"]) == (NODE, strandeds.SIZE)
    assert status["capturedAt"] == conditions.timestamp(opened.manifest.about.created)
    assert status["requirements"] == {
        "architecture": "amd64", "cpuFeatures": ["avx", "sse"], "kernel": "6.12", "criu": "4.2",
        "images": {"app": "sha256:" + "a" * 64},
    }  # fmt: skip
    assert world.said() == {
        "Captured": ("True", "Captured"),
        "Available": ("True", "InStore"),
        "Stored": ("True", "Stored"),
    }
    assert world.numbers.get(metrics.ADOPTIONS, result="adopted") == 1
    assert [reason for reason, _ in world.reported()] == [names.EVENT_ADOPTED]


def test_its_pod_may_go_then(world: World) -> None:
    world.leave()
    world.adopt()
    value = world.checkpoint()
    assert value is not None
    action = dismissal.decide(value, pod=strandeds.its_pod(), node=strandeds.node())
    assert action is not None and action.is_saved


def test_of_the_same_template_its_parts_are_known(world: World) -> None:
    there = strandeds.its_pod()
    world.leave(template_hash=identity.template_hash(there))
    world.adopt()
    value = world.checkpoint()
    assert value is not None
    assert value["spec"]["templateParts"] == identity.parts(there)


def test_it_is_adopted_once(world: World) -> None:
    world.leave()
    world.adopt()
    first = world.checkpoint()
    for _ in range(3):
        assert world.adopt()
        world.adopter.sweep()
    assert world.checkpoint() == first
    assert len(world.bucket.asked) == 1
    assert world.numbers.get(metrics.ADOPTIONS, result="adopted") == 1


# What its daemon had begun to say


@pytest.mark.parametrize("said", [{}, {"Captured": "Unknown"}])
@pytest.mark.parametrize("trigger", [Trigger.SPOT_INTERRUPTION, Trigger.EVICTION])
def test_what_its_daemon_had_only_announced_is_completed(
    world: World, said: dict[str, Any], trigger: Trigger
) -> None:
    world.put_checkpoint(trigger=trigger, **said)
    world.leave()
    assert world.adopt()
    value = world.checkpoint()
    assert value is not None and value["spec"]["trigger"] == trigger.value
    assert set(value["status"]["location"]) == {"peer", "s3"}
    assert {k: s for k, (s, _) in world.said().items()} == {
        "Captured": "True", "Available": "True", "Stored": "True",
    }  # fmt: skip


@pytest.mark.parametrize("stored", [{}, {"Stored": "Unknown"}, {"Stored": "False"}])
def test_where_it_lies_is_added_to_what_its_daemon_said(
    world: World, stored: dict[str, Any]
) -> None:
    world.put_checkpoint(Captured="True", Available="True", **stored)
    world.leave()
    value = world.checkpoint()
    assert value is not None
    opened = envelope.from_bytes(
        world.bucket.objects[KEY], authorities=world.issuer.authorities.trusted
    )
    told = opened.manifest.sha256
    value["status"]["location"]["peer"]["manifestSha256"] = told
    assert world.adopt()
    assert world.said() == {
        "Captured": ("True", "R"), "Available": ("True", "R"), "Stored": ("True", "Stored"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        {"Captured": "True", "Available": "True", "Stored": "True"},
        {"Captured": "False"},
        {"Captured": "True", "Restored": "True"},
        {"Captured": "True", "Available": "False"},
    ],
)
def test_of_what_is_decided_nothing_is_asked(world: World, said: dict[str, Any]) -> None:
    world.put_checkpoint(**said)
    world.leave()
    assert world.adopt()
    assert world.bucket.asked == []


def test_a_sleeping_pods_own_checkpoint_is_another_one(world: World) -> None:
    world.put_checkpoint(trigger=Trigger.SLEEP, Captured="True", Available="True")
    world.leave()
    assert world.adopt()
    assert world.said()["Stored"] == ("True", "Stored")


# Whose it is not


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["spec"].update(nodeName="spot-2"),
        lambda p: p["spec"].pop("nodeName"),
        lambda p: p["metadata"]["annotations"].clear(),
        lambda p: p["status"].update(phase="Succeeded"),
    ],
)
def test_without_a_pod_that_it_could_be_of_nothing_is_read(
    world: World, change: Callable[[Object], object]
) -> None:
    world.leave()
    world.server.put(POD_PATH, strandeds.its_pod(change))
    assert world.adopt()
    assert world.bucket.asked == []
    assert world.checkpoint() is None


def test_what_lies_there_of_pods_that_are_gone_is_nobodys(world: World) -> None:
    """So nobody brings old memory back by putting it into the bucket again."""
    world.leave()
    world.server.put(POD_PATH, strandeds.its_pod(lambda p: p["metadata"].update(uid="another")))
    assert world.adopt()
    assert world.checkpoint() is None
    assert KEY not in world.bucket.asked


def _tampered(world: World) -> None:
    world.leave()
    raw = world.bucket.objects[KEY]
    world.bucket.objects[KEY] = raw.replace(b"c" * 64, b"e" * 64)


def _foreign(world: World) -> None:
    world.bucket.objects[KEY] = strandeds.sealed(Issuer())


def _large(world: World) -> None:
    world.bucket.objects[KEY] = bytes(envelope.MAX_BYTES + 1)


def _noise(world: World) -> None:
    world.bucket.objects[KEY] = b"{}"


def _other_owner(world: World) -> None:
    world.leave()
    theirs = strandeds.its_pod(lambda p: p["metadata"]["ownerReferences"][0].update(uid="x"))
    world.server.put(POD_PATH, theirs)


def _not_as_told(world: World) -> None:
    world.leave()
    world.put_checkpoint(Captured="True", Available="True")
    told = world.server.objects[CHECKPOINT_PATH]["status"]["location"]["peer"]
    told["manifestSha256"] = "a" * 64


HOSTILE: dict[str, tuple[str, Callable[[World], object]]] = {
    "changed": ("Untrusted", _tampered),
    "of another cluster": ("Untrusted", _foreign),
    "too large": ("TooLarge", _large),
    "no manifest": ("BadManifest", _noise),
    "of another node's pod": ("WrongNode", lambda w: w.leave(node="spot-2")),
    "of another namespace": ("WrongPod", lambda w: w.leave(namespace="bank")),
    "of another pod": ("WrongPod", lambda w: w.leave(pod_uid="x", id="x")),
    "of a PersistentCheckpoint": ("WrongPod", lambda w: w.leave(id="warm")),
    "of the pod of that name before": ("WrongPod", lambda w: w.leave(pod_uid="before")),
    "for nobody": ("WrongOwner", lambda w: w.leave(owner=None)),
    "for another owner": ("WrongOwner", _other_owner),
    "of a pod that runs again": (
        "RunsAgain",
        lambda w: w.leave(created=datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)),
    ),
    "another than was told": ("WrongManifest", _not_as_told),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_its_own_pods_is_refused_by_name_and_once(world: World, case: str) -> None:
    reason, prepare = HOSTILE[case]
    prepare(world)
    before = world.checkpoint()
    for _ in range(3):
        assert world.adopt(), "it is settled"
        world.now += 3600
        world.adopter.sweep()
    assert world.checkpoint() == before
    assert world.numbers.get(metrics.ADOPTIONS, result=reason) == 1
    ((told, note),) = world.reported()
    assert (told, reason in note) == (names.EVENT_NOT_ADOPTED, True)
    assert world.bucket.sent <= 1, "its body is read once"


def test_a_good_one_in_the_place_of_a_bad_one_is_adopted(world: World) -> None:
    _tampered(world)
    world.adopt()
    world.leave()
    world.adopt()
    assert world.said()["Stored"] == ("True", "Stored")


# When others are away, or faster


@pytest.mark.parametrize("away", ["the store", "the API server"])
def test_what_cannot_be_looked_at_is_kept_and_asked_for_again(world: World, away: str) -> None:
    world.leave()
    if away == "the store":
        world.bucket.trouble = Unavailable("no route")
    else:
        world.server.fail = lambda r: Unavailable("503") if r.method != "GET" else None
    assert not world.adopt()
    assert world.adopter.is_unsettled(PLACE)
    world.bucket.trouble, world.server.fail = None, lambda _: None
    assert world.adopt()
    assert not world.adopter.is_unsettled(PLACE)
    assert world.said()["Stored"] == ("True", "Stored")


def test_a_store_that_is_away_is_asked_once_for_all(world: World) -> None:
    for number in range(20):
        uid = f"uid-{number}"
        path = PODS.path(namespace=NAMESPACE, name=uid)
        world.server.put(
            path,
            strandeds.its_pod(lambda p, u=uid: p["metadata"].update(name=u, uid=u)),  # type: ignore[misc]
        )
    world.bucket.trouble = Unavailable("no route")
    assert not world.adopt()
    assert len(world.bucket.asked) == 1
    assert world.adopter.is_unsettled(Place(NAMESPACE, "uid-19"))


def test_whoever_was_faster_is_looked_at_again(world: World, api) -> None:
    """Its daemon was heard just now, and says it itself."""
    world.leave()
    create = api.create

    def slow(ref: Any, value: Object) -> Object:
        if ref.resource.plural == "checkpoints":
            world.put_checkpoint(Captured="Unknown")
        made: Object = create(ref, value)
        return made

    api.create = slow
    assert not world.adopt()
    assert world.said() == {"Captured": ("Unknown", "R")}
    assert world.adopt()
    assert world.said()["Stored"] == ("True", "Stored")


def test_a_change_in_between_is_not_written_over(world: World) -> None:
    world.leave()
    world.put_checkpoint(Captured="Unknown")
    world.server.fail = lambda r: Conflict("409") if r.method == "PATCH" else None
    assert not world.adopt()
    assert world.said() == {"Captured": ("Unknown", "R")}


# Who is silent


def lease(world: World, *, ago: float) -> None:
    at = datetime.now(UTC) - timedelta(seconds=ago)
    value = {"metadata": {"name": NODE}, "spec": {"renewTime": conditions.micro_timestamp(at)}}
    world.server.put(LEASES.path(namespace="kube-node-lease", name=NODE), value)


@pytest.mark.parametrize(
    ("ready", "ago", "is_silent"),
    [("True", 5, False), ("True", 60, True), ("Unknown", 5, True), (None, 5, True)],
)
def test_the_sweep_looks_at_nodes_that_do_not_speak_for_themselves(
    world: World, ready: str | None, ago: float, is_silent: bool
) -> None:
    world.leave()
    lease(world, ago=ago)
    if ready is None:
        del world.server.objects[NODE_PATH]
    else:
        world.server.put(NODE_PATH, strandeds.node(ready=ready))
    other = strandeds.node(ready="True")
    other["metadata"]["name"] = "spot-2"
    world.server.put(NODES.path(name="spot-2"), other)
    world.adopter.sweep()
    assert (world.checkpoint() is not None) is is_silent
    assert bool(world.bucket.asked) is is_silent


def test_the_sweep_looks_less_and_less_often_where_nothing_lies(world: World) -> None:
    for _ in range(120):
        world.adopter.sweep()
        world.now += 60
    # After 30, 60, 120, 240 and 480 s, in steps of a minute, and every 10 minutes then.
    assert 13 <= len(world.bucket.asked) <= 18
    before = len(world.bucket.asked)
    world.adopt()
    assert len(world.bucket.asked) == before + 1, "who is asked about is looked at"
    world.leave()
    world.now += adopting.MAX_PAUSE_SECONDS
    world.adopter.sweep()
    assert world.said()["Stored"] == ("True", "Stored")
