"""What the runtime keeps on a node's disk, looked at and damaged by tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from architect.api import names
from lab.node import Node

BACKUP: Final = "/var/tmp/architect-test"
SMALL: Final = "/run/architect-test-small"


def image(uid: str, container: str = "app") -> Path:
    """Return the directory of a container's image."""
    return names.PODS / uid / container / "image"


def exists(node: Node, path: Path | str) -> bool:
    """Whether *path* is there in *node*."""
    return node.exec(["sh", "-c", '[ -e "$0" ] && echo yes || echo no', path]).strip() == "yes"


def listing(node: Node, path: Path | str) -> list[str]:
    """Return the names in a directory of *node*; none if it is not there."""
    return node.exec(["sh", "-c", 'ls -1 "$0" 2>/dev/null || true', path]).split()


@contextmanager
def damaged(node: Node, uid: str) -> Iterator[None]:
    """Make the image of the pod's container unusable for the ``with`` block, then whole again.

    Its process tree's description is cut off, as by a disk that lost a block.
    """
    file = image(uid) / "pstree.img"
    node.exec(["sh", "-ec", 'cp -p "$0" "$1"; truncate -s 12 "$0"', file, f"{BACKUP}-{uid}"])
    try:
        yield
    finally:
        node.exec(
            [
                *("sh", "-ec"),
                '[ ! -e "$0" ] || cp -p "$1" "$0"; rm "$1"',
                *(file, f"{BACKUP}-{uid}"),
            ]
        )


@contextmanager
def small_disk_for(node: Node, uid: str, *, kibibytes: int) -> Iterator[None]:
    """Put a file system of *kibibytes* below one pod's images, so that its dump runs out of space.

    The disk as a whole has enough, which is what the keeper looks at before it begins.
    """
    directory = names.PODS / uid
    options = f"size={kibibytes}k,mode=0700"
    node.exec(
        [
            *("sh", "-ec"),
            'mkdir -p -m 0700 "$0"; mount -t tmpfs -o "$1" tmpfs "$0"',
            *(directory, options),
        ]
    )
    try:
        yield
    finally:
        # What was below it, if nothing: no keeper would know whose it is.
        node.exec(["sh", "-ec", 'umount --lazy "$0"; rmdir "$0" 2>/dev/null || true', directory])


@contextmanager
def full_disk(node: Node, *, free_mebibytes: int) -> Iterator[None]:
    """Let the disk of the node's images have *free_mebibytes* left, for the ``with`` block.

    A small file system is laid over the state directory, with the same images in it by a bind
    mount: pods that sleep there wake as ever.
    """
    prepare = f"""
        mkdir -p {SMALL}
        mount -t tmpfs -o size={free_mebibytes}m,mode=0700 tmpfs {SMALL}
        cp -p {names.STANDIN_CERTIFICATE} {SMALL}/ 2>/dev/null || true
        mkdir -m 0700 {SMALL}/{names.PODS.name}
        mount --bind {names.PODS} {SMALL}/{names.PODS.name}
        mount --rbind {SMALL} {names.STATE}
    """
    node.exec(["sh", "-ec", prepare])
    try:
        yield
    finally:
        undo = f"""
            umount --lazy --recursive {names.STATE}
            umount --lazy --recursive {SMALL}
            rmdir {SMALL}
        """
        node.exec(["sh", "-ec", undo])
