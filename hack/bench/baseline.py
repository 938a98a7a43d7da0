"""The machine of the baselines: a lab machine with the distribution's own runc and CRIU.

Nodes have no CRIU but the product's, which executes nothing and so cannot save a container's tmpfs.
The machine has the nodes' kernel, release and kind of cgroups, and nothing of Architect.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lab import rootfs, versions
from lab.cache import Cache
from lab.machine import Machine, MachineSpec
from lab.settings import Settings

NAME: Final = "bench"
CRIU: Final = Path("/usr/sbin/criu")
RUNC: Final = Path("/usr/sbin/runc")
PACKAGES: Final = ("criu", "iproute2", "mount", "procps", "python3", "runc", "tar", "util-linux")


def root(cache: Cache) -> Path:
    """Return the machine's root file system, made once (about a minute)."""

    def build(directory: Path) -> None:
        made = directory / "root"
        rootfs.bootstrap(made, suite=versions.NODE_SUITE, packages=PACKAGES)
        got = rootfs.installed_packages((made / "var/lib/dpkg/status").read_text())
        (directory / "packages.json").write_text(json.dumps(got, indent=1, sort_keys=True))

    directory = cache.artefact(
        "bench-root",
        version=versions.NODE_SUITE,
        recipe=[PACKAGES, rootfs.APT_OPTIONS, rootfs.DPKG_OPTIONS],
        build=build,
    )
    return directory / "root"


def packages(cache: Cache) -> Mapping[str, str]:
    """Return the versions of what is in it."""
    return dict(json.loads((root(cache).parent / "packages.json").read_text()))


@contextmanager
def machine(cache: Cache, settings: Settings) -> Iterator[Machine]:
    """Run the machine; what an earlier run left of it is removed first, and all of it after."""
    made = Machine(NAME, settings=settings)
    made.destroy()
    made.create(MachineSpec(root=root(cache)))
    try:
        yield made
    finally:
        made.destroy()
