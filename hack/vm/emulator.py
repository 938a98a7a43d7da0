"""The emulator: Debian 13's QEMU, unpacked and not installed.

QEMU 7.2, Debian 12's, panics such a guest while processes in it are dumped.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import commands, errors, mirror, rootfs
from lab.cache import Cache

SUITE: Final = "trixie"
PACKAGES: Final = ("qemu-system-x86", "ipxe-qemu", "seabios")
ARCHITECTURE: Final = "x86_64"
LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """Where QEMU is unpacked."""

    root: Path

    @property
    def words(self) -> list[str]:
        """The start of its command line: by its own loader, with its own libraries and firmware."""
        libraries = self.root / LIBRARIES
        firmware = (self.root / "usr" / name for name in ("share/qemu", "share/seabios"))
        return [
            *(str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)),
            str(self.root / "usr/bin/qemu-system-x86_64"),
            *(word for path in firmware for word in ("-L", str(path))),
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {"QEMU_MODULE_DIR": str(self.root / LIBRARIES / "qemu")}


def emulator(cache: Cache) -> Emulator:
    """Return QEMU, unpacked if it is not in *cache*. Raises LabError on other processors."""
    if platform.machine() != ARCHITECTURE:
        raise errors.LabError(
            f"the virtual machine is made for {ARCHITECTURE}, this host is {platform.machine()}",
            hint="make test-long VM=no leaves it out",
        )

    def build(directory: Path) -> None:
        options = [f"--aptopt={option}" for option in rootfs.APT_OPTIONS]
        options += ['--aptopt=APT::Install-Recommends "false"', f"--include={','.join(PACKAGES)}"]
        commands.run(
            [
                *("mmdebstrap", "--mode=root", "--variant=extract", *options),
                *(SUITE, directory / "root", mirror.host_mirror()),
            ],
            timeout_seconds=rootfs.BUILD_TIMEOUT_SECONDS,
            log=directory / "mmdebstrap.log",
        )

    recipe = [PACKAGES, rootfs.APT_OPTIONS]
    directory = cache.artefact("vm-emulator", version=SUITE, recipe=recipe, build=build)
    return Emulator(root=directory / "root")
