"""Directories with checkpoints in them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from architect.checkpoint.manifest import About, Container, Manifest
from architect.daemon.checkpoint import contents
from architect.kube.checkpoints import FORMAT_VERSION, Owner, Requirements

CONTENTS = {
    "app/image/core-1.img": b"core",
    "app/image/pages-1.img": bytes(range(256)) * 9000,
    "app/image/empty.img": b"",
    "app/layer.tar": b"layer" * 1000,
}


def about(
    checkpoint_id: str = "web-1234", *, node: str = "node-a", namespace: str = "default"
) -> About:
    """Return what a manifest says of a pod ``web``."""
    return About(
        id=checkpoint_id,
        namespace=namespace,
        pod_name="web",
        pod_uid="uid-web",
        node=node,
        created=datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        template_hash="f" * 64,
        owner=Owner(api_version="apps/v1", kind="StatefulSet", name="web", uid="o", ordinal=0),
        containers={
            "app": Container(
                image_digest="sha256:" + "a" * 64,
                init_sha256="b" * 64,
                tree="app/image",
                layer="app/layer.tar",
            )
        },
        requirements=Requirements(
            architecture="amd64", cpu_features=("avx", "sse"), kernel="6.12", criu="4.2"
        ),
        format_version=FORMAT_VERSION,
    )


def successor(node: str = "node-b") -> dict[str, Any]:
    """Return the pod for which *node* claims it: of the same owner, bound there, on its way."""
    return {
        "metadata": {
            "name": "web", "namespace": "default", "uid": "uid-2",
            "ownerReferences": [{"uid": "o", "kind": "StatefulSet", "controller": True}],
        },
        "spec": {"nodeName": node},
        "status": {"phase": "Pending"},
    }  # fmt: skip


def fill(
    directory: Path,
    *,
    checkpoint_id: str = "web-1234",
    files: dict[str, bytes] | None = None,
    node: str = "node-a",
    namespace: str = "default",
) -> Manifest:
    """Make a whole checkpoint in *directory*."""
    for name, data in {**CONTENTS, **(files or {})}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)
    manifest = contents.build(directory, about(checkpoint_id, node=node, namespace=namespace))
    contents.write(directory, manifest)
    return manifest
