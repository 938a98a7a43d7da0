"""The disk that the machine boots from: Debian with what the tests need, and one service.

The service unpacks the job disk (:mod:`vm.job`), runs what is on it, and powers the machine off.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import commands, rootfs
from lab.cache import Cache

SUITE: Final = "trixie"
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "udev", "kmod", "initramfs-tools", "zstd"),
    "linux-image-cloud-amd64",
    # What the tests use, and what they build the runtime's own programs with.
    *(
        "runc",
        "crun",
        "nftables",
        "iptables",
        "iproute2",
        "iputils-ping",
        "procps",
        "busybox",
        "e2fsprogs",
    ),
    *("ca-certificates", "curl", "netbase", "util-linux", "gcc", "libc6-dev", "make", "musl-tools"),
    *("python3", "python3-pytest", "python3-pytest-timeout", "python3-hypothesis"),
    *("python3-cryptography", "python3-yaml", "python3-kubernetes"),
)
DISK_SIZE: Final = "6G"
"""Of the file system; the file has holes and takes about 0.8 GB."""
DISK_SECONDS: Final = 300.0

MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_console", "ext4", "crc32c_generic")
"""What the initial file system loads: with all modules in it the boot would take minutes."""

UNIT: Final = "architect-job.service"
FILES: Final = {
    "etc/hostname": "node\n",
    "etc/hosts": "127.0.0.1 localhost node\n::1 localhost node\n",
    "etc/fstab": "LABEL=root / ext4 rw,noatime 0 0\n",
    "etc/machine-id": "",
    # CPU time that emulation would spend on nothing.
    "etc/systemd/journald.conf.d/job.conf": "[Journal]\nStorage=volatile\n",
    f"etc/systemd/system/{UNIT}": """\
[Unit]
Description=What the job disk asks for
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
Environment=HOME=/root LANG=C.UTF-8
ExecStart=/usr/bin/mkdir /job
ExecStart=/usr/bin/tar --extract --file=/dev/disk/by-id/virtio-job --directory=/job
ExecStart=/usr/bin/python3 /job/guest.py
StandardError=journal+console
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
""",
}
"""Written over the root file system, paths relative to it."""
SERVICES: Final = (UNIT,)
UNUSED: Final = ("e2scrub_all.timer", "fstrim.timer", "apt-daily.timer", "dpkg-db-backup.timer")


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What a machine boots from."""

    root: Path
    kernel: Path
    initrd: Path


def disk(cache: Cache) -> Disk:
    """Return the disk, built if it is not in *cache*."""

    def build(directory: Path) -> None:
        root = directory / "root"
        rootfs.bootstrap(root, suite=SUITE, packages=PACKAGES, options=_initramfs(directory))
        for name, text in FILES.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        commands.run(["chroot", root, "systemctl", "--quiet", "enable", *SERVICES])
        commands.run(["chroot", root, "systemctl", "--quiet", "mask", *UNUSED])
        for name in ("vmlinuz", "initrd.img"):
            (found,) = (root / "boot").glob(f"{name}-*")
            shutil.copy(found, directory / name)
        commands.run(
            [
                *("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root),
                *("-E", "lazy_itable_init=0,root_owner=0:0", directory / "root.ext4", DISK_SIZE),
            ],
            timeout_seconds=DISK_SECONDS,
        )
        shutil.rmtree(root)

    directory = cache.artefact(
        "vm-disk",
        version=SUITE,
        recipe=[PACKAGES, MODULES, FILES, SERVICES, UNUSED, DISK_SIZE],
        build=build,
        takes="about 2 min, once",
    )
    return Disk(
        root=directory / "root.ext4",
        kernel=directory / "vmlinuz",
        initrd=directory / "initrd.img",
    )


def _initramfs(directory: Path) -> list[str]:
    """Return options of mmdebstrap by which the kernel's package makes a small initial one."""
    (directory / "zz-job").write_text("MODULES=list\nCOMPRESS=zstd\n")
    (directory / "modules").write_text("".join(f"{name}\n" for name in MODULES))
    place = "etc/initramfs-tools"
    return [
        f'--essential-hook=mkdir -p "$1/{place}/conf.d"',
        f"--essential-hook=copy-in {directory / 'zz-job'} /{place}/conf.d",
        f"--essential-hook=copy-in {directory / 'modules'} /{place}",
    ]
