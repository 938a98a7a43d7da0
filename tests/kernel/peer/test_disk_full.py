"""A checkpoint that arrives on a disk which fills up meanwhile: a small tmpfs of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.checkpoint.manifest import Manifest
from architect.core.errors import NodeError
from architect.daemon.checkpoint import contents
from architect.daemon.peer.client import Fetcher
from architect.daemon.peer.server import PeerServer
from support.checkpointdirs import fill
from support.disks import free, small_disk
from support.issuer import Issuer

ID = "web-1234"
SIZE = 24 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mebibytes=32) as path:
        yield path


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[Fetcher]:
    fill(tmp_path / "a" / ID, files={"app/image/pages-1.img": os.urandom(SIZE)})
    issuer = Issuer()
    theirs, mine = issuer.credentials("node-a"), issuer.credentials("node-b")
    server = PeerServer(
        credentials=lambda: theirs,
        locate=lambda name: tmp_path / "a" / name,
        may_read=lambda *_: True,
    )
    server.start("127.0.0.1:0", data_address="127.0.0.1:0")
    yield Fetcher(credentials=lambda: mine, address_of=lambda _: f"127.0.0.1:{server.port}")
    server.stop(grace_seconds=0)


def test_a_disk_that_has_no_room_is_named_at_once(disk: Path, fetcher: Fetcher) -> None:
    (disk / "other").write_bytes(bytes(16 << 20))
    before = free(disk)
    with pytest.raises(NodeError) as caught:
        fetcher.fetch("node-a", ID, disk / "b" / ID)
    assert caught.value.reason == "DiskFull"
    assert list((disk / "b").iterdir()) == []
    assert free(disk) == pytest.approx(before, abs=1 << 16)


def test_a_disk_that_fills_up_meanwhile_is_named_and_given_back(
    disk: Path, fetcher: Fetcher
) -> None:
    before = free(disk)

    def accept(_: Manifest) -> None:
        """Another writer takes the room after it was looked at: between two statements of ours."""
        real = os.statvfs

        def fill_up(path: Path) -> os.statvfs_result:
            info = real(path)
            (disk / "other").write_bytes(bytes(16 << 20))
            return info

        patched.setattr(os, "statvfs", fill_up)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(NodeError) as caught:
        fetcher.fetch("node-a", ID, disk / "b" / ID, accept=accept)
    assert caught.value.reason == "DiskFull"
    assert "No space left on device" in str(caught.value)
    assert list((disk / "b").iterdir()) == []
    (disk / "other").unlink()
    assert free(disk) == pytest.approx(before, abs=1 << 16)
    fetched = fetcher.fetch("node-a", ID, disk / "b" / ID)
    contents.verify(disk / "b" / ID, fetched.manifest)
