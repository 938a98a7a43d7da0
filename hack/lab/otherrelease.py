"""Another release of Architect, made of this checkout: for clusters with both.

A copy of the sources with some lines changed is built by the same Dockerfiles, so that the version,
the init (by its content), the bundle, the images and the chart are its own. What does not depend on
the changes (the environments below the code, CRIU, gVisor) is that of the checkout.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import commands, dockerfiles, errors, images
from lab.cache import Cache
from lab.images import Image

SOURCES: Final = (
    "pyproject.toml",
    "charts/architect",
    "common",
    "daemon",
    "operator",
    "shim",
    "webhook",
)
"""What a release is made of."""

CRIU: Final = "architect-criu"
INIT: Final = "architect-init"


@dataclass(frozen=True)
class Edit:
    """A text that stands once in a file of the checkout, and what stands there instead."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class OtherRelease:
    """What is different in it."""

    version: str
    edits: tuple[Edit, ...]
    criu: tuple[str, str] | None = None
    """The version that this checkout's CRIU tells, and that of the release's, as long. The program
    is the same but for that; None: wholly the same."""

    @property
    def all_edits(self) -> tuple[Edit, ...]:
        """The edits, and those by which the version is another one."""
        ours = dockerfiles.version()
        return (
            Edit("pyproject.toml", f'\nversion = "{ours}"', f'\nversion = "{self.version}"'),
            Edit("charts/architect/Chart.yaml", f"\nversion: {ours}", f"\nversion: {self.version}"),
            Edit(
                "charts/architect/Chart.yaml",
                f"\nappVersion: {ours}",
                f"\nappVersion: {self.version}",
            ),
            *self.edits,
        )


def sources(cache: Cache, release: OtherRelease) -> Path:
    """Return the release's sources: a directory like this checkout's."""
    edits = release.all_edits

    def build(directory: Path) -> None:
        for relative in dockerfiles.sources(dockerfiles.CHECKOUT, SOURCES):
            (directory / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(dockerfiles.CHECKOUT / relative, directory / relative)
        apply(directory, edits)

    recipe = [
        dockerfiles.digest(dockerfiles.CHECKOUT, SOURCES),
        [[edit.file, edit.old, edit.new] for edit in edits],
    ]
    return cache.artefact("release-sources", version=release.version, recipe=recipe, build=build)


def apply(directory: Path, edits: Sequence[Edit]) -> None:
    """Change the files in *directory*. Raises LabError for an edit that does not fit."""
    for edit in edits:
        file = directory / edit.file
        text = file.read_text()
        if text.count(edit.old) != 1:
            raise errors.LabError(
                f"{edit.file} has {text.count(edit.old)} times what is to be changed: {edit.old!r}",
                hint="the edits of the other release are to follow the code",
            )
        file.write_text(text.replace(edit.old, edit.new))


def programs(cache: Cache, release: OtherRelease, context: Path) -> Image:
    """Return the image with the release's static programs, compiled by the host's musl-gcc."""
    name = f"localhost/architect/native:{release.version}"
    ours = dockerfiles.native_programs(cache)

    def build(directory: Path) -> None:
        made = directory / "out"
        shutil.copytree(ours, made)
        # Always: what is there is newer than the sources.
        commands.run(
            [
                *("make", "--always-make", "-C", context / "shim/native"),
                *(f"OUT={made}", f"VERSION={release.version}"),
            ]
        )
        if release.criu is not None:
            _retell(made / CRIU, *release.criu)
        if (made / INIT).read_bytes() == (ours / INIT).read_bytes():
            raise errors.LabError(f"the init of {release.version} is that of this checkout")
        files = {
            f"out/{file.relative_to(made)}": file for file in made.rglob("*") if file.is_file()
        }
        images.from_files(directory, name, files)
        shutil.rmtree(made)

    recipe = [ours.parent.name, dockerfiles.digest(context, ["shim/native"]), release.criu]
    return Image(name, images.artefact(cache, name, recipe, build))


def architect(cache: Cache, release: OtherRelease) -> list[Image]:
    """Return the release's images: operator, webhook and daemon."""
    context = sources(cache, release)
    return dockerfiles.architect(cache, context=context, programs=programs(cache, release, context))


def _retell(program: Path, ours: str, other: str) -> None:
    """Have *program* tell another version. Raises LabError if it does not tell *ours*."""
    content = program.read_bytes()
    if len(ours) != len(other) or ours.encode() not in content:
        raise errors.LabError(f"{program.name} does not tell {ours}, or {other} has no room there")
    program.write_bytes(content.replace(ours.encode(), other.encode()))
