"""The images of the examples, built from their Dockerfiles."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lab import dockerfiles, images
from lab.cache import Cache
from lab.images import Image

SOURCES: Final = dockerfiles.CHECKOUT / "examples" / "images"
COPIES: Final = {"counter": ("counter.py",), "postgresql": ("entrypoint.sh",), "valkey": ()}
"""Image to the files that its Dockerfile copies."""
TAG: Final = "1"


def name_of(image: str) -> str:
    """Return the name under which manifests ask for it."""
    return f"localhost/architect-examples/{image}:{TAG}"


def build(cache: Cache, image: str) -> Image:
    """Return one image, built if it has changed."""
    context: Path = SOURCES / image
    return dockerfiles.build(
        cache,
        name_of(image),
        dockerfile="Dockerfile",
        copies=COPIES[image],
        arguments={"BASE": images.base(cache, "trixie")},
        context=context,
    )
