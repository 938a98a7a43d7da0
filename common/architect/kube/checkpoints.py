"""Checkpoint objects: built, read and changed.

A ``Checkpoint`` stands for one saved pod. While its pod lives and the image lies on the pod's node,
it belongs to the pod (an ownerReference), so that the cluster's own garbage collection removes it
with the pod. The daemon of the node writes its status; whoever restores it claims it by
compare-and-swap on its resourceVersion.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final

from architect.api import names
from architect.api.policy import Storage
from architect.core.errors import FormatError
from architect.kube import conditions
from architect.kube.api import Api, JsonObject
from architect.kube.conditions import Condition, Status
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS, PODS, ObjectRef

FORMAT_VERSION: Final = 2
"""Of the image on disk, as ``docs/formats.md`` describes it. In 1 its pieces had SHA-256."""

MAX_POD_NAME_CHARS: Final = 240
"""Leaves room for the uid's part in the 253 characters of a name."""

ACCEPTED: Final = "Accepted"
"""Of a PersistentCheckpoint: whether the operator chose a pod to save."""
CAPTURED: Final = "Captured"
"""Whether the whole image has been written."""
AVAILABLE: Final = "Available"
"""Whether it can be restored now."""
RUNS_AGAIN: Final = "RunsAgain"
"""Reason of ``Available``: the pod itself has gone on since, and nobody goes on from here."""
STORED: Final = "Stored"
"""Whether it lies in the object store, whole: then it does not need its node any more."""
CLAIMED: Final = "Claimed"
"""Whether a pod has taken it for itself."""
KEY_RELEASED: Final = "KeyReleased"
"""Whether the operator gave the claimant the key of what lies in the object store."""
RESTORED: Final = "Restored"
"""Whether a pod goes on from it."""
FAILED: Final = "Failed"
"""Whether capture or restore failed, and why."""


class Trigger(enum.Enum):
    """Why a checkpoint was taken."""

    SLEEP = "Sleep"
    EVICTION = "Eviction"
    DELETION = "Deletion"
    NODE_SHUTDOWN = "NodeShutdown"
    SPOT_INTERRUPTION = "SpotInterruption"
    REQUEST = "Request"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who will replace the pod, and as which of several."""

    api_version: str
    kind: str
    name: str
    uid: str
    ordinal: int | None = None


@dataclass(frozen=True, kw_only=True)
class Gvisor:
    """What has saved, and restores, a sandbox of gVisor."""

    version: str
    """Of runsc: it restores what the same version has saved, and no other."""
    platform: str
    """How it intercepts system calls: ``systrap``, ``kvm``."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What the restoring node must have."""

    architecture: str
    """As in the node label ``kubernetes.io/arch``."""
    cpu_features: tuple[str, ...] = ()
    kernel: str = ""
    criu: str = ""
    gvisor: Gvisor | None = None
    """Of a gVisor pod, instead of CRIU."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSpec:
    """What is saved; it never changes."""

    pod: ObjectRef
    trigger: Trigger
    template_hash: str
    containers: tuple[str, ...]
    owner: Owner | None = None
    template_parts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What the template consists of, to name a difference (``core.identity.parts``)."""
    storage: Storage | None = None
    """Where it may lie, of one that outlives its pod."""


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What capturing gave."""

    node: str
    path: str
    image_bytes: int
    at: datetime.datetime
    requirements: Requirements
    images: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Container to the digest of the image that it ran, where it is known."""
    peer_id: str = ""
    """Under what the node's daemon serves it to others; empty: it stays with its pod."""
    manifest_sha256: str = ""
    """Of the manifest, with *peer_id*: whoever serves another one is found out."""
    durations_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Step to seconds: ``drain``, ``dump``, …"""
    format_version: int = FORMAT_VERSION
    """Of what lies there, which a daemon of an earlier version may have written."""


_STORAGE: Final = {Storage.NODE: "Node", Storage.OBJECT_STORE: "ObjectStore"}
"""As ``spec.storage`` says it."""

MOVE_SUFFIX: Final = "-move"
"""A pod that leaves while it sleeps has two checkpoints: one ends with it, one does not."""

START_SUFFIX: Final = "-start"
"""Of the checkpoint by which a pod starts from a PersistentCheckpoint: ``spec.startFrom``."""


def name_of(pod: ObjectRef, *, trigger: Trigger = Trigger.SLEEP) -> str:
    """Return the name of the checkpoint of *pod*: found without a list, made at most once."""
    name = f"{pod.name[:MAX_POD_NAME_CHARS].rstrip('.-')}-{pod.uid[:8]}"
    return name if trigger is Trigger.SLEEP else f"{name}{MOVE_SUFFIX}"


def ref_of(pod: ObjectRef, *, trigger: Trigger = Trigger.SLEEP) -> ObjectRef:
    """Return the reference to the checkpoint of *pod*."""
    name = name_of(pod, trigger=trigger)
    return ObjectRef(resource=CHECKPOINTS, namespace=pod.namespace, name=name)


def build(spec: CheckpointSpec) -> JsonObject:
    """Return the object to create.

    That of a sleeping pod ends with its pod. One that shall outlive the pod ends with the pod's
    owner: without it no successor will come.
    """
    pod = spec.pod
    value: JsonObject = {
        "podRef": {"name": pod.name, "uid": pod.uid},
        "trigger": spec.trigger.value,
        "templateHash": spec.template_hash,
        "containers": list(spec.containers),
    }
    if spec.owner is not None:
        value["owner"] = _owner(spec.owner)
    if spec.template_parts:
        value["templateParts"] = dict(spec.template_parts)
    if spec.storage is not None:
        value["storage"] = _STORAGE[spec.storage]
    metadata: JsonObject = {
        "name": name_of(pod, trigger=spec.trigger),
        "namespace": pod.namespace,
    }
    if spec.trigger is Trigger.SLEEP:
        metadata["ownerReferences"] = [pod.to_owner()]
    elif spec.owner is not None:
        owner = spec.owner
        metadata["labels"] = {names.OWNER_LABEL: owner.uid}
        metadata["ownerReferences"] = [
            {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
            }
        ]
    return {
        "apiVersion": CHECKPOINTS.api_version,
        "kind": CHECKPOINTS.kind,
        "metadata": metadata,
        "spec": value,
    }


def build_start(pod: ObjectRef, source: JsonObject, *, template_hash: str) -> JsonObject:
    """Return the object by which *pod* starts from the PersistentCheckpoint *source*.

    It ends with the pod: a PersistentCheckpoint restores many, and each of these one.
    """
    status = source.get("status") or {}
    value: JsonObject = {
        "podRef": dict(status["podRef"]),
        "trigger": Trigger.REQUEST.value,
        "startFrom": {"name": source["metadata"]["name"], "uid": source["metadata"]["uid"]},
        "templateHash": template_hash,
        "containers": sorted(status["containers"]),
    }
    if parts := status.get("templateParts"):
        value["templateParts"] = dict(parts)
    return {
        "apiVersion": CHECKPOINTS.api_version,
        "kind": CHECKPOINTS.kind,
        "metadata": {
            "name": f"{name_of(pod)}{START_SUFFIX}",
            "namespace": pod.namespace,
            "ownerReferences": [pod.to_owner()],
        },
        "spec": value,
    }


def of_owner(api: Api, uid: str, *, namespace: str) -> list[JsonObject]:
    """Return what was saved for successors of the owner's pods; others' sleep beside it."""
    labels = f"{names.OWNER_LABEL}={uid}"
    return list(api.list(CHECKPOINTS, namespace=namespace, labels=labels).items)


def captured_status(capture: Capture) -> dict[str, Any]:
    """Return the status fields of a finished capture on a node, without conditions."""
    needs = capture.requirements
    requirements: dict[str, Any] = {"architecture": needs.architecture}
    if needs.cpu_features:
        requirements["cpuFeatures"] = list(needs.cpu_features)
    if needs.kernel:
        requirements["kernel"] = needs.kernel
    if needs.criu:
        requirements["criu"] = needs.criu
    if needs.gvisor is not None:
        requirements["gvisor"] = asdict(needs.gvisor)
    if capture.images:
        requirements["images"] = dict(capture.images)
    return {
        "formatVersion": capture.format_version,
        "capturedAt": conditions.timestamp(capture.at),
        "bytes": capture.image_bytes,
        "size": size_text(capture.image_bytes),
        "node": capture.node,
        "durations": {key: f"{value:.3f}s" for key, value in capture.durations_seconds.items()},
        "location": (
            {
                "peer": {
                    "node": capture.node,
                    "id": capture.peer_id,
                    "manifestSha256": capture.manifest_sha256,
                }
            }
            if capture.peer_id
            else {"node": {"name": capture.node, "path": capture.path}}
        ),
        "requirements": requirements,
    }


def size_text(size_bytes: int) -> str:
    """Return a size for people, as Kubernetes writes quantities: ``64.0Mi``."""
    value = float(size_bytes)
    for unit in ("", "Ki", "Mi"):
        if value < 1024:
            return f"{value:.1f}{unit}" if unit else f"{size_bytes}"
        value /= 1024
    return f"{value:.1f}Gi"


def status_patch(
    value: JsonObject,
    *new: Condition,
    fields: Mapping[str, Any] | None = None,
    now: datetime.datetime,
) -> dict[str, Any] | None:
    """Return the merge patch for ``status`` of *value* as read, or None if nothing changes.

    Custom resources know no strategic merge: the list of conditions is written as a whole, so send
    it with the object's resourceVersion.
    """
    status = value.get("status") or {}
    generation = int(value["metadata"].get("generation", 0))
    existing = list(status.get("conditions") or ())
    changed = {k: v for k, v in (fields or {}).items() if status.get(k) != v}
    is_changed = False
    for condition in new:
        merged = conditions.merge(existing, condition, now=now, generation=generation)
        if merged is not None:
            existing = conditions.replace(existing, merged)
            is_changed = True
    if is_changed:
        changed["conditions"] = existing
    if not changed:
        return None
    return {"status": {**changed, "observedGeneration": generation}}


def set_status(
    api: Api,
    value: JsonObject,
    *new: Condition,
    fields: Mapping[str, Any] | None = None,
    now: datetime.datetime | None = None,
) -> JsonObject:
    """Write conditions and *fields* into the status of *value* as read; return it as stored.

    Raises Conflict if it was changed since, NotFound if it is gone or replaced.
    """
    at = now or datetime.datetime.now(tz=datetime.UTC)
    patch = status_patch(value, *new, fields=fields, now=at)
    if patch is None:
        return value
    resource = _KINDS[value["kind"]]
    return api.patch(
        ObjectRef.of(resource, value),
        patch,
        subresource="status",
        resource_version=value["metadata"]["resourceVersion"],
    )


def claim(api: Api, value: JsonObject, *, pod: ObjectRef, node: str) -> JsonObject:
    """Take the checkpoint *value* as read for *pod*, which *node* makes; return it as stored.

    Raises Conflict if it was changed since: then it may be somebody else's.
    """
    at = datetime.datetime.now(tz=datetime.UTC)
    return set_status(
        api,
        value,
        Condition(
            type=CLAIMED,
            status=Status.TRUE,
            reason="Claimed",
            message=f"pod {pod.name} on node {node} goes on from it",
        ),
        fields={
            "claimedBy": {
                "name": pod.name,
                "uid": pod.uid,
                "node": node,
                "at": conditions.timestamp(at),
            }
        },
        now=at,
    )


def pod_of(value: JsonObject) -> ObjectRef:
    """Return the pod that a checkpoint is of. Raises FormatError for an object that names none."""
    pod = (value.get("spec") or {}).get("podRef") or {}
    metadata = value["metadata"]
    if not pod.get("name") or not pod.get("uid"):
        raise FormatError(f"checkpoint {metadata.get('name')} names no pod")
    return ObjectRef(
        resource=PODS, namespace=metadata["namespace"], name=pod["name"], uid=pod["uid"]
    )


_KINDS: Final = {r.kind: r for r in (CHECKPOINTS, PERSISTENT_CHECKPOINTS)}


def claimant_of(value: Mapping[str, Any]) -> str:
    """Return the uid of the pod that has claimed a checkpoint; empty: none."""
    claim = (value.get("status") or {}).get("claimedBy") or {}
    return str(claim.get("uid") or "")


def peer_of(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return with which node's daemon an object's data lies; empty if with none."""
    return _location(value, "peer")


def stored_in(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return where in the object store an object's data lies; empty if it does not."""
    return _location(value, "s3")


def storage_of(value: Mapping[str, Any]) -> Storage | None:
    """Return where what a checkpoint stands for may lie; None: it does not say.

    So is one of an earlier version of ours, and one whose definition in the cluster is older than
    its daemon: whether its pod wanted to stay with nodes is not known.
    """
    said = (value.get("spec") or {}).get("storage")
    return next((storage for storage, text in _STORAGE.items() if text == said), None)


def _location(value: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return ((value.get("status") or {}).get("location") or {}).get(kind) or {}


def _owner(owner: Owner) -> dict[str, Any]:
    value: dict[str, Any] = {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
    }
    if owner.ordinal is not None:
        value["ordinal"] = owner.ordinal
    return value
