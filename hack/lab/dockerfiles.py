"""Builds of real Dockerfiles without a registry or an engine: buildah in a chroot.

Base images are archives made here, handed to the Dockerfile by build arguments; anybody with a
registry builds the same Dockerfiles with their defaults. A build is repeated only when its
Dockerfile, the files it copies or its bases change.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from lab import commands, errors, images, leftovers
from lab.cache import Cache
from lab.images import ARCHIVE, Image

CHECKOUT: Final = Path(__file__).resolve().parents[2]
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD_SECONDS: Final = 1800.0
CODE: Final = {
    "operator": ("common/architect", "operator/architect"),
    "webhook": ("common/architect", "webhook/architect"),
    "daemon": ("common/architect", "daemon/architect"),
}
"""Each part's own code in its image."""
BUNDLE: Final = (
    "common/architect/api",
    "common/architect/core",
    "shim/architect",
    "shim/bundle.py",
)
"""What the bundle for nodes is assembled from, beside the native programs."""


@dataclass(frozen=True)
class Stage:
    """A stage of a Dockerfile that is built already: builds that start from it copy nothing."""

    name: str
    directory: Path
    """An artefact with the stage's image in a store of its own."""

    @property
    def store(self) -> Path:
        """The store, as buildah takes it for an additional one to read from."""
        return self.directory / "store"


NONE: Final[Mapping[str, Any]] = MappingProxyType({})
SOURCE: Final = re.compile(r"(?:FROM |COPY --from=)(\S+)")
"""Where an instruction takes another stage's or image's files from."""


def project(context: Path = CHECKOUT) -> dict[str, Any]:
    """Return the table ``project`` of pyproject.toml."""
    text = (context / "pyproject.toml").read_text()
    return dict(tomllib.loads(text)["project"])


def version(context: Path = CHECKOUT) -> str:
    """Return the project's version, which tags its images."""
    return str(project(context)["version"])


def native(cache: Cache) -> Image:
    """Return the image with the static programs."""
    return build(
        cache,
        f"localhost/architect/native:{version()}",
        dockerfile="shim/native/Dockerfile",
        copies=["shim/native"],
        arguments={"BASE": images.base(cache, "forky")},
        takes="about 3 min on two cores, once",
    )


def architect(
    cache: Cache, *, context: Path = CHECKOUT, programs: Image | None = None
) -> list[Image]:
    """Return the project's images, operator, webhook and daemon, built side by side.

    The stages below our own code are artefacts of their own: after a change of a line there is
    only the copying of the code left to do. *context* is the checkout, *programs* the image with
    the static programs, if it is not that of this checkout.
    """
    with futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda part: _part(cache, part, context, programs), CODE))


def _part(cache: Cache, part: str, context: Path, programs: Image | None) -> Image:
    built = {"environment": _environment(cache, part)}
    if part == "daemon":
        built["bundle"] = _bundle(cache, built["environment"], context, programs)
    return build(
        cache,
        f"localhost/architect/{part}:{version(context)}",
        dockerfile=f"{part}/Dockerfile",
        copies=CODE[part],
        built=built,
        context=context,
    )


def _environment(cache: Cache, part: str) -> Stage:
    told = project()
    return stage(
        cache,
        f"localhost/architect/{part}-environment:{version()}",
        dockerfile=f"{part}/Dockerfile",
        target="environment",
        copies=["common/environment.py"],
        # Of pyproject.toml only what the script reads.
        also=[told["name"], told["dependencies"], told["optional-dependencies"][part]],
        arguments={"BASE": images.base(cache, "trixie")},
    )


def _bundle(cache: Cache, environment: Stage, context: Path, programs: Image | None) -> Stage:
    return stage(
        cache,
        f"localhost/architect/daemon-bundle:{version(context)}",
        dockerfile="daemon/Dockerfile",
        target="bundle",
        copies=BUNDLE,
        also=[],
        arguments={
            "NATIVE": programs or native(cache),
            "GVISOR": images.gvisor(cache, f"localhost/architect/gvisor:{version()}"),
        },
        built={"environment": environment},
        context=context,
    )


def build(
    cache: Cache,
    name: str,
    *,
    dockerfile: str,
    copies: Sequence[str],
    arguments: Mapping[str, Image] = NONE,
    built: Mapping[str, Stage] = NONE,
    context: Path = CHECKOUT,
    takes: str = "",
) -> Image:
    """Build *dockerfile*; *copies* are the paths below *context* that it uses.

    *arguments* are images that it asks for, *built* those of its stages that are there already.
    """
    text = instructions((context / dockerfile).read_text(), built=built)

    def make(directory: Path) -> None:
        _build(directory, name, text, arguments=arguments, built=built, context=context)
        commands.run(
            [
                *_buildah(directory, built),
                *("push", name, f"oci-archive:{directory / ARCHIVE}:{name}"),
            ],
            timeout_seconds=BUILD_SECONDS,
        )
        leftovers.discard(directory / "store")
        leftovers.discard(directory / "run")

    recipe = [text, digest(context, copies), _keys(arguments, built)]
    return Image(name, images.artefact(cache, name, recipe, make, takes=takes))


def stage(
    cache: Cache,
    name: str,
    *,
    dockerfile: str,
    target: str,
    copies: Sequence[str],
    also: object,
    arguments: Mapping[str, Image],
    built: Mapping[str, Stage] = NONE,
    context: Path = CHECKOUT,
) -> Stage:
    """Build *dockerfile* up to its stage *target*, whose image gets *name*.

    *copies* are the paths that the stages use, *also* what it depends on beside them.
    """
    text = instructions((context / dockerfile).read_text(), target=target, built=built)

    def make(directory: Path) -> None:
        _build(directory, name, text, arguments=arguments, built=built, context=context)
        # buildah keeps the stages that were copied from mounted.
        leftovers.unmount_below(directory)
        leftovers.discard(directory / "run")

    recipe = [
        text,
        digest(context, copies),
        also,
        _keys(arguments, built),
        _driver(cache.root),
    ]
    archive = images.artefact(cache, name, recipe, make, takes="about 1 min, once")
    return Stage(name, archive.parent)


def instructions(text: str, *, target: str | None = None, built: Mapping[str, Stage] = NONE) -> str:
    """Return what of a Dockerfile is to be done for its stage *target* (default: the last one).

    Comments and stages that are not needed are left out. Stages that are *built* already are not
    needed; their images stand for them.

    Raises LabError if it has no such stage.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    starts = [number for number, line in enumerate(lines) if line.startswith("FROM ")]
    head = lines[: starts[0]]
    stages = {
        lines[start].partition(" AS ")[2]: lines[start:end]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)
    }
    last = list(stages)[-1] if target is None else target
    if last not in stages:
        raise errors.LabError(f"no stage {last} in the Dockerfile")
    needed = {last}
    for stage_name in reversed(stages):
        if stage_name in needed:
            needed.update(
                match[1]
                for line in stages[stage_name]
                if (match := SOURCE.match(line)) and match[1] not in built
            )
    kept = [line for name, found in stages.items() if name in needed for line in found]
    return "".join(f"{_substitute(line, built)}\n" for line in (*head, *kept))


def _substitute(line: str, built: Mapping[str, Stage]) -> str:
    match = SOURCE.match(line)
    if match is None or match[1] not in built:
        return line
    return line[: match.start(1)] + built[match[1]].name + line[match.end(1) :]


def _build(
    directory: Path,
    name: str,
    text: str,
    *,
    arguments: Mapping[str, Image],
    built: Mapping[str, Stage],
    context: Path,
) -> None:
    file = directory / "Dockerfile"
    file.write_text(text)
    pip = directory / "pip.conf"
    pip.write_text(f"[global]\ncert = {CERTIFICATES}\n")
    commands.run(
        [
            *_buildah(directory, built),
            "build",
            # What the host trusts: a network may have a certificate authority of its own.
            f"--volume={CERTIFICATES}:{CERTIFICATES}:ro",
            f"--volume={pip}:/etc/pip.conf:ro",
            "--isolation=chroot",
            "--layers=false",
            *(f"--build-arg={key}=oci-archive:{i.archive}" for key, i in arguments.items()),
            f"--file={file}",
            f"--tag={name}",
            str(context),
        ],
        timeout_seconds=BUILD_SECONDS,
        log=directory / "build.log",
    )


def _buildah(directory: Path, built: Mapping[str, Stage]) -> list[str]:
    """Return the start of a command line. Each build has a store of its own, in *directory*."""
    driver = _driver(directory)
    return [
        "buildah",
        f"--storage-driver={driver}",
        *(f"--storage-opt={driver}.imagestore={each.store}" for each in built.values()),
        f"--root={directory / 'store'}",
        f"--runroot={directory / 'run'}",
    ]


def _driver(directory: Path) -> str:
    """Return buildah's storage driver: vfs, which copies whole layers, only on an overlay."""
    while not directory.exists():
        directory = directory.parent
    kind = commands.run(["stat", "--file-system", "--format=%T", directory]).strip()
    return "vfs" if kind == "overlayfs" else "overlay"


def _keys(arguments: Mapping[str, Image], built: Mapping[str, Stage]) -> object:
    """Return what a recipe says of what a build starts from: names and artefacts."""
    return {
        **{key: [image.name, image.archive.parent.name] for key, image in arguments.items()},
        **{key: [each.name, each.directory.name] for key, each in built.items()},
    }


def digest(context: Path, copies: Sequence[str]) -> str:
    """Return a hash of the names, modes and contents of what a Dockerfile copies."""
    found = hashlib.sha256()
    for relative in sources(context, copies):
        path = context / relative
        found.update(f"{relative} {path.stat().st_mode & 0o111}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def sources(context: Path, copies: Sequence[str]) -> Iterator[Path]:
    """Yield the files at and below *copies*, as paths below *context*, without what was built."""
    for each in copies:
        start = context / each
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            relative = path.relative_to(context)
            if path.is_file() and not {"__pycache__", "build"} & set(relative.parts):
                yield relative


def native_programs(cache: Cache) -> Path:
    """Return a directory with the programs of :func:`native`, for tests without containers."""
    image = native(cache)

    def extract(directory: Path) -> None:
        with tarfile.open(image.archive) as archive:
            for member in archive.getmembers():
                blob = archive.extractfile(member) if member.isfile() else None
                if blob is not None and member.size > 1 << 16:
                    layer = directory / "layer"
                    with layer.open("wb") as target:
                        shutil.copyfileobj(blob, target)
                    # By tar: the filters without which newer Pythons warn are not in Debian 12's.
                    commands.run(
                        ["tar", "--extract", f"--file={layer}", f"--directory={directory}"]
                    )
                    layer.unlink()

    return (
        cache.artefact(
            "native-programs", version=version(), recipe=image.archive.parent.name, build=extract
        )
        / "out"
    )
