"""What the host must have before anything is built, and how to get it from Debian's packages."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from lab import commands, errors, versions
from lab.progress import Progress

INSTALL_TIMEOUT_SECONDS = 900.0

PACKAGES: Mapping[str, str] = {
    "buildah": "buildah",
    "gcc": "gcc",
    "git": "git",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "musl-gcc": "musl-tools",
    "nft": "nftables",
    "nsenter": "util-linux",
    "go": "golang-go",
}
"""Program → the package of Debian that has it."""

FILES: Mapping[str, str] = {
    "/usr/lib/x86_64-linux-gnu/libc.a": "libc6-dev",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}
"""The same for files; a path of another architecture than the host's is not looked at."""

TOOLCHAIN_GO = (1, 21)
"""From here on, go fetches the version that a go.mod asks for through the module proxy."""


def missing_packages(
    *, has_program: Callable[[str], bool], has_file: Callable[[str], bool], machine: str
) -> list[str]:
    """Return the packages whose program or file is not there, sorted."""
    files = {p: n for p, n in FILES.items() if "-linux-gnu" not in p or machine in p}
    wanted = {package for program, package in PACKAGES.items() if not has_program(program)}
    wanted |= {package for path, package in files.items() if not has_file(path)}
    return sorted(wanted)


def go_advice(output: str) -> str | None:
    """Say what is to be known about the go that printed *output*; None if it is new enough.

    Raises LabError if it can neither build the programs nor fetch a go that can.
    """
    match = re.search(r"go(\d+)\.(\d+)", output)
    found = (int(match[1]), int(match[2])) if match else (0, 0)
    wanted = tuple(int(part) for part in versions.GO.split(".")[:2])
    if found >= wanted:
        return None
    if found >= TOOLCHAIN_GO:
        return (
            f"go {found[0]}.{found[1]} is older than {versions.GO}: it fetches the toolchain that "
            "each module asks for through the Go module proxy (GOTOOLCHAIN=auto), once"
        )
    raise errors.LabError(
        f"go {found[0]}.{found[1]} is too old",
        hint=f"install go >= {TOOLCHAIN_GO[0]}.{TOOLCHAIN_GO[1]} (Debian 13, or Debian 12's "
        f"backports: golang-1.23) or {versions.GO} itself",
    )


def ensure(*, install: bool, progress: Progress) -> None:
    """Return if the host has everything; with *install*, after installing what it lacks.

    Raises LabError with the command that installs the rest.
    """
    packages = _missing()
    if packages and not install:
        raise errors.LabError(
            f"the host lacks {', '.join(packages)}",
            hint=f"apt-get install {' '.join(packages)}, or lab prerequisites --install",
        )
    if packages:
        with progress.step(f"apt-get install {' '.join(packages)}"):
            _install(packages)
        left = _missing()
        if left:
            raise errors.LabError(f"still missing after the installation: {', '.join(left)}")
    # In the root directory: a go.mod below the current one would choose the version.
    advice = go_advice(
        commands.run(["go", "version"], cwd=Path("/"), env={**os.environ, "GOTOOLCHAIN": "local"})
    )
    if advice:
        progress.say(advice)


def _missing() -> list[str]:
    def has_program(name: str) -> bool:
        return shutil.which(name) is not None

    def has_file(path: str) -> bool:
        return Path(path).exists()

    machine = os.uname().machine
    return missing_packages(has_program=has_program, has_file=has_file, machine=machine)


def _install(packages: list[str]) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (
        ["update", "-qq"],
        ["install", "-y", "-qq", "--no-install-recommends", *packages],
    ):
        commands.run(["apt-get", *words], env=env, timeout_seconds=INSTALL_TIMEOUT_SECONDS)
