"""Keys for pods that start from a PersistentCheckpoint: who gets one, who is refused, and why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from architect.api import names
from architect.api.policy import ContainerPolicy, Policy
from architect.checkpoint import keys
from architect.checkpoint.keys import Binding, Claimant
from architect.core.errors import FormatError, Unavailable
from architect.kube import checkpoints, conditions
from architect.kube.api import Api
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS, PODS
from architect.operator import metrics, release, starts
from architect.operator.keyring_store import KeyringStore
from architect.operator.metrics import Metrics
from architect.operator.release import Ask, Release
from architect.operator.releaser import Releaser
from support.keyservices import plain_box

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SAVED = {"name": "warm-pod", "uid": "saved-uid"}
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
PATH = CHECKPOINTS.path(namespace="shop", name="web-1-new-uid-start")
SOURCE = PERSISTENT_CHECKPOINTS.path(namespace="shop", name="warm")
POD = PODS.path(namespace="shop", name="web-1")

Object = dict[str, Any]


def policy(start_from: str | None) -> str:
    return Policy(containers={"app": ContainerPolicy()}, start_from=start_from).to_json()


class World:
    """A PersistentCheckpoint in the store, a new pod on node n2 that asks for it, and its claim."""

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
        self.allowed: Object = {"allowed": True}
        self.asked: list[Object] = []
        self._post = server.post
        server.post = self._answer
        self.put_persistent()
        server.put(POD, self.pod())
        server.put(PATH, self.checkpoint())

    def _answer(self, request: Any) -> Any:
        """Answer as the API server's authorizers."""
        if request.path != REVIEWS:
            return self._post(request)
        self.asked.append(request.body["spec"])
        return {**request.body, "status": self.allowed}

    def put_persistent(
        self, *, uid: str = "pc-uid", pod: Object | None = None, namespace: str = "shop"
    ) -> Object:
        """Put it as the daemon of its node stored it."""
        saved = pod or SAVED
        ring = self.store.fetch()
        binding = Binding(
            namespace=namespace, pod_uid=saved["uid"], owner_uid="", checkpoint_id=uid
        )
        wrapped = keys.wrap(self.data_key, ring.current.public, binding)
        s3 = {
            "bucket": "pods", "key": f"{namespace}/{uid}/manifest.json", "manifestSha256": "0" * 64,
            "keyID": ring.current.id, "wrappedKey": keys.sealed_to_text(wrapped),
        }  # fmt: skip
        value = {
            "kind": "PersistentCheckpoint",
            "metadata": {"name": "warm", "namespace": namespace, "uid": uid},
            "spec": {"podName": saved["name"]},
            "status": {
                "podRef": saved,
                "node": "n1",
                "location": {"s3": s3},
                "conditions": [{"type": "Available", "status": "True", "reason": "Stored"}],
            },
        }
        path = PERSISTENT_CHECKPOINTS.path(namespace=namespace, name="warm")
        return dict(self.server.put(path, value))

    def pod(self) -> Object:
        return {
            "metadata": {
                "name": "web-1", "namespace": "shop", "uid": "new-uid-1",
                "annotations": {names.POLICY: policy("warm"), names.START_FROM: "warm"},
            },
            "spec": {
                "nodeName": "n2", "serviceAccountName": "web",
                "runtimeClassName": names.RUNTIME_CLASS, "containers": [{"name": "app"}],
            },
            "status": {"phase": "Pending"},
        }  # fmt: skip

    def checkpoint(self) -> Object:
        return {
            "kind": "Checkpoint",
            "metadata": {"name": "web-1-new-uid-start", "namespace": "shop"},
            "spec": {
                "podRef": SAVED, "trigger": "Request", "containers": ["app"],
                "startFrom": {"name": "warm", "uid": "pc-uid"},
            },
            "status": {
                "claimedBy": {
                    "name": "web-1", "uid": "new-uid-1", "node": "n2",
                    "publicKey": keys.public_to_text(self.private.public_key()),
                }
            },
        }  # fmt: skip

    def change(self, path: str, change: Callable[[Object], object]) -> None:
        value = copy.deepcopy(self.server.objects[path])
        change(value)
        self.server.put(path, value)

    def look(self) -> None:
        self.releaser.look_at(copy.deepcopy(self.server.objects[PATH]))

    def status(self, path: str = PATH) -> Object:
        return dict(self.server.objects[path]["status"])

    def said(self) -> tuple[str, str, str]:
        found = conditions.find(self.status().get("conditions", ()), checkpoints.KEY_RELEASED)
        return (
            ("", "", "") if found is None else (found["status"], found["reason"], found["message"])
        )

    def received(self) -> bytes:
        """Open what was given, as the daemon of n2."""
        sealed = keys.sealed_from_text(self.status()["keyRelease"]["sealedKey"])
        binding = Binding(
            namespace="shop", pod_uid="saved-uid", owner_uid="", checkpoint_id="pc-uid"
        )
        claimant = Claimant(pod_uid="new-uid-1", node="n2")
        return keys.accept(sealed, self.private, binding, claimant=claimant)


@pytest.fixture
def world(api: Api, server: Any) -> World:
    return World(api, server)


def test_a_pod_that_asks_and_may_gets_the_key_and_the_use_is_noted(world: World) -> None:
    world.look()
    assert world.said()[:2] == ("True", "Released")
    assert world.received() == world.data_key
    assert world.status(SOURCE)["lastUsedAt"] == "2030-01-01T00:00:00Z"
    assert world.numbers.get(metrics.KEY_RELEASES, result="released") == 1


def test_its_account_is_asked_about_with_the_groups_that_it_is_in(world: World) -> None:
    world.look()
    (asked,) = world.asked
    assert asked == {
        "user": "system:serviceaccount:shop:web",
        "groups": [
            "system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated",
        ],
        "resourceAttributes": {
            "group": "architect.dev", "version": "v1alpha1", "resource": "persistentcheckpoints",
            "verb": "restore", "namespace": "shop", "name": "warm",
        },
    }  # fmt: skip


def test_a_pod_without_an_account_is_asked_about_as_the_default_one(world: World) -> None:
    world.change(POD, lambda p: p["spec"].pop("serviceAccountName"))
    world.look()
    assert world.asked[0]["user"] == "system:serviceaccount:shop:default"


def test_ten_pods_get_it_each_by_its_own_claim(world: World) -> None:
    """One object restores many: each pod has a Checkpoint, which restores one."""
    for _ in range(10):
        world.private = keys.make_key()
        world.server.put(PATH, world.checkpoint())
        world.look()
        assert world.received() == world.data_key


def test_an_answered_claim_is_not_answered_again(world: World) -> None:
    world.look()
    first = world.status()["keyRelease"]
    world.look()
    world.releaser.sweep()
    assert world.status()["keyRelease"] == first
    assert len(world.asked) == 1


def test_nothing_is_read_while_nobody_claims(world: World) -> None:
    world.change(PATH, lambda c: c["status"].pop("claimedBy"))
    world.server.requests.clear()
    world.look()
    assert world.server.requests == []


def other_pod(world: World) -> None:
    world.put_persistent(pod={"name": "other", "uid": "other-uid"})


def copied(world: World, **of: Any) -> None:
    """Put the location of another one, as who may write there could, into ours."""
    theirs = world.put_persistent(**of)["status"]["location"]
    world.put_persistent()
    world.change(SOURCE, lambda p: p["status"].update(location=theirs))


HOSTILE: dict[str, tuple[str, Callable[[World], object]]] = {
    "a pod that is not there": (
        "PodGone", lambda w: w.server.objects.pop(POD),
    ),
    "a pod that was replaced": (
        "PodReplaced", lambda w: w.change(POD, lambda p: p["metadata"].update(uid="x")),
    ),
    "another node's pod": (
        "WrongNode", lambda w: w.change(POD, lambda p: p["spec"].update(nodeName="n1")),
    ),
    "a pod that has ended": (
        "PodEnded", lambda w: w.change(POD, lambda p: p["status"].update(phase="Failed")),
    ),
    "a pod that asks for nothing": (
        "NotAskedFor",
        lambda w: w.change(
            POD, lambda p: p["metadata"]["annotations"].update({names.POLICY: policy(None)})
        ),
    ),
    "a pod that asks for another one": (
        "NotAskedFor",
        lambda w: w.change(
            POD, lambda p: p["metadata"]["annotations"].update({names.POLICY: policy("other")})
        ),
    ),
    "a pod that was created without the webhook": (
        "NotAskedFor",
        lambda w: w.change(POD, lambda p: p["metadata"]["annotations"].pop(names.POLICY)),
    ),
    "a pod whose policy is none": (
        "NotAskedFor",
        lambda w: w.change(
            POD, lambda p: p["metadata"]["annotations"].update({names.POLICY: "[]"})
        ),
    ),
    "one that is not there": (
        "NotAvailable", lambda w: w.server.objects.pop(SOURCE),
    ),
    "one of another namespace": (
        "NotAvailable",
        lambda w: (w.server.objects.pop(SOURCE), w.put_persistent(namespace="vault")),
    ),
    "one of that name, made anew": (
        "WrongPersistentCheckpoint", lambda w: w.put_persistent(uid="another-uid"),
    ),
    "one that is being deleted": (
        "NotAvailable",
        lambda w: w.change(SOURCE, lambda p: p["metadata"].update(deletionTimestamp="2030-01-01")),
    ),
    "one that is not available": (
        "NotAvailable",
        lambda w: w.change(SOURCE, lambda p: p["status"]["conditions"][0].update(status="False")),
    ),
    "one of which nothing is said": (
        "NotAvailable", lambda w: w.change(SOURCE, lambda p: p.pop("status")),
    ),
    "one without a place": (
        "NotAvailable", lambda w: w.change(SOURCE, lambda p: p["status"].pop("location")),
    ),
    "one of another pod than the claim says": ("WrongPersistentCheckpoint", other_pod),
    "one of no pod": (
        "WrongPersistentCheckpoint",
        lambda w: w.change(SOURCE, lambda p: p["status"].pop("podRef")),
    ),
    "an account without the verb": (
        "NotAllowed", lambda w: w.allowed.update(allowed=False),
    ),
    "an account that is denied by one authorizer": (
        "NotAllowed", lambda w: w.allowed.update(denied=True),
    ),
    "an account about which nothing is said": ("NotAllowed", lambda w: w.allowed.clear()),
    "a wrapped key from another one": ("BadKey", lambda w: copied(w, uid="other-uid")),
    "a wrapped key from another namespace": ("BadKey", lambda w: copied(w, namespace="vault")),
    "a wrapped key from another pod": (
        "BadKey", lambda w: copied(w, pod={"name": "db-0", "uid": "db-uid"}),
    ),
    "a key of an operator that is no more": (
        "UnknownKey",
        lambda w: w.change(SOURCE, lambda p: p["status"]["location"]["s3"].update(keyID="00")),
    ),
    "a claim that was used": (
        "AlreadyRestored",
        lambda w: w.change(
            PATH,
            lambda c: c["status"].update(
                conditions=[{"type": "Restored", "status": "True", "reason": "R", "message": ""}]
            ),
        ),
    ),
    "a claim that is being deleted": (
        "BeingDeleted",
        lambda w: w.change(PATH, lambda c: c["metadata"].update(deletionTimestamp="2030-01-01")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_who_may_not_have_it_is_refused_by_name_and_once(world: World, case: str) -> None:
    reason, change = HOSTILE[case]
    change(world)
    world.look()
    assert world.said()[:2] == ("False", reason)
    assert "keyRelease" not in world.status()
    used = world.server.objects.get(SOURCE, {}).get("status", {}).get("lastUsedAt")
    assert used is None, "a refusal is no use"
    world.releaser.sweep()
    assert world.numbers.get(metrics.KEY_RELEASES, result=reason) == 1
    if reason not in ("NotAllowed", "BadKey", "UnknownKey"):
        assert world.asked == [], "nobody else is asked about what is refused anyway"


def test_a_refusal_tells_what_to_grant(world: World) -> None:
    world.allowed = {"allowed": False, "reason": "no RBAC policy matched"}
    world.look()
    assert "system:serviceaccount:shop:web may not restore" in world.said()[2]


def test_a_location_in_the_claim_itself_is_not_looked_at(world: World) -> None:
    """Any daemon may write it."""
    theirs = world.put_persistent(uid="other-uid")["status"]["location"]
    world.put_persistent()
    world.change(PATH, lambda c: c["status"].update(location=theirs))
    world.look()
    assert world.received() == world.data_key


def test_a_saved_pod_is_not_given_away_as_a_start(world: World) -> None:
    """Without ``startFrom`` the owner counts, whatever PersistentCheckpoint is there."""
    where = world.status(SOURCE)["location"]
    world.change(PATH, lambda c: (c["spec"].pop("startFrom"), c["status"].update(location=where)))
    world.look()
    assert world.said()[:2] == ("False", "WrongOwner")
    assert world.asked == []


def test_what_was_given_opens_as_no_other_checkpoint(world: World) -> None:
    world.look()
    sealed = keys.sealed_from_text(world.status()["keyRelease"]["sealedKey"])
    for binding in (
        Binding(namespace="shop", pod_uid="saved-uid", owner_uid="", checkpoint_id="saved-uid"),
        Binding(namespace="vault", pod_uid="saved-uid", owner_uid="", checkpoint_id="pc-uid"),
    ):
        with pytest.raises(FormatError):
            keys.accept(
                sealed, world.private, binding, claimant=Claimant(pod_uid="new-uid-1", node="n2")
            )


def test_an_authorizer_that_is_away_refuses_nobody_for_good(world: World) -> None:
    world.server.fail = lambda r: Unavailable("away") if r.path == REVIEWS else None
    world.look()
    assert world.said()[:2] == ("Unknown", "Unavailable")
    assert world.numbers.get(metrics.KEY_RELEASES, result="error") == 1
    world.server.fail = lambda _: None
    world.releaser.look_at_waiting()
    assert world.received() == world.data_key


def test_a_use_that_cannot_be_noted_keeps_nobody_waiting(world: World) -> None:
    def fail(request: Any) -> Exception | None:
        is_note = request.method == "PATCH" and "persistentcheckpoints" in request.path
        return Unavailable("away") if is_note else None

    world.server.fail = fail
    world.look()
    assert world.received() == world.data_key
    assert "lastUsedAt" not in world.status(SOURCE)


def test_the_decision_is_pure_and_waits_for_the_answer(world: World) -> None:
    value, pod = world.server.objects[PATH], world.pod()
    persistent = world.server.objects[SOURCE]
    asked = release.decide(value, pod=pod, persistent=persistent)
    assert isinstance(asked, Ask)
    assert asked.question == starts.question(value, pod=pod)
    given = release.decide(value, pod=pod, persistent=persistent, is_allowed=True)
    assert isinstance(given, Release)
    assert given.binding == starts.binding_of(persistent)
    refused = release.decide(value, pod=pod, persistent=persistent, is_allowed=False)
    assert isinstance(refused, release.Refuse)
    # Without the object nothing is given, whatever else is said.
    refused = release.decide(value, pod=pod, persistent=None, is_allowed=True)
    assert isinstance(refused, release.Refuse)
