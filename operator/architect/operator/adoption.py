"""What a silent node has left in the object store of which nobody was told. Pure.

A node that ends saves its pods also while the API server is away. Then what it saved lies in the
object store and no Checkpoint says so, or one that is still about to be written. Here it is decided
whose it is.

The store is not trusted, and no node is for more than its own pods. So nothing is looked for that
no pod is there for: it is the *pod*, which the API still has and which is bound to the silent node,
whose place in the store is looked at. What lies there must be signed by that node
(:mod:`architect.checkpoint.envelope`), and be of exactly that pod, its owner and ordinal. Whatever
else somebody puts into the bucket is never read: an envelope of another node, of another pod, or of
one that is gone for long, makes no Checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from architect.api import names
from architect.checkpoint import telling
from architect.checkpoint.envelope import Envelope
from architect.core import identity
from architect.core.errors import FormatError
from architect.kube import checkpoints, conditions
from architect.kube.checkpoints import Trigger
from architect.kube.conditions import Condition, Status
from architect.kube.resources import PODS, ObjectRef
from architect.operator import stored
from architect.operator.stored import Place

JsonObject = dict[str, Any]

IN_STORE: Final = "InStore"
"""Reason of ``Available``."""

_NOT_MOVES: Final = frozenset({Trigger.SLEEP.value, Trigger.REQUEST.value})


@dataclass(frozen=True, kw_only=True)
class Stranded:
    """A pod on a silent node, of which it is not known where its memory is."""

    pod: JsonObject
    checkpoint: JsonObject | None
    """That of its move, if there is one already."""

    @property
    def ref(self) -> ObjectRef:
        """The pod."""
        return ObjectRef.of(PODS, self.pod)

    @property
    def place(self) -> Place:
        """Where in the store it would lie."""
        metadata = self.pod["metadata"]
        return Place(metadata["namespace"], metadata["uid"])


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies there, verified: its node has signed it."""

    envelope: Envelope
    bucket: str
    key: str
    sha256: str
    """Of the whole envelope."""
    stored_bytes: int


@dataclass(frozen=True, kw_only=True)
class Adopt:
    """Have a Checkpoint say it."""

    ref: ObjectRef
    created: JsonObject
    """What is created if there is none."""
    conditions: tuple[Condition, ...]
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """Leave it alone."""

    reason: str
    """A CamelCase word for events and metrics."""
    message: str


def stranded(
    pods: Iterable[JsonObject], known: Iterable[JsonObject], *, silent: Collection[str]
) -> list[Stranded]:
    """Return those of *pods* on *silent* nodes whose memory may lie in the store, unheard of.

    *known* are all Checkpoints.
    """
    moves = {}
    for value in known:
        spec = value.get("spec") or {}
        if spec.get("trigger") not in _NOT_MOVES and (place := stored.place_of(value)) is not None:
            moves[place] = value
    found = []
    for pod in pods:
        if not _may_be_saved(pod) or (pod.get("spec") or {}).get("nodeName") not in silent:
            continue
        one = Stranded(pod=pod, checkpoint=None)
        one = replace(one, checkpoint=moves.get(one.place))
        if one.checkpoint is None or _is_open(one.checkpoint):
            found.append(one)
    return found


def judge(one: Stranded, found: Found) -> Adopt | Refuse:
    """Decide about what lies in the place of one pod."""
    manifest = found.envelope.manifest
    refusal = _what_differs(one, found)
    if refusal is not None:
        return refusal
    spec = telling.spec_of(manifest, trigger=Trigger.SPOT_INTERRUPTION)
    if identity.template_hash(one.pod) == spec.template_hash:
        spec = replace(spec, template_parts=identity.parts(one.pod))
    location = {
        "s3": telling.stored_at(
            bucket=found.bucket,
            key=found.key,
            sha256=found.sha256,
            key_id=found.envelope.key_id,
            wrapped_key=found.envelope.wrapped_key,
        )
    }
    said = [telling.stored(found.bucket, found.stored_bytes, how=", found there by the operator")]
    fields: dict[str, Any] = {}
    if one.checkpoint is None or not conditions.is_true(one.checkpoint, checkpoints.CAPTURED):
        fields |= checkpoints.captured_status(telling.capture_of(manifest, seconds=None))
        del fields["durations"]
        said += _captured(manifest.about.node, found.bucket)
    return Adopt(
        ref=telling.of_manifest(manifest),
        created=checkpoints.build(spec),
        conditions=tuple(said),
        # Merged into what its node said: a place with its daemon stays.
        fields={**fields, "location": location},
    )


def _may_be_saved(pod: JsonObject) -> bool:
    """Whether a node's daemon may have saved it. One that is to be deleted is waited for, too."""
    annotations = pod["metadata"].get("annotations") or {}
    phase = (pod.get("status") or {}).get("phase")
    return names.POLICY in annotations and phase != "Succeeded"


def _is_open(checkpoint: JsonObject) -> bool:
    """Whether something is still to be said in a Checkpoint."""
    return not (
        checkpoint["metadata"].get("deletionTimestamp")
        or conditions.is_true(checkpoint, checkpoints.STORED)
        or conditions.is_false(checkpoint, checkpoints.CAPTURED)
        or stored.is_over(checkpoint)
    )


def _what_differs(one: Stranded, found: Found) -> Refuse | None:
    """Return what keeps it from being this pod's memory; None: nothing."""
    about, metadata = found.envelope.manifest.about, one.pod["metadata"]
    expected = (metadata["namespace"], metadata["name"], metadata["uid"])
    if (about.namespace, about.pod_name, about.pod_uid) != expected or about.id != metadata["uid"]:
        return Refuse(
            reason="WrongPod",
            message=f"it is {about.id:.128} of pod {about.namespace}/{about.pod_name:.253} "
            f"({about.pod_uid:.64})",
        )
    if about.node != one.pod["spec"]["nodeName"]:
        return Refuse(reason="WrongNode", message=f"node {about.node:.253} has saved it")
    try:
        who = identity.identity_of(one.pod)
    except FormatError as error:
        return Refuse(reason="BadPod", message=str(error))
    if (
        who is None
        or about.owner is None
        or (who.owner.uid, who.ordinal) != (about.owner.uid, about.owner.ordinal)
    ):
        return Refuse(reason="WrongOwner", message="it is for the pods of another owner")
    for name in about.containers:
        if (started := _started(one.pod, name)) is not None and started > about.created:
            return Refuse(
                reason=checkpoints.RUNS_AGAIN,
                message=f"container {name} was started again after that, without it",
            )
    peer = checkpoints.peer_of(one.checkpoint or {})
    if peer.get("manifestSha256") not in (None, found.envelope.manifest.sha256):
        return Refuse(reason="WrongManifest", message="its node has told of another one")
    return None


def _started(pod: JsonObject, container: str) -> datetime | None:
    """Return when a container began to run, by its node's clock; None: that is not known."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status.get("name") != container:
            continue
        state = status.get("state") or {}
        text = (state.get("running") or state.get("terminated") or {}).get("startedAt")
        try:
            return datetime.fromisoformat(text) if text else None
        except (TypeError, ValueError):
            return None
    return None


def _captured(node: str, bucket: str) -> list[Condition]:
    return [
        Condition(
            type=checkpoints.CAPTURED,
            status=Status.TRUE,
            reason="Captured",
            message=f"the pod was saved on node {node}, which could tell nobody",
        ),
        Condition(
            type=checkpoints.AVAILABLE,
            status=Status.TRUE,
            reason=IN_STORE,
            message=f"it lies in bucket {bucket}",
        ),
    ]
