"""Debian root file systems: the one below every machine, and the layers of base images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lab import commands, errors, mirror, versions
from lab.cache import Cache

APT_OPTIONS = (
    # A rolling suite's Release file in a mirror can be past its date.
    'Acquire::Check-Valid-Until "false"',
    'Acquire::Retries "3"',
)
DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
)
BUILD_TIMEOUT_SECONDS = 900.0


def node_root(cache: Cache) -> Path:
    """Return the read-only root file system that machines are made from.

    ``packages.json`` beside it holds the versions that the build got.
    """

    return _machine_root(cache, "node-root", versions.NODE_PACKAGES, versions.NODE_MINIMUM)


def standalone_root(cache: Cache) -> Path:
    """Return the same for a machine whose engines are used without Kubernetes, with Podman."""
    packages, minimum = versions.STANDALONE_PACKAGES, versions.STANDALONE_MINIMUM
    return _machine_root(cache, "standalone-root", packages, minimum)


def _machine_root(
    cache: Cache, name: str, packages: tuple[str, ...], minimum: Mapping[str, str]
) -> Path:
    def build(directory: Path) -> None:
        root = directory / "root"
        bootstrap(root, suite=versions.NODE_SUITE, packages=packages)
        got = installed_packages((root / "var/lib/dpkg/status").read_text())
        check_minimum(got, minimum)
        (directory / "packages.json").write_text(json.dumps(got, indent=1, sort_keys=True))

    directory = cache.artefact(
        name,
        version=versions.NODE_SUITE,
        recipe=[packages, minimum, APT_OPTIONS, DPKG_OPTIONS],
        build=build,
        takes="about 1 min, once",
    )
    return directory / "root"


def bootstrap(
    target: Path, *, suite: str, packages: Iterable[str], options: Sequence[str] = ()
) -> None:
    """Install *packages* of *suite* into a directory, or into a tar file if it ends in ``.tar``.

    *options* are further ones of mmdebstrap.
    """
    log = target.parent / "mmdebstrap.log"
    archive = mirror.host_mirror()
    words = [f"--aptopt={option}" for option in APT_OPTIONS]
    words += [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
    words.append(f"--include={','.join(packages)}")
    kept = "".join(f"{option};\n" for option in APT_OPTIONS)
    # What mmdebstrap is told for itself is not kept; a later `apt-get update` needs it too.
    words.append(
        f"--customize-hook=printf %s '{kept}' > \"$1/etc/apt/apt.conf.d/90lab\"",
    )
    commands.run(
        [
            *("mmdebstrap", "--mode=root", "--variant=minbase", *words, *options),
            *(suite, target, archive),
        ],
        timeout_seconds=BUILD_TIMEOUT_SECONDS,
        log=log,
    )


def installed_packages(status: str) -> dict[str, str]:
    """Return name → version from the text of dpkg's status file."""
    packages = {}
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Package|Version|Status): (.*)$", stanza))
        if fields.get("Status", "").endswith(" installed"):
            packages[fields["Package"]] = fields["Version"]
    return packages


def check_minimum(got: Mapping[str, str], minimum: Mapping[str, str]) -> None:
    """Raise LabError if a package is missing or older than its minimum."""
    wrong = [
        f"{name} {got.get(name, 'missing')} < {least}"
        for name, least in minimum.items()
        if name not in got or upstream_version(got[name]) < upstream_version(least)
    ]
    if wrong:
        raise errors.LabError(
            f"packages too old: {', '.join(wrong)}", hint="is the mirror up to date?"
        )


def upstream_version(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a Debian version, without its epoch: enough to compare."""
    match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    if match is None:
        raise errors.LabError(f"not a Debian version: {version!r}")
    return tuple(int(part) for part in match[1].split("."))
