"""What the Checkpoint of a pod that moves says: each outcome as the conditions that tell it.

So does the PersistentCheckpoint of one that is copied.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Final

from architect.api import names
from architect.api.policy import Storage
from architect.checkpoint import telling
from architect.checkpoint.manifest import Manifest
from architect.core import durations
from architect.core.errors import Rejected
from architect.core.identity import Identity
from architect.daemon.vault.upload import Uploaded
from architect.kube import checkpoints
from architect.kube.api import Api, JsonObject
from architect.kube.checkpoints import Owner
from architect.kube.conditions import Condition, Status
from architect.kube.errors import Conflict
from architect.kube.resources import ObjectRef

CLAIM_LOST: Final = "ClaimLost"
"""Reason of a refusal: what a pod had claimed is not its any more."""

CONFLICTS: Final = 10
CONFLICT_SECONDS: Final = 0.1

Said = tuple[Condition, ...]

# The operator says it, too, of what it finds in the object store.
of_manifest, spec_of = telling.of_manifest, telling.spec_of
capture_of, images_in = telling.capture_of, telling.images_in


def owner_of(who: Identity) -> Owner:
    """Return the owner of a pod as Checkpoints and manifests name it."""
    owner = who.owner
    return Owner(
        api_version=owner.api_version,
        kind=owner.kind,
        name=owner.name,
        uid=owner.uid,
        ordinal=who.ordinal,
    )


def change(
    api: Api,
    ref: ObjectRef,
    said: Said,
    *,
    fields: Mapping[str, Any] | None = None,
    claimant: str | None = None,
) -> JsonObject | None:
    """Write *said* and *fields* into a Checkpoint, whoever writes besides; None if it is gone.

    *claimant*: in the name of the pod with this uid, which has claimed it. Raises Rejected
    (:data:`CLAIM_LOST`) if it is not that pod's any more, as after its node was taken for gone;
    ArchitectError.
    """
    for _ in range(CONFLICTS):
        found = api.find(ref)
        if found is None:
            return None
        if claimant is not None and checkpoints.claimant_of(found) != claimant:
            raise Rejected(
                f"{ref}: the claim of this pod was taken back, and it may be another one's",
                reason=CLAIM_LOST,
            )
        try:
            return checkpoints.set_status(api, found, *said, fields=fields)
        except Conflict:
            time.sleep(CONFLICT_SECONDS)
    raise Conflict(f"{ref} is being changed by others all the time")


def location(node: str, uid: str) -> dict[str, Any]:
    """Return the fields of a status that say on which node a pod is saved."""
    return {"location": {"peer": {"node": node, "id": uid}}}


def capturing(node: str) -> Said:
    """Return what is said while the pod is being saved."""
    text = f"the pod is being saved on node {node}"
    return _captured(Status.UNKNOWN, "Capturing", text)


def captured(node: str, storage: Storage | None, *, has_store: bool) -> Said:
    """Return what is said once the pod can be restored."""
    return (
        *unstored(storage, has_store=has_store),
        *_captured(Status.TRUE, "Captured", f"the pod was saved on node {node}"),
        Condition(
            type=checkpoints.AVAILABLE,
            status=Status.TRUE,
            reason="OnPeer",
            message=f"node {node} serves it",
        ),
    )


def stored_at(bucket: str, found: Uploaded) -> dict[str, Any]:
    """Return the fields of a status that say where in the object store a pod lies.

    Sent as a merge patch: a location with its node's daemon stays.
    """
    return {
        "location": {
            "s3": telling.stored_at(
                bucket=bucket,
                key=found.key,
                sha256=found.sha256,
                key_id=found.key_id,
                wrapped_key=found.wrapped_key,
            )
        }
    }


def source_of(persistent: JsonObject) -> dict[str, Any]:
    """Return where what a PersistentCheckpoint stands for lies, for who starts from it.

    Not its key, which the operator finds in the PersistentCheckpoint alone.
    """
    s3 = persistent["status"]["location"]["s3"]
    return {"s3": {key: s3[key] for key in ("bucket", "key", "manifestSha256")}}


def stored(bucket: str, found: Uploaded) -> Said:
    """Return what is said once a pod does not need its node any more."""
    how = f", after {durations.render(found.seconds)}"
    return (telling.stored(bucket, found.stored_bytes, how=how),)


def in_store_only(why: str) -> Said:
    """Return what is said of a saved pod that lies in the object store, and not here any more."""
    return (
        Condition(
            type=checkpoints.AVAILABLE,
            status=Status.TRUE,
            reason="InStore",
            message=f"the object store has it: {why}",
        ),
    )


def not_stored(reason: str, message: str) -> Said:
    """Return what is said of a saved pod that cannot be put into the object store now."""
    return (
        Condition(type=checkpoints.STORED, status=Status.FALSE, reason=reason, message=message),
    )


def unstored(storage: Storage | None, *, has_store: bool) -> Said:
    """Return what is said of a pod that will not lie in an object store, where one may ask why."""
    if storage is Storage.OBJECT_STORE and not has_store:
        text = (
            f"its {names.STORAGE} is {storage.value}, or was for pods that do not say it, and this "
            "cluster has no object store (objectStore.bucket of the chart)"
        )
        return not_stored("NoObjectStore", text)
    if storage is Storage.NODE and has_store:
        text = (
            f"it lies with nodes alone: {names.STORAGE} is {storage.value}, or "
            "objectStore.default of the chart where the pod does not say it"
        )
        return not_stored("StaysOnNode", text)
    return ()


def copied_fields(manifest: Manifest, *, durations_seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the status fields of a copied pod, which lies nowhere where others may have it yet.

    What is not known any more (*durations_seconds*, after a restart) is left as it is.
    """
    capture = capture_of(manifest, seconds=None)
    fields = checkpoints.captured_status(
        dataclasses.replace(capture, durations_seconds=durations_seconds)
    )
    del fields["location"]
    if not durations_seconds:
        del fields["durations"]
    return fields


def copying(node: str) -> Said:
    """Return what is said while the pod is being copied."""
    text = f"the pod is being copied on node {node}"
    return (*_captured(Status.UNKNOWN, "Capturing", text), _available("Capturing", text))


def copied(node: str) -> Said:
    """Return what is said once the pod is copied, and the copy is on its way."""
    return (
        *_captured(Status.TRUE, "Captured", f"the pod was copied on node {node}, and goes on"),
        _available("Storing", f"node {node} sends it to the object store"),
    )


def not_copied(reason: str, message: str) -> Said:
    """Return what is said of a pod that could not be copied."""
    return (*not_captured(reason, message), *over(reason, message))


def not_startable(reason: str, message: str) -> Said:
    """Return what is said of a copy that cannot be put into the object store now."""
    return (*not_stored(reason, message), _available(reason, message))


def _available(reason: str, message: str) -> Condition:
    """Return that nobody can have it yet."""
    return Condition(
        type=checkpoints.AVAILABLE, status=Status.UNKNOWN, reason=reason, message=message
    )


def _captured(status: Status, reason: str, message: str) -> Said:
    return (Condition(type=checkpoints.CAPTURED, status=status, reason=reason, message=message),)


def startable(bucket: str, found: Uploaded) -> Said:
    """Return what is said once pods can start from a copy."""
    return (
        *stored(bucket, found),
        Condition(
            type=checkpoints.AVAILABLE,
            status=Status.TRUE,
            reason="InStore",
            message=f"pods can start from what lies in bucket {bucket}",
        ),
    )


def lost(message: str) -> Said:
    """Return what is said of a copy that was lost before it lay in the object store."""
    return (
        Condition(type=checkpoints.FAILED, status=Status.TRUE, reason="Lost", message=message),
        *over("Lost", message),
    )


def not_captured(reason: str, message: str) -> Said:
    """Return what is said of a pod that could not be saved."""
    return (
        Condition(
            type=checkpoints.CAPTURED,
            status=Status.FALSE,
            reason=reason or "CaptureFailed",
            message=message,
        ),
        Condition(
            type=checkpoints.FAILED,
            status=Status.TRUE,
            reason="CaptureFailed",
            message=message,
        ),
    )


def restoring(node: str) -> Said:
    """Return what is said before the first instruction of a pod that goes on."""
    return (
        Condition(
            type=checkpoints.RESTORED,
            status=Status.UNKNOWN,
            reason="Restoring",
            message=f"all of it is on node {node}, and the pod is about to go on",
        ),
    )


def restored(node: str, *, after_seconds: float | None, is_asleep: bool = False) -> Said:
    """Return what is said once a pod goes on; *is_asleep*: it sleeps on, as its predecessor did.

    It wakes without asking anybody, so nobody else can have it from here on.
    """
    when = "" if after_seconds is None else f", {durations.render(after_seconds)} after its start"
    how = ", asleep" if is_asleep else ""
    return (
        Condition(
            type=checkpoints.RESTORED,
            status=Status.TRUE,
            reason="Restored",
            message=f"on node {node}{how}{when}",
        ),
        Condition(
            type=checkpoints.AVAILABLE,
            status=Status.FALSE,
            reason="Restored",
            message="it restores one pod only",
        ),
    )


def waiting(pod: str, node: str, *, reason: str, message: str) -> Said:
    """Return what is said of what *pod* has claimed, which it does not start without."""
    text = f"pod {pod} on node {node} waits, and has not begun: {message}"
    return (Condition(type=checkpoints.RESTORED, status=Status.FALSE, reason=reason, message=text),)


def failing(message: str) -> Said:
    """Return what is said of what has come to its pod, and fails there; the pod's policy waits.

    Unknown, as before: if its node is lost, nobody knows whether it has gone on since.
    """
    return (
        Condition(
            type=checkpoints.RESTORED,
            status=Status.UNKNOWN,
            reason="RestoreFailed",
            message=f"all of it is kept: {message}",
        ),
    )


def not_restored(message: str) -> Said:
    """Return what is said of a checkpoint with which its pod could not go on."""
    return (
        Condition(
            type=checkpoints.FAILED,
            status=Status.TRUE,
            reason="RestoreFailed",
            message=message,
        ),
        Condition(
            type=checkpoints.RESTORED,
            status=Status.FALSE,
            reason="RestoreFailed",
            message=message,
        ),
    )


def given_back(pod: str) -> tuple[Said, dict[str, Any]]:
    """Return what is said, with the fields, once a pod left before it had begun."""
    message = f"pod {pod} left before it had begun"
    said = tuple(
        Condition(type=kind, status=Status.FALSE, reason="GivenBack", message=message)
        for kind in (checkpoints.CLAIMED, checkpoints.RESTORED)
    )
    return said, {"claimedBy": None}


def unfit(pod: str, node: str, *, reason: str, message: str) -> Said:
    """Return what is said of a saved pod with which *pod*, on *node*, could not go on."""
    text = f"pod {pod} on node {node} does not go on from it: {message}"
    return (Condition(type=checkpoints.CLAIMED, status=Status.FALSE, reason=reason, message=text),)


def over(reason: str, message: str) -> Said:
    """Return what is said of a saved pod that nobody can have any more."""
    return (
        Condition(type=checkpoints.AVAILABLE, status=Status.FALSE, reason=reason, message=message),
    )
