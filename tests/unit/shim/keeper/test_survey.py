"""What is asked of a container's files, and what is not."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from pathlib import Path

import pytest

from architect.shim.inspection.facts import Descriptor
from architect.shim.keeper import survey

IN_CREATE = 0x100  # <sys/inotify.h>


def of_own(fd: int, file_system: str) -> Descriptor:
    """Return what is said of our descriptor *fd*, were all that is mounted of that kind."""
    mounted = survey.mounts(os.getpid())
    table = {number: replace(each, file_system=file_system) for number, each in mounted.items()}
    told = survey._descriptors(Path("/proc/self"), table, survey.Budget())
    (found,) = [each for each in told if each.number == fd]
    return found


@pytest.mark.parametrize("file_system", ["nfs4", "fuse.sshfs", "cifs", "ceph"])
def test_of_a_file_on_somebody_elses_server_only_the_name_is_known(
    tmp_path: Path, file_system: str
) -> None:
    """A server that is away would have the look wait, and end without an answer."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 65536)
    with path.open() as file:
        near, far = of_own(file.fileno(), "ext4"), of_own(file.fileno(), file_system)
    assert near.size_bytes > 0
    assert (far.kind, far.target, far.mount) == ("file", str(path), near.mount)
    assert far.size_bytes == 0, "it was asked for"


def test_what_is_no_file_is_told_as_ever() -> None:
    reader, writer = os.pipe()
    try:
        assert of_own(reader, "nfs").kind == "pipe"
    finally:
        os.close(reader)
        os.close(writer)


def test_what_is_watched_is_told_by_device_and_inode(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(watch, bytes(tmp_path), IN_CREATE) > 0
        found = of_own(watch, "ext4")
    finally:
        os.close(watch)
    seen = tmp_path.stat()
    device = os.major(seen.st_dev), os.minor(seen.st_dev)
    assert found.watched_files == {(device, seen.st_ino)}
    assert found.watched == {device}
