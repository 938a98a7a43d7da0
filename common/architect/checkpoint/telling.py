"""What a Checkpoint says of a pod that is saved, by what lies there, whoever writes it.

The daemon that saved the pod does, or the operator, which finds it in the object store.
"""

from __future__ import annotations

from typing import Any

from architect.api.policy import Storage
from architect.checkpoint import keys
from architect.checkpoint.manifest import Manifest
from architect.kube import checkpoints, resources
from architect.kube.checkpoints import Capture, CheckpointSpec, Trigger
from architect.kube.conditions import Condition, Status
from architect.kube.resources import ObjectRef


def pod_of(manifest: Manifest) -> ObjectRef:
    """Return the pod that was saved."""
    about = manifest.about
    return resources.pod(about.namespace, about.pod_name, uid=about.pod_uid)


def of_manifest(manifest: Manifest) -> ObjectRef:
    """Return the Checkpoint of a saved pod, whatever it left for."""
    return checkpoints.ref_of(pod_of(manifest), trigger=Trigger.DELETION)


def spec_of(manifest: Manifest, *, trigger: Trigger) -> CheckpointSpec:
    """Return the spec of the Checkpoint of a saved pod of which nobody was told.

    It is on its way into the object store: nobody else is saved without being announced. What the
    template consists of is not known any more.
    """
    about = manifest.about
    return CheckpointSpec(
        pod=pod_of(manifest),
        trigger=trigger,
        template_hash=about.template_hash,
        containers=tuple(sorted(about.containers)),
        owner=about.owner,
        storage=Storage.OBJECT_STORE,
    )


def capture_of(manifest: Manifest, *, seconds: float | None) -> Capture:
    """Return the status fields of a saved pod, as its manifest tells them."""
    about = manifest.about
    return Capture(
        node=about.node,
        path="",
        peer_id=about.id,
        manifest_sha256=manifest.sha256,
        image_bytes=manifest.total_bytes,
        at=about.created,
        requirements=about.requirements,
        images=images_in(manifest),
        durations_seconds={} if seconds is None else {"capture": seconds},
        format_version=about.format_version,
    )


def images_in(manifest: Manifest) -> dict[str, str]:
    """Return what each container ran, where it is known: the image's digest."""
    containers = manifest.about.containers
    return {name: c.image_digest for name, c in containers.items() if c.image_digest}


def stored_at(
    *, bucket: str, key: str, sha256: str, key_id: str, wrapped_key: bytes
) -> dict[str, Any]:
    """Return where in the object store a pod lies: ``location.s3``. *sha256* is the envelope's."""
    return {
        "bucket": bucket,
        "key": key,
        "manifestSha256": sha256,
        "keyID": key_id,
        "wrappedKey": keys.sealed_to_text(wrapped_key),
    }


def stored(bucket: str, stored_bytes: int, *, how: str = "") -> Condition:
    """Return what is said once a pod does not need its node any more."""
    return Condition(
        type=checkpoints.STORED,
        status=Status.TRUE,
        reason="Stored",
        message=f"{checkpoints.size_text(stored_bytes)} lie in bucket {bucket}{how}",
    )
