"""Directories with checkpoints in them."""

from __future__ import annotations

import datetime
from pathlib import Path

from architect.checkpoint.manifest import About, Container, Manifest
from architect.daemon.checkpoint import contents
from architect.kube.checkpoints import FORMAT_VERSION, Owner, Requirements

CONTENTS = {
    "app/image/core-1.img": b"core",
    "app/image/pages-1.img": bytes(range(256)) * 9000,
    "app/image/empty.img": b"",
    "app/layer.tar": b"layer" * 1000,
}


def about(checkpoint_id: str = "web-1234", *, node: str = "node-a") -> About:
    """Return what a manifest says of a pod ``default/web``."""
    return About(
        id=checkpoint_id,
        namespace="default",
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


def fill(
    directory: Path,
    *,
    checkpoint_id: str = "web-1234",
    files: dict[str, bytes] | None = None,
    node: str = "node-a",
) -> Manifest:
    """Make a whole checkpoint in *directory*."""
    for name, data in {**CONTENTS, **(files or {})}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)
    manifest = contents.build(directory, about(checkpoint_id, node=node))
    contents.write(directory, manifest)
    return manifest
