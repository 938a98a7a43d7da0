"""The go command that builds the lab's programs: the host's if it is new enough, else our own.

Debian's Go is older than what Kubernetes needs, and one older than 1.21 cannot fetch another by
itself. But every Go toolchain is published as a module too, and any Go can download a module,
checked against the checksum database. So whatever ``go`` there is fetches the one that is needed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from lab import commands, errors, oci, versions
from lab.cache import Cache

MODULE = "golang.org/toolchain"
DOWNLOAD_SECONDS = 900.0
VERSION_SECONDS = 60.0


def environment(cache: Cache, environ: Mapping[str, str]) -> dict[str, str]:
    """Return *environ* with a PATH whose ``go`` is new enough for all that the lab builds.

    Raises LabError if the host has no Go at all.
    """
    found = shutil.which("go", path=environ.get("PATH"))
    installed = None if found is None else version_of(Path(found), environ)
    if installed is not None and installed >= numbers(versions.GO):
        return dict(environ)
    directory = fetched(cache, program=found, environ=environ)
    # GOROOT would lead our go to another one's standard library.
    env = {name: value for name, value in environ.items() if name != "GOROOT"}
    return {**env, "PATH": f"{directory / 'bin'}:{environ.get('PATH', os.defpath)}"}


def version_of(program: Path, environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """Return the version of a go command; None for one that has no number (a development build)."""
    said = commands.run(
        [program, "version"],
        # Not the version that it would switch to for some module or by its configuration.
        env={**environ, "GOTOOLCHAIN": "local"},
        cwd=Path("/"),
        timeout_seconds=VERSION_SECONDS,
    )
    return parse(said)


def parse(text: str) -> tuple[int, ...] | None:
    """Return the numbers in what ``go version`` prints. A release candidate is not its release."""
    match = re.search(r"\bgo(\d+(?:\.\d+)+)(\S*)", text)
    if match is None or re.match(r"rc|beta", match[2]):
        return None
    return numbers(match[1])


def numbers(version: str) -> tuple[int, ...]:
    """Return "1.26.0" as (1, 26, 0)."""
    return tuple(int(part) for part in version.split("."))


def make_usable(root: Path) -> None:
    """Do with an unpacked toolchain module what a newer go does when it switches to one.

    A module's files are not executable, and it cannot contain another module's ``go.mod``.
    """
    for program in (*(root / "bin").iterdir(), *(root / "pkg/tool").rglob("*")):
        if program.is_file():
            program.chmod(0o755)
    shutil.copyfile(root / "src/_go.mod", root / "src/go.mod")


def fetched(
    cache: Cache, *, program: str | None = None, environ: Mapping[str, str] = os.environ
) -> Path:
    """Return the root of our own Go, which *program*, any go command, fetches if it is not there.

    Raises LabError if it is not there and there is no *program*.
    """
    architecture = oci.ARCHITECTURES[platform.machine()]
    release = f"v0.0.1-go{versions.GO_TOOLCHAIN}.linux-{architecture}"

    def build(directory: Path) -> None:
        if program is None:
            raise errors.LabError(
                "no go command on PATH",
                hint="python -m lab prerequisites installs Debian's; any version will do",
            )
        modules = directory / "modules"
        env = {
            **environ,
            "GO111MODULE": "on",
            "GOFLAGS": "-modcacherw",
            "GOMODCACHE": str(modules),
            "GOTOOLCHAIN": "local",
        }
        env.setdefault("HOME", str(directory))
        said = commands.run(
            [program, "mod", "download", "-json", f"{MODULE}@{release}"],
            env=env,
            cwd=directory,
            timeout_seconds=DOWNLOAD_SECONDS,
        )
        root = directory / "go"
        Path(json.loads(said)["Dir"]).rename(root)
        shutil.rmtree(modules)
        make_usable(root)
        got = version_of(root / "bin/go", {n: v for n, v in environ.items() if n != "GOROOT"})
        if got != numbers(versions.GO_TOOLCHAIN):
            raise errors.LabError(f"{MODULE}@{release} reports version {got}")

    artefact = cache.artefact(
        "go-toolchain", version=versions.GO_TOOLCHAIN, recipe=[MODULE, release], build=build
    )
    return artefact / "go"
