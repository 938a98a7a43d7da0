"""Keys for claims: who gets one, who is refused by which name, and that neither happens twice."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.checkpoint import keys, strict
from architect.checkpoint.keys import Binding, Claimant
from architect.core.errors import FormatError, Rejected, Unavailable
from architect.kube import checkpoints, conditions, resources
from architect.kube.api import Api
from architect.kube.checkpoints import CheckpointSpec, Owner, Trigger
from architect.kube.errors import Conflict
from architect.kube.resources import CHECKPOINTS, PODS
from architect.operator import keyring, metrics, release, releaser
from architect.operator.keyring_store import KeyringStore
from architect.operator.kms import errors
from architect.operator.metrics import Metrics
from architect.operator.releaser import Releaser
from architect.operator.strongbox import Strongbox
from support.keyservices import CLUSTER, MemoryService, box_of, plain_box

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OWNER = Owner(api_version="apps/v1", kind="ReplicaSet", name="web-1", uid="owner-uid")
OLD = resources.pod("shop", "web-old", uid="old-uid-0")
PATH = CHECKPOINTS.path(namespace="shop", name=checkpoints.name_of(OLD, trigger=Trigger.EVICTION))
POD_PATH = PODS.path(namespace="shop", name="web-new")

Object = dict[str, Any]


def path_of(value: Object) -> str:
    metadata = value["metadata"]
    return CHECKPOINTS.path(namespace=metadata["namespace"], name=metadata["name"])


class World:
    """A saved pod in the store, its successor on node n2, whose daemon claims."""

    def __init__(self, api: Api, server: Any) -> None:
        self.server = server
        self.numbers = Metrics()
        self.store = KeyringStore(
            api,
            plain_box(self.numbers),
            namespace="architect",
            name="k",
            config_map="k",
            clock=lambda: NOW,
        )
        self.releaser = Releaser(api, self.store, self.numbers, authorities=list, clock=lambda: NOW)
        self.data_key = keys.new_data_key()
        self.private = keys.make_key()
        self.claimant = Claimant(pod_uid="new-uid", node="n2")
        self.checkpoint = self.stored(OLD)
        server.put(POD_PATH, self.pod())

    def stored(self, pod: resources.ObjectRef) -> Object:
        """Put the checkpoint of *pod*, as its node's daemon stored it."""
        spec = CheckpointSpec(
            pod=pod, trigger=Trigger.EVICTION, template_hash="h", containers=("app",), owner=OWNER
        )
        value = checkpoints.build(spec)
        ring = self.store.fetch()
        binding = Binding(
            namespace=pod.namespace or "",
            pod_uid=pod.uid,
            owner_uid=OWNER.uid,
            checkpoint_id=pod.uid,
        )
        wrapped = keys.wrap(self.data_key, ring.current.public, binding)
        s3 = {
            "bucket": "pods", "key": f"{pod.namespace}/{pod.uid}/manifest.json",
            "keyID": ring.current.id, "wrappedKey": keys.sealed_to_text(wrapped),
        }  # fmt: skip
        value["status"] = {"location": {"s3": s3}}
        return dict(self.server.put(path_of(value), value))

    def pod(self) -> Object:
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": OWNER.uid}
        return {
            "metadata": {
                "name": "web-new", "namespace": "shop", "uid": "new-uid",
                "ownerReferences": [{**owner, "controller": True}],
            },
            "spec": {"nodeName": "n2"},
            "status": {"phase": "Pending"},
        }  # fmt: skip

    def public(self) -> str:
        return keys.public_to_text(self.private.public_key())

    def claim(self, **changes: Any) -> Object:
        """Put the claim of node n2, and return the object as an event brings it."""
        claim = {"name": "web-new", "uid": "new-uid", "node": "n2", "publicKey": self.public()}
        return self.change(claimedBy={**claim, **changes})

    def change(self, **status: Any) -> Object:
        value = copy.deepcopy(self.server.objects[PATH])
        value["status"] |= status
        return dict(self.server.put(PATH, value))

    def change_pod(self, change: Callable[[Object], object]) -> None:
        value = self.pod()
        change(value)
        self.server.put(POD_PATH, value)

    def status(self) -> Object:
        status: Object = self.server.objects[PATH]["status"]
        return status

    def said(self) -> tuple[str, str]:
        found = conditions.find(self.status().get("conditions", ()), checkpoints.KEY_RELEASED)
        return ("", "") if found is None else (found["status"], found["reason"])

    @property
    def binding(self) -> Binding:
        return Binding(
            namespace="shop",
            pod_uid="old-uid-0",
            owner_uid=OWNER.uid,
            checkpoint_id="old-uid-0",
        )

    def received(self, binding: Binding | None = None) -> bytes:
        """Open what was given, as the daemon of n2."""
        binding = binding or self.binding
        sealed = keys.sealed_from_text(self.status()["keyRelease"]["sealedKey"])
        return keys.accept(sealed, self.private, binding, claimant=self.claimant)


@pytest.fixture
def world(api: Api, server: Any) -> World:
    return World(api, server)


def test_who_claims_for_the_successor_gets_the_key(world: World) -> None:
    world.releaser.look_at(world.claim())
    assert world.said() == ("True", "Released")
    given = world.status()["keyRelease"]
    assert (given["publicKey"], given["at"]) == (world.public(), "2030-01-01T00:00:00Z")
    assert world.received() == world.data_key
    assert world.numbers.get(metrics.KEY_RELEASES, result="released") == 1


def test_the_sweep_finds_a_claim_whose_event_was_missed(world: World) -> None:
    world.claim()
    world.releaser.sweep()
    assert world.received() == world.data_key


def test_nothing_is_read_of_pods_while_nobody_asks(world: World) -> None:
    world.server.requests.clear()
    world.releaser.look_at(world.checkpoint)
    world.releaser.look_at(world.change(claimedBy={"name": "x", "uid": "x", "node": "n2"}))
    value = world.claim()
    del value["status"]["location"]["s3"]["wrappedKey"]
    world.releaser.look_at(value)
    world.releaser.look_at({**value, "status": {}})
    assert world.server.requests == []


def test_an_answered_claim_is_not_answered_again(world: World) -> None:
    world.releaser.look_at(world.claim())
    first = world.status()["keyRelease"]
    world.releaser.sweep()
    assert world.status()["keyRelease"] == first
    assert world.numbers.get(metrics.KEY_RELEASES, result="released") == 1


def test_a_stale_event_answers_nothing(world: World) -> None:
    stale = world.claim()
    world.releaser.look_at(stale)
    first = world.status()["keyRelease"]
    world.releaser.look_at(stale)
    assert world.status()["keyRelease"] == first
    assert world.numbers.get(metrics.KEY_RELEASES, result="released") == 1


def test_a_new_claim_gets_the_key_anew(world: World) -> None:
    world.releaser.look_at(world.claim())
    world.private = keys.make_key()
    world.releaser.look_at(world.claim())
    assert world.received() == world.data_key


def test_a_key_of_before_the_rotation_opens(world: World) -> None:
    world.store._clock = lambda: NOW + keyring.ROTATE_AFTER
    world.claim()
    world.releaser.sweep()
    assert world.store.fetch().former
    assert world.received() == world.data_key


HOSTILE: dict[str, tuple[str, Callable[[World], object]]] = {
    "a pod that is not there": (
        "PodGone", lambda w: w.claim(name="web-none"),
    ),
    "a pod that was replaced": (
        "PodReplaced", lambda w: w.claim(uid="other-uid"),
    ),
    "another node's pod, as ours": (
        "WrongNode", lambda w: w.claim(node="n3"),
    ),
    "another node's pod, moved on": (
        "WrongNode", lambda w: w.change_pod(lambda p: p["spec"].update(nodeName="n1")),
    ),
    "a pod that is on no node": (
        "WrongNode", lambda w: w.change_pod(lambda p: p["spec"].clear()),
    ),
    "a pod of nobody": (
        "WrongOwner", lambda w: w.change_pod(lambda p: p["metadata"].pop("ownerReferences")),
    ),
    "a pod of another owner": (
        "WrongOwner",
        lambda w: w.change_pod(lambda p: p["metadata"]["ownerReferences"][0].update(uid="x")),
    ),
    "a pod that the owner does not control": (
        "WrongOwner",
        lambda w: w.change_pod(lambda p: p["metadata"]["ownerReferences"][0].pop("controller")),
    ),
    "a pod with two controllers": (
        "WrongOwner",
        lambda w: w.change_pod(
            lambda p: p["metadata"]["ownerReferences"].append({"uid": "x", "controller": True})
        ),
    ),
    "a pod that has ended": (
        "PodEnded", lambda w: w.change_pod(lambda p: p["status"].update(phase="Succeeded")),
    ),
    "a checkpoint that was restored": (
        "AlreadyRestored",
        lambda w: w.change(
            conditions=[{"type": "Restored", "status": "True", "reason": "R", "message": ""}]
        ),
    ),
    "a checkpoint that is being deleted": (
        "BeingDeleted",
        lambda w: w.server.objects[PATH]["metadata"].update(deletionTimestamp="2030-01-01"),
    ),
    "a key that is none": ("BadKey", lambda w: w.claim(publicKey="AAAA")),
    "a key with which all share a secret": (
        "BadKey", lambda w: w.claim(publicKey=strict.to_base64(bytes(32))),
    ),
    "a key of an operator that is no more": (
        "UnknownKey", lambda w: w.status()["location"]["s3"].update(keyID="0" * 16),
    ),
    "a key without an id": ("UnknownKey", lambda w: w.status()["location"]["s3"].pop("keyID")),
    "a wrapped key that is none": (
        "BadKey", lambda w: w.status()["location"]["s3"].update(wrappedKey="AAAA"),
    ),
    "a wrapped key that was made up": (
        "BadKey",
        lambda w: w.status()["location"]["s3"].update(
            wrappedKey=strict.to_base64(b"\x07" * keys.SEALED_BYTES)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_who_may_not_have_it_is_refused_by_name_and_once(world: World, case: str) -> None:
    reason, change = HOSTILE[case]
    world.claim()
    change(world)
    value = copy.deepcopy(world.server.objects[PATH])
    world.releaser.look_at(value)
    assert world.said() == ("False", reason)
    assert "keyRelease" not in world.status()
    assert world.numbers.get(metrics.KEY_RELEASES, result=reason) == 1
    world.releaser.sweep()
    assert world.numbers.get(metrics.KEY_RELEASES, result=reason) == 1


def test_who_was_refused_may_claim_anew(world: World) -> None:
    world.releaser.look_at(world.claim(node="n3"))
    assert world.said() == ("False", "WrongNode")
    world.private = keys.make_key()
    world.releaser.look_at(world.claim())
    assert world.said() == ("True", "Released")
    world.private = keys.make_key()
    world.releaser.look_at(world.claim(node="n3"))
    assert world.said() == ("False", "WrongNode")


def test_a_condition_of_another_claim_or_of_nobodys_silences_nobody(world: World) -> None:
    said = {"type": "KeyReleased", "status": "False", "reason": "WrongNode", "message": "claim x: "}
    world.change(conditions=[said])
    world.releaser.look_at(world.claim())
    assert world.received() == world.data_key


@pytest.mark.parametrize(
    "other",
    [
        resources.pod("vault", "web-old", uid="old-uid-0"),
        resources.pod("shop", "db-0", uid="db-uid-00"),
    ],
    ids=["namespace", "pod"],
)
def test_a_wrapped_key_that_was_copied_from_another_checkpoint_is_of_no_use(
    world: World, other: resources.ObjectRef
) -> None:
    theirs = world.stored(other)
    world.change(location=theirs["status"]["location"])
    world.releaser.look_at(world.claim())
    assert world.said() == ("False", "BadKey")
    assert "keyRelease" not in world.status()


def test_what_was_given_to_one_claim_opens_for_no_other(world: World) -> None:
    world.releaser.look_at(world.claim())
    world.claimant = Claimant(pod_uid="new-uid", node="n3")
    with pytest.raises(FormatError):
        world.received()
    world.claimant = Claimant(pod_uid="new-uid", node="n2")
    with pytest.raises(FormatError):
        world.received(dataclasses.replace(world.binding, namespace="vault"))
    world.private = keys.make_key()
    with pytest.raises(FormatError):
        world.received()


def test_a_damaged_secret_refuses_nobody_for_good(world: World) -> None:
    secret = "/api/v1/namespaces/architect/secrets/k"
    good = copy.deepcopy(world.server.objects[secret])
    world.server.put(secret, {**good, "data": {}})
    world.claim()
    world.releaser.sweep()
    assert world.said() == ("Unknown", "SecretUnreadable")
    assert world.numbers.get(metrics.KEY_RELEASES, result="error") == 1
    world.server.put(secret, good)
    world.releaser.sweep()
    assert world.received() == world.data_key


class SealedWorld(World):
    """One whose operator has just started: it has to ask the service for what it sealed."""

    def __init__(self, api: Api, server: Any) -> None:
        super().__init__(api, server)
        self.service = MemoryService()
        self.now = 1000.0
        sealing = KeyringStore(
            api, box_of(self.service, namespace="architect", secret="k"), namespace="architect",
            name="k", config_map="k", clock=lambda: NOW,
        )  # fmt: skip
        sealing.publish([])
        box = Strongbox(
            self.service, self.numbers, cluster=CLUSTER, namespace="architect", secret="k",
            clock=lambda: self.now,
        )  # fmt: skip
        self.store = KeyringStore(
            api, box, namespace="architect", name="k", config_map="k", clock=lambda: NOW
        )
        self.time = NOW
        self.releaser = Releaser(
            api, self.store, self.numbers, authorities=list, clock=lambda: self.time
        )


@pytest.fixture
def sealed(api: Api, server: Any) -> SealedWorld:
    return SealedWorld(api, server)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (errors.unreachable("no route", what="have the data key decrypted"), "Unavailable"),
        (errors.refused("not you", errors.ACCESS_DENIED), errors.ACCESS_DENIED),
    ],
)
def test_a_claim_says_what_keeps_its_key_and_gets_it_within_seconds(
    sealed: SealedWorld, failure: Rejected | Unavailable, reason: str
) -> None:
    sealed.service.failure = failure
    sealed.releaser.look_at(sealed.claim())
    assert sealed.said() == ("Unknown", reason)
    (told,) = sealed.status()["conditions"]
    assert told["message"].startswith(keys.claim_mark(sealed.public()))
    assert failure.message in told["message"]
    sealed.releaser.look_at_waiting()
    assert sealed.status()["conditions"] == [told], "it is not written again"
    sealed.service.failure = None
    sealed.now += errors.RETRY_SECONDS
    sealed.releaser.look_at_waiting()
    assert sealed.said() == ("True", "Released")
    assert sealed.received() == sealed.data_key
    sealed.server.requests.clear()
    sealed.releaser.look_at_waiting()
    assert sealed.server.requests == [], "nobody waits any more"


def test_who_waits_no_longer_is_forgotten(sealed: SealedWorld) -> None:
    sealed.service.failure = errors.unreachable("no route", what="ask")
    for end in ("the claim is given back", "the checkpoint is gone"):
        sealed.releaser.look_at(sealed.claim())
        if end == "the claim is given back":
            sealed.releaser.look_at(sealed.change(claimedBy=None))
        else:
            del sealed.server.objects[PATH]
            sealed.releaser.look_at_waiting()
        sealed.server.requests.clear()
        sealed.releaser.look_at_waiting()
        assert sealed.server.requests == []


def test_a_claim_is_looked_at_as_long_as_somebody_can_wait_for_its_answer(
    sealed: SealedWorld,
) -> None:
    sealed.service.failure = errors.unreachable("no route", what="ask")
    sealed.releaser.look_at(sealed.claim())
    sealed.time += releaser.PATIENCE
    sealed.server.requests.clear()
    sealed.releaser.look_at_waiting()
    assert sealed.server.requests
    sealed.time += timedelta(seconds=1)
    sealed.server.requests.clear()
    sealed.releaser.look_at_waiting()
    assert sealed.server.requests == []
    # Who asks anew is waited with anew, and a sweep answers who has not been.
    sealed.releaser.look_at(sealed.claim())
    sealed.service.failure = None
    sealed.now += errors.RETRY_SECONDS
    sealed.releaser.look_at_waiting()
    assert sealed.said() == ("True", "Released")


def test_a_claim_waits_while_the_api_server_is_away(sealed: SealedWorld) -> None:
    value = sealed.claim()
    sealed.server.fail = lambda _: Unavailable("503")
    sealed.releaser.look_at(value)
    sealed.releaser.look_at_waiting()
    sealed.server.fail = lambda _: None
    sealed.releaser.look_at_waiting()
    assert sealed.received() == sealed.data_key


def test_a_checkpoint_that_changed_meanwhile_is_decided_anew(world: World) -> None:
    value = world.claim()
    world.server.fail = lambda r: Conflict("changed") if r.method == "PATCH" else None
    world.releaser.look_at(value)
    world.server.fail = lambda _: None
    assert world.said() == ("", "")
    assert "architect_operator_key_releases_total{" not in world.numbers.render()


def test_the_checkpoint_says_which_by_what_never_changes(world: World) -> None:
    value = world.claim()
    before = release.binding_of(value)
    value["status"] = {"location": {"s3": {"key": "vault/other/manifest.json"}}}
    value["metadata"]["labels"] = {"a": "b"}
    assert release.binding_of(value) == before
