"""Each daemon is held to its own node in the status of our objects, by a real API server.

Here a test writes as two daemons, with tokens that are bound to their pods: what they do in earnest
passes, and what only somebody does who has stolen one of them is refused by name.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from architect.api.policy import Storage
from architect.core.errors import ArchitectError
from architect.daemon.moves import objects
from architect.kube import checkpoints, resources
from architect.kube.api import Api
from architect.kube.checkpoints import Capture, CheckpointSpec, Requirements, Trigger
from architect.kube.conditions import Condition, Status
from architect.kube.errors import Conflict, Forbidden
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS, ObjectRef
from lab.cluster import Cluster
from support.daemontokens import as_daemon, daemons_by_node, open_as, with_token
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

KEY = "A" * 43 + "="


@dataclass
class Daemon:
    """One node's."""

    node: str
    api: Api


@dataclass
class Stage:
    """A Checkpoint of a pod that the daemon of one node saved, and another node's daemon."""

    saver: Daemon
    other: Daemon
    unbound: Api
    administrator: Api
    ref: ObjectRef

    def status(self) -> dict[str, Any]:
        value = self.administrator.get(CHECKPOINTS, self.ref.name, namespace=self.ref.namespace)
        return dict(value.get("status") or {})

    def write(self, who: Daemon | Api, **status: Any) -> None:
        """Patch the status, whatever others have written since."""
        api = who.api if isinstance(who, Daemon) else who
        api.patch(self.ref, {"status": status}, subresource="status")

    def claim(self, who: Daemon, *, node: str | None = None) -> None:
        claim = {"name": "web-new", "uid": "new-uid", "node": node or who.node, "publicKey": KEY}
        self.write(who, claimedBy=claim)

    def refuses(self, who: Daemon | Api, what: str, **status: Any) -> None:
        before = self.status()
        with pytest.raises(Forbidden, match=what):
            self.write(who, **status)
        after = self.status()
        for key in ("claimedBy", "location", "node", "keyRelease"):
            assert before.get(key) == after.get(key)


@pytest.fixture(scope="module")
def daemons(
    architect: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Daemon, Daemon, Api, Api]:
    directory = tmp_path_factory.mktemp("tokens")
    administrator = open_as(architect.kubeconfig)
    one, other, *_ = [
        Daemon(node=node, api=as_daemon(architect, directory, pod))
        for node, pod in sorted(daemons_by_node(administrator).items())
    ]
    return one, other, with_token(architect, directory), administrator


@pytest.fixture
def stage(theme: str, daemons: tuple[Daemon, Daemon, Api, Api]) -> Iterator[Stage]:
    saver, other, unbound, administrator = daemons
    uid = secrets.token_hex(8)
    spec = CheckpointSpec(
        pod=resources.pod(theme, f"web-{uid}", uid=uid), trigger=Trigger.EVICTION,
        template_hash="", containers=("app",),
    )  # fmt: skip
    ref = checkpoints.ref_of(spec.pod, trigger=spec.trigger)
    saver.api.create(ref, checkpoints.build(spec))
    found = Stage(saver=saver, other=other, unbound=unbound, administrator=administrator, ref=ref)

    def is_guarded() -> bool:
        """A policy that was just created is enforced a moment later."""
        try:
            found.write(unbound, size="1Mi")
        except Forbidden:
            return True
        return False

    eventually(is_guarded, what="the admission policy to be enforced")
    objects.change(
        saver.api, ref, objects.capturing(saver.node), fields=objects.location(saver.node, uid)
    )
    capture = Capture(
        node=saver.node, path="", image_bytes=1, at=datetime.datetime.now(tz=datetime.UTC),
        requirements=Requirements(architecture="amd64"), peer_id=uid, manifest_sha256="0" * 64,
    )  # fmt: skip
    objects.change(
        saver.api,
        ref,
        objects.captured(saver.node, Storage.NODE, has_store=False),
        fields=checkpoints.captured_status(capture),
    )
    yield found
    administrator.delete(ref)


def test_a_daemon_claims_and_gives_up_for_its_own_node(stage: Stage) -> None:
    stage.claim(stage.other)
    said, fields = objects.given_back("web-new")
    assert objects.change(stage.other.api, stage.ref, said, fields=fields)
    assert "claimedBy" not in stage.status()
    stage.claim(stage.saver)
    assert stage.status()["claimedBy"]["node"] == stage.saver.node


def test_a_claim_by_the_code_itself_passes(stage: Stage) -> None:
    pod = resources.pod(stage.ref.namespace or "", "web-new", uid="new-uid")

    def claims() -> bool:
        """The real daemon of the other node looks at the object, too, and may write first."""
        value = stage.other.api.get(CHECKPOINTS, stage.ref.name, namespace=stage.ref.namespace)
        try:
            checkpoints.claim(stage.other.api, value, pod=pod, node=stage.other.node)
        except Conflict:
            return False
        return True

    eventually(claims, what="a claim")
    assert stage.status()["claimedBy"]["node"] == stage.other.node


def test_no_daemon_claims_for_another_node(stage: Stage) -> None:
    stage.refuses(
        stage.other, "claimedBy.*for its own node only",
        claimedBy={"name": "web-new", "uid": "new-uid", "node": stage.saver.node},
    )  # fmt: skip


def test_no_daemon_takes_another_nodes_claim_or_changes_its_key(stage: Stage) -> None:
    stage.claim(stage.saver)
    stage.refuses(stage.other, "claimedBy.*for its own node only", claimedBy=None)
    stage.refuses(
        stage.other, "claimedBy.*for its own node only", claimedBy={"publicKey": "B" * 43 + "="}
    )
    stage.refuses(
        stage.other, "claimedBy.*for its own node only", claimedBy={"node": stage.other.node}
    )


def test_others_say_in_conditions_what_became_of_it(stage: Stage) -> None:
    stage.claim(stage.other)
    said = objects.restored(stage.other.node, after_seconds=1.0)
    assert objects.change(stage.other.api, stage.ref, said)
    said = objects.not_restored("it did not fit")
    assert objects.change(stage.other.api, stage.ref, said)


def test_where_it_lies_is_said_by_who_put_it_there(stage: Stage) -> None:
    before = stage.status()["location"]
    s3 = {"bucket": "pods", "key": "a/b/manifest.json", "wrappedKey": "AAAA"}
    stage.write(stage.saver, location={"s3": s3})
    assert stage.status()["location"] == {**before, "s3": s3}
    what = "status.location.*its own node saved"
    stage.refuses(stage.other, what, location={"s3": {"wrappedKey": "BBBB"}})
    stage.refuses(stage.other, what, location={"peer": {"node": stage.other.node}})
    stage.refuses(stage.other, what, location={"peer": {"manifestSha256": "1" * 64}})
    stage.refuses(stage.saver, what, location={"peer": {"node": stage.other.node}})
    stage.refuses(stage.other, "status.node", node=stage.other.node)
    stage.refuses(stage.saver, "status.node", node=stage.other.node)


def test_no_daemon_gives_keys_or_says_that_they_were_given(stage: Stage) -> None:
    for who in (stage.saver, stage.other):
        stage.claim(who)
        stage.refuses(
            who, "keyRelease.*by the operator", keyRelease={"publicKey": KEY, "sealedKey": "AAAA"}
        )
        said = Condition(type=checkpoints.KEY_RELEASED, status=Status.FALSE, reason="No")
        with pytest.raises(Forbidden, match="condition KeyReleased"):
            objects.change(who.api, stage.ref, (said,))
        stage.write(who, claimedBy=None)


def test_a_daemon_that_writes_besides_keeps_what_the_operator_said(stage: Stage) -> None:
    stage.claim(stage.other)
    said = Condition(type=checkpoints.KEY_RELEASED, status=Status.TRUE, reason="Released")
    given = {"publicKey": KEY, "sealedKey": "AAAA"}
    objects.change(stage.administrator, stage.ref, (said,), fields={"keyRelease": given})
    assert objects.change(
        stage.other.api, stage.ref, objects.restored(stage.other.node, after_seconds=1.0)
    )
    stage.refuses(stage.other, "keyRelease", keyRelease=None)


def test_a_token_without_a_pod_writes_nothing(stage: Stage) -> None:
    stage.refuses(stage.unbound, "names no node", size="2Mi")


# PersistentCheckpoints

S3 = {
    "bucket": "pods", "key": "a/b/manifest.json", "manifestSha256": "0" * 64,
    "wrappedKey": "AAAA", "keyID": "00",
}  # fmt: skip


@dataclass
class Warm:
    """A PersistentCheckpoint for which the operator has chosen a pod on one daemon's node."""

    saver: Daemon
    other: Daemon
    unbound: Api
    administrator: Api
    ref: ObjectRef

    def status(self) -> dict[str, Any]:
        value = self.administrator.get(
            PERSISTENT_CHECKPOINTS, self.ref.name, namespace=self.ref.namespace
        )
        return dict(value.get("status") or {})

    def write(self, who: Daemon | Api, **status: Any) -> None:
        api = who.api if isinstance(who, Daemon) else who
        api.patch(self.ref, {"status": status}, subresource="status")

    def say(self, who: Daemon | Api, *said: Condition, **fields: Any) -> None:
        """Write as the parts do: all conditions at once. The operator that is there writes, too."""
        api = who.api if isinstance(who, Daemon) else who

        def write() -> bool:
            value = api.get(PERSISTENT_CHECKPOINTS, self.ref.name, namespace=self.ref.namespace)
            try:
                checkpoints.set_status(api, value, *said, fields=fields)
            except Conflict:
                return False
            return True

        eventually(write, what=f"a write of {self.ref}")

    def refuses(self, who: Daemon | Api, what: str, **status: Any) -> None:
        before = self.status()
        with pytest.raises(Forbidden, match=what):
            self.write(who, **status)
        # Of what was tried only: the operator that is there writes, too.
        after = self.status()
        for key in status.keys() - {"conditions"}:
            assert after.get(key) == before.get(key), key
        assert _kinds(before) <= _kinds(after)


def _kinds(status: dict[str, Any]) -> set[str]:
    return {condition["type"] for condition in status.get("conditions") or ()}


@pytest.fixture
def warm(theme: str, daemons: tuple[Daemon, Daemon, Api, Api]) -> Iterator[Warm]:
    saver, other, unbound, administrator = daemons
    name = f"warm-{secrets.token_hex(4)}"
    ref = ObjectRef(resource=PERSISTENT_CHECKPOINTS, namespace=theme, name=name)
    value = {
        "apiVersion": PERSISTENT_CHECKPOINTS.api_version,
        "kind": PERSISTENT_CHECKPOINTS.kind,
        "metadata": {"name": name},
        # The operator that is there finds no such pod, and says so beside us.
        "spec": {"podName": f"none-{name}"},
    }
    administrator.create(ref, value)
    found = Warm(saver=saver, other=other, unbound=unbound, administrator=administrator, ref=ref)
    chosen = Condition(type=checkpoints.ACCEPTED, status=Status.TRUE, reason="PodChosen")
    # The real daemon of that node leaves alone what has failed: there is no such pod.
    over = Condition(type=checkpoints.FAILED, status=Status.TRUE, reason="OnlyATest")

    def is_guarded() -> bool:
        try:
            found.write(unbound, size="1Mi")
        except Forbidden:
            return True
        return False

    pod = {"name": "web-0", "uid": "saved-uid"}
    found.say(administrator, chosen, over, podRef=pod, node=saver.node)
    eventually(is_guarded, what="the admission policy to be enforced")
    yield found
    administrator.delete(ref)


def test_the_daemon_of_the_chosen_node_tells_of_its_capture(warm: Warm) -> None:
    said = [
        Condition(type=kind, status=Status.TRUE, reason="Captured")
        for kind in (checkpoints.CAPTURED, checkpoints.STORED, checkpoints.AVAILABLE)
    ]
    warm.say(
        warm.saver, *said, location={"s3": S3}, bytes=1, size="1", containers=["app"],
        capturedAt="2030-01-01T00:00:00Z", templateHash="v1:0", formatVersion=1,
    )  # fmt: skip
    assert warm.status()["location"]["s3"] == S3
    # The operator's part, which no daemon has.
    warm.write(warm.administrator, lastUsedAt="2030-01-02T00:00:00Z")
    warm.refuses(warm.saver, "lastUsedAt", lastUsedAt="2031-01-01T00:00:00Z")
    warm.refuses(warm.saver, "lastUsedAt", lastUsedAt=None)
    warm.refuses(warm.other, "chosen there", location={"s3": {"wrappedKey": "BBBB"}})


def test_no_other_daemon_writes_anything_of_it(warm: Warm) -> None:
    changes: list[dict[str, Any]] = [
        {"size": "2Mi"},
        {"location": {"s3": S3}},
        {"capturedAt": "2001-01-01T00:00:00Z"},
        {"conditions": []},
    ]
    for status in changes:
        warm.refuses(warm.other, "chosen there", **status)
    warm.refuses(warm.unbound, "names no node", size="2Mi")


def test_no_daemon_chooses_the_pod(warm: Warm) -> None:
    """Whose a key is follows from it."""
    what = "chooses the pod|is chosen once"
    for change in (
        {"podRef": {"uid": "another"}},
        {"podRef": {"name": "another"}},
        {"node": warm.other.node},
        {"podRef": None, "node": None},
    ):
        with pytest.raises(ArchitectError, match=what):
            warm.write(warm.saver, **change)
    assert warm.status()["podRef"] == {"name": "web-0", "uid": "saved-uid"}
    assert warm.status()["node"] == warm.saver.node
    said = Condition(type=checkpoints.ACCEPTED, status=Status.FALSE, reason="No")
    with pytest.raises(Forbidden, match="condition Accepted"):
        warm.say(warm.saver, said)
    warm.refuses(warm.saver, "condition Accepted", conditions=[])


def test_a_persistent_checkpoint_without_a_chosen_pod_is_no_daemons(theme: str, warm: Warm) -> None:
    ref = ObjectRef(resource=PERSISTENT_CHECKPOINTS, namespace=theme, name=f"{warm.ref.name}-2")
    value = {
        "apiVersion": PERSISTENT_CHECKPOINTS.api_version,
        "kind": PERSISTENT_CHECKPOINTS.kind,
        "metadata": {"name": ref.name},
        "spec": {"podName": f"none-{ref.name}"},
    }
    warm.administrator.create(ref, value)
    mine = {"podRef": {"name": "web-0", "uid": "u"}, "node": warm.saver.node}
    for status in ({"size": "1Mi"}, mine):
        with pytest.raises(Forbidden, match="chosen there"):
            warm.saver.api.patch(ref, {"status": status}, subresource="status")
    warm.administrator.delete(ref)
