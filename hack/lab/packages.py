"""The Debian packages that the host needs, and their installation.

Run as ``python3 -m lab.packages`` it installs what a virtual environment needs: that is before
there is one, so only the standard library is imported here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import commands, errors
from lab.progress import Progress

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APT_SECONDS = 1800.0
LOCK_SECONDS = 600
"""A fresh machine often upgrades itself when it starts, and apt waits for that."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Debian package, and how to tell that what it is needed for is there."""

    name: str
    why: str
    program: str = ""
    """Command on PATH; from wherever it comes, it will do."""
    file: str = ""


PYTHON = (
    Package(
        name="python3-venv",
        why="the virtual environment of lab, tests and linters",
        # Debian's python3 has venv without what puts pip into it.
        file=f"{os.path.dirname(os.__file__)}/ensurepip/__init__.py",
    ),
)
HOST = (
    Package(name="ca-certificates", why="downloads", file="/etc/ssl/certs/ca-certificates.crt"),
    Package(name="mmdebstrap", why="root file systems of nodes and images", program="mmdebstrap"),
    Package(name="buildah", why="images from Dockerfiles", program="buildah"),
    Package(name="gcc", why="static programs", program="gcc"),
    Package(name="libc6-dev", why="static programs", file="/usr/include/stdio.h"),
    Package(name="musl-tools", why="the programs that nodes get", program="musl-gcc"),
    Package(name="make", why="the programs that nodes get", program="make"),
    # Any version: one that is too old for Kubernetes fetches the one that is needed.
    Package(name="golang-go", why="Kubernetes, helm, CoreDNS and the S3 server", program="go"),
    Package(name="git", why="Go modules outside of the module proxy", program="git"),
    Package(name="iproute2", why="the network between nodes", program="ip"),
    Package(name="nftables", why="kernel tests of the packet rules", program="nft"),
    Package(name="runc", why="kernel tests", program="runc"),
    Package(name="crun", why="kernel tests with another lower runtime", program="crun"),
    Package(name="e2fsprogs", why="disks of pods and of virtual machines", program="mke2fs"),
    Package(name="kmod", why="kernel modules", program="modprobe"),
    Package(name="curl", why="requests to pods from the control plane's network", program="curl"),
)


def is_there(package: Package, environ: Mapping[str, str]) -> bool:
    """Whether what *package* is needed for is on this host."""
    if package.file:
        return Path(package.file).exists()
    return shutil.which(package.program, path=f"{environ.get('PATH', '')}:{PATH}") is not None


def missing(wanted: Sequence[Package], environ: Mapping[str, str]) -> list[Package]:
    """Return what of *wanted* is not there."""
    return [package for package in wanted if not is_there(package, environ)]


def describe(lacking: Sequence[Package]) -> str:
    """Say what is missing and what for."""
    return ", ".join(f"{package.name} ({package.why})" for package in lacking)


def provide(
    wanted: Sequence[Package],
    *,
    progress: Progress,
    environ: Mapping[str, str] = os.environ,
    run: Callable[[Sequence[str]], None] | None = None,
) -> None:
    """Install what of *wanted* is missing; without anything missing, do nothing.

    Raises LabError, with the command that helps, if this is not root or not Debian, or if
    something is missing afterwards.
    """
    lacking = missing(wanted, environ)
    if not lacking:
        return
    names = [package.name for package in lacking]
    by_hand = f"as root: apt-get install --no-install-recommends {' '.join(names)}"
    if os.geteuid() != 0:
        raise errors.LabError(f"missing: {describe(lacking)}", hint=by_hand)
    if run is None and shutil.which("apt-get", path=PATH) is None:
        raise errors.LabError(
            f"missing: {describe(lacking)}", hint="this host has no apt-get; install them by hand"
        )
    progress.say(f"missing: {describe(lacking)}")
    with progress.step(f"installing {len(names)} Debian packages", takes="about 1 min"):
        _install(names, progress=progress, run=run or _run)
    still = missing(lacking, environ)
    if still:
        raise errors.LabError(f"missing after installation: {describe(still)}", hint=by_hand)


def _install(
    names: Sequence[str], *, progress: Progress, run: Callable[[Sequence[str]], None]
) -> None:
    # What an installation that was interrupted left: apt-get refuses to work before.
    run(["dpkg", "--configure", "-a"])
    lock = f"DPkg::Lock::Timeout={LOCK_SECONDS}"
    try:
        run(["apt-get", "-q", "-o", lock, "update"])
    except errors.CommandFailed as error:
        # One source of several may be out of order; whether it matters, the next step shows.
        progress.say(f"apt-get update: {error}")
    run(["apt-get", "-q", "-y", "-o", lock, "install", "--no-install-recommends", *names])


def _run(argv: Sequence[str]) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": PATH}
    commands.run(list(argv), env=env, timeout_seconds=APT_SECONDS)


def main() -> int:
    """Provide what a virtual environment needs."""
    try:
        provide(PYTHON, progress=Progress())
        subprocess.run([sys.executable, "-c", "import ensurepip, venv"], check=True)
    except errors.LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
