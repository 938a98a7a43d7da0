"""Open files go on with the disk that they are on, which has another number on another node."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.mover import Mover
from support.runtime import Container, Host, eventually, python

PROGRAM = Path(__file__).parents[2] / "support" / "apps" / "openfiles.py"
SIZE_BYTES = 32 << 20
NODE_PATH = "/var/lib/disk"
"""Where the node has it, in the tests' own mount namespace."""
POD_PATH = "/mnt"
MOUNT = {"destination": POD_PATH, "type": "bind", "source": NODE_PATH, "options": ["rbind", "rw"]}


class Disk:
    """An ext4 file system in a file, by a loop device that is free once nothing has it mounted."""

    def __init__(self, host: Host, directory: Path) -> None:
        self._host = host
        self._image = directory / "image"
        self._spares = ExitStack()
        with self._image.open("wb") as stream:
            stream.truncate(SIZE_BYTES)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", self._image], check=True)
        host.call("mkdir", NODE_PATH)

    def mount(self) -> int:
        """Return the number of its device."""
        self._host.call("mount", "-o", "loop", self._image, NODE_PATH)
        return int(self._host.call("stat", "-c", "%d", NODE_PATH).stdout)

    def mount_apart_from(self, number: int) -> int:
        """Mount it by another device than that of *number*."""
        while (found := self.mount()) == number:
            self.unmount()
            self._take_one()
        return found

    def unmount(self) -> None:
        """Unmount it, and wait until nothing on the node has it any more."""
        self._host.call("umount", NODE_PATH)
        asked = ["losetup", "--associated", str(self._image)]
        eventually(
            lambda: not subprocess.run(asked, check=True, capture_output=True).stdout,
            what="nothing has the disk any more",
        )

    def names(self) -> set[str]:
        return set(self._host.call("ls", "-A", NODE_PATH).stdout.split())

    def close(self) -> None:
        self._host.call("umount", NODE_PATH, check=False)
        self._spares.close()

    def _take_one(self) -> None:
        """Have a device in use."""
        file = self._image.with_name("spare")
        file.touch()
        words = ["losetup", "--find", "--show", str(file)]
        device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        # Detached while it is open it goes with whoever has it open, killed or not.
        self._spares.callback(os.close, os.open(device, os.O_RDONLY | os.O_CLOEXEC))
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def disk(mover: Mover, tmp_path: Path) -> Iterator[Disk]:
    made = Disk(mover.host, tmp_path)
    yield made
    mover.close()
    made.close()


def rounds(container: Container) -> list[dict[str, Any]]:
    lines = container.output().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_files_are_open_after_a_move_with_their_disk(mover: Mover, disk: Disk) -> None:
    words = [*python(PROGRAM.read_text()), POD_PATH]
    here = disk.mount()
    old = mover.pod("uid-a", words, mounts=[MOUNT]).start()
    old.until('"count": 3')
    mover.leave(old)
    # Without the pod: no init, keeper or image has anything open there.
    disk.unmount()
    assert disk.mount_apart_from(here) != here
    names = disk.names()
    # What has lost its name, but has another one, is given one until the pod goes on.
    assert len({name for name in names if name.startswith("link_remap.")}) == 1
    mover.bring("uid-a", to="uid-b")
    new = mover.pod("uid-b", words, mounts=[MOUNT]).start()
    eventually(lambda: len(rounds(new)) > 3, what="output of the successor")
    before, after = rounds(old), rounds(new)
    assert after[0]["count"] == before[-1]["count"] + 1
    for told in (*before, *after):
        del told["count"]
        assert all(told.values()), told
    assert disk.names() == {name for name in names if not name.startswith("link_remap.")}
