"""Builds of real Dockerfiles without a registry or an engine: buildah in a chroot.

Base images are archives made here, handed to the Dockerfile by build arguments; anybody with a
registry builds the same Dockerfiles with their defaults. A build is repeated only when its
Dockerfile, the files it copies or its bases change.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from lab import commands, images
from lab.cache import Cache
from lab.images import ARCHIVE, Image

CHECKOUT: Final = Path(__file__).resolve().parents[2]
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD_SECONDS: Final = 1800.0
PACKAGING: Final = (
    "pyproject.toml",
    "README.md",
    "common",
    "operator",
    "webhook",
    "daemon",
    "shim",
)
"""What the images that install our wheel copy."""


def version() -> str:
    """Return the project's version, which tags its images."""
    text = (CHECKOUT / "pyproject.toml").read_text()
    return str(tomllib.loads(text)["project"]["version"])


def native(cache: Cache) -> Image:
    """Return the image with the static programs."""
    return build(
        cache,
        f"localhost/architect/native:{version()}",
        dockerfile="shim/native/Dockerfile",
        copies=["shim/native"],
        arguments={"BASE": images.base(cache, "forky")},
    )


def architect(cache: Cache) -> list[Image]:
    """Return the project's images: operator, webhook and daemon."""
    base = images.base(cache, "trixie")
    return [
        build(
            cache,
            f"localhost/architect/{part}:{version()}",
            dockerfile=f"{part}/Dockerfile",
            copies=PACKAGING,
            arguments={"BASE": base, **({"NATIVE": native(cache)} if part == "daemon" else {})},
        )
        for part in ("operator", "webhook", "daemon")
    ]


def build(
    cache: Cache,
    name: str,
    *,
    dockerfile: str,
    copies: Sequence[str],
    arguments: Mapping[str, Image],
    context: Path = CHECKOUT,
) -> Image:
    """Build *dockerfile*; *copies* are the paths below *context* that it uses."""
    recipe = [
        (context / dockerfile).read_text(),
        _digest(context, copies),
        {key: [image.name, image.archive.parent.name] for key, image in arguments.items()},
    ]

    def make(directory: Path) -> None:
        # Each build has a store of its own: vfs copies whole layers, and nothing is shared anyway.
        store = directory / "store"
        buildah = [
            "buildah",
            "--storage-driver=vfs",
            f"--root={store}",
            f"--runroot={directory / 'run'}",
        ]
        pip = directory / "pip.conf"
        pip.write_text(f"[global]\ncert = {CERTIFICATES}\n")
        commands.run(
            [
                *buildah,
                "build",
                # What the host trusts: a network may have a certificate authority of its own.
                f"--volume={CERTIFICATES}:{CERTIFICATES}:ro",
                f"--volume={pip}:/etc/pip.conf:ro",
                "--isolation=chroot",
                "--layers=false",
                *(
                    f"--build-arg={key}=oci-archive:{image.archive}"
                    for key, image in arguments.items()
                ),
                f"--file={context / dockerfile}",
                f"--tag={name}",
                str(context),
            ],
            timeout_seconds=BUILD_SECONDS,
            log=directory / "build.log",
        )
        commands.run(
            [*buildah, "push", name, f"oci-archive:{directory / ARCHIVE}:{name}"],
            timeout_seconds=BUILD_SECONDS,
        )
        shutil.rmtree(store)
        shutil.rmtree(directory / "run", ignore_errors=True)

    return Image(name, images.artefact(cache, name, recipe, make))


def _digest(context: Path, copies: Sequence[str]) -> str:
    """Return a hash of the names, modes and contents of what a Dockerfile copies."""
    found = hashlib.sha256()
    for each in copies:
        start = context / each
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            relative = path.relative_to(context)
            if not path.is_file() or "__pycache__" in relative.parts or "build" in relative.parts:
                continue
            found.update(f"{relative} {path.stat().st_mode & 0o111}\0".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def native_programs(cache: Cache) -> Path:
    """Return a directory with the programs of :func:`native`, for tests without containers."""
    image = native(cache)

    def extract(directory: Path) -> None:
        with tarfile.open(image.archive) as archive:
            for member in archive.getmembers():
                blob = archive.extractfile(member) if member.isfile() else None
                if blob is not None and member.size > 1 << 16:
                    with tarfile.open(fileobj=blob) as layer:
                        layer.extractall(directory, filter="fully_trusted")

    return (
        cache.artefact(
            "native-programs", version=version(), recipe=image.archive.parent.name, build=extract
        )
        / "out"
    )
