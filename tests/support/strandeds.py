"""A pod on a node that has saved it and told nobody, and what the node left in the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from architect.api import names
from architect.checkpoint import envelope, keys, manifest
from architect.checkpoint.envelope import Codec, Envelope, Shard
from architect.checkpoint.manifest import About, Container, Manifest, Piece
from architect.kube.checkpoints import FORMAT_VERSION, Owner, Requirements
from architect.kube.resources import CHECKPOINTS, NODES, PODS
from architect.pki import certificates
from support.issuer import Issuer

Object = dict[str, Any]

NODE: Final = "spot-1"
NAMESPACE: Final = "shop"
UID: Final = "0b5c6a3e-web-0"
OWNER: Final = Owner(
    api_version="apps/v1", kind="StatefulSet", name="web", uid="owner-uid", ordinal=0
)
NODE_PATH: Final = NODES.path(name=NODE)
POD_PATH: Final = PODS.path(namespace=NAMESPACE, name="web-0")
CHECKPOINT_PATH: Final = CHECKPOINTS.path(namespace=NAMESPACE, name=f"web-0-{UID[:8]}-move")

SIZE: Final = 1000


def saved_at() -> datetime:
    """Return when it was: a moment ago."""
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=30)


def about(**changes: Any) -> About:
    """Return what the node says of the pod."""
    found = About(
        id=UID,
        namespace=NAMESPACE,
        pod_name="web-0",
        pod_uid=UID,
        node=NODE,
        created=saved_at(),
        template_hash="v1:" + "f" * 64,
        owner=OWNER,
        containers={
            "app": Container(
                image_digest="sha256:" + "a" * 64,
                init_sha256="b" * 64,
                tree="app/image",
                layer=None,
            )
        },
        requirements=Requirements(
            architecture="amd64", cpu_features=("avx", "sse"), kernel="6.12", criu="4.2"
        ),
        format_version=FORMAT_VERSION,
    )
    return dataclasses.replace(found, **changes)


def manifest_of(**changes: Any) -> Manifest:
    piece = Piece(name="app/image/pages-1.img", size=SIZE, mode=0o600, hashes=("c" * 64,))
    return manifest.make(about(**changes), [piece])


def sealed(issuer: Issuer, *, signer: str = "", **changes: Any) -> bytes:
    """Return the envelope as the node's daemon, or *signer*'s, sealed it."""
    made = manifest_of(**changes)
    mine = issuer.credentials(signer or made.about.node)
    data_key, public = keys.new_data_key(), keys.make_key().public_key()
    value = Envelope(
        manifest=made,
        attempt=envelope.new_attempt(),
        shards=(Shard(size=SIZE + envelope.OVERHEAD_BYTES, hash="d" * 64, codec=Codec.NONE),),
        sealed=datetime.now(UTC).replace(microsecond=0),
        key_id=keys.key_id(public),
        wrapped_key=keys.wrap(data_key, public, envelope.binding_of(made)),
    )
    (leaf,) = certificates.read_certificates(mine.certificate)
    return envelope.seal(value, key=certificates.read_key(mine.key), certificate=leaf)


def its_pod(change: Callable[[Object], object] = lambda _: None) -> Object:
    """Return the pod as the API still has it."""
    started = (saved_at() - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    value: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-0",
            "namespace": NAMESPACE,
            "uid": UID,
            "annotations": {names.POLICY: "{}"},
            "ownerReferences": [
                {
                    "apiVersion": OWNER.api_version,
                    "kind": OWNER.kind,
                    "name": OWNER.name,
                    "uid": OWNER.uid,
                    "controller": True,
                }
            ],
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "web:1"}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "app", "state": {"running": {"startedAt": started}}}],
        },
    }
    change(value)
    return value


def node(*, ready: str = "Unknown", said: str | None = None, boot: str = "boot-1") -> Object:
    """Return the node, silent unless told otherwise."""
    annotations = {} if said is None else {names.INTERRUPTION: said}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "uid": "node-uid", "annotations": annotations},
        "spec": {},
        "status": {
            "nodeInfo": {"bootID": boot},
            "conditions": [{"type": "Ready", "status": ready, "reason": "R", "message": ""}],
        },
    }
