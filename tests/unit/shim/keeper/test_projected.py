"""Paths in kubelet's dated directories are those of the new pod; all others stay."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from architect.shim.keeper import projected
from architect.shim.layers import places
from architect.shim.packets import protobuf
from architect.shim.packets.protobuf import BYTES, VARINT

MAGICS = struct.pack("=II", 0x54564319, 0x56303138)
OLD, NEW = "..2026_11_30_14_05_06.123", "..2026_11_30_15_00_00.4567890"


def nested(text: str, *numbers: int) -> bytes:
    """Return a message in which *text* stands below the fields *numbers*, between others."""
    value = text.encode()
    for number in reversed(numbers):
        value = protobuf.message([(1 << 3 | VARINT, 7), (number << 3 | BYTES, value), (99 << 3, 1)])
    return value


def image(directory: Path, *entries: bytes) -> list[bytes]:
    framed = b"".join(struct.pack("=I", len(entry)) + entry for entry in entries)
    (directory / "files.img").write_bytes(MAGICS + framed)
    return list(entries)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume as kubelet writes it."""
    made = tmp_path / "volume"
    (made / NEW).mkdir(parents=True)
    (made / "..data").symlink_to(NEW)
    return made


@pytest.mark.parametrize("numbers", [(3, 6), (13, 5, 7, 4), (14, 6, 7, 2, 4)])
@pytest.mark.parametrize("rest", ["", "/run.sh", "/with a blank/ä"])
def test_files_and_watches_follow_their_volume(
    tmp_path: Path, volume: Path, numbers: tuple[int, ...], rest: str
) -> None:
    other = nested(f"/elsewhere/{OLD}{rest}", *numbers)
    image(tmp_path, other, nested(f"/config/{OLD}{rest}", *numbers), other)
    assert projected.rename(tmp_path, {"/config": volume}) == 1
    expected = [other, nested(f"/config/{NEW}{rest}", *numbers), other]
    assert list(protobuf.entries(tmp_path / "files.img")) == expected
    assert projected.rename(tmp_path, {"/config": volume}) == 0, "once is enough"


@pytest.mark.parametrize(
    "name",
    [
        "/config",
        "/config/..data/run.sh",
        f"/config2/{OLD}/run.sh",
        f"/config/sub/{OLD}/run.sh",
        f"/config/{OLD}x/run.sh",
        f"/config/{NEW}/run.sh",
        "/config/..2026/run.sh",
        f"config/{OLD}/run.sh",
    ],
)
def test_other_paths_stay(tmp_path: Path, volume: Path, name: str) -> None:
    entries = image(tmp_path, nested(name, 3, 6))
    assert projected.rename(tmp_path, {"/config": volume}) == 0
    assert list(protobuf.entries(tmp_path / "files.img")) == entries


def test_what_is_still_there_stays(volume: Path) -> None:
    (volume / OLD).mkdir()
    assert projected.name_now(f"/c/{OLD}/f", {"/c": volume}) == f"/c/{OLD}/f"


@pytest.mark.parametrize("leads_to", [None, "../../etc", "/etc", "here"])
def test_a_link_that_is_not_kubelets_leads_nowhere(volume: Path, leads_to: str | None) -> None:
    (volume / "..data").unlink()
    if leads_to is not None:
        (volume / "..data").symlink_to(leads_to)
    assert projected.name_now(f"/c/{OLD}/f", {"/c": volume}) == f"/c/{OLD}/f"


def test_of_nested_mounts_the_inner_one_counts(tmp_path: Path, volume: Path) -> None:
    volumes = {"/c": tmp_path / "none", "/c/inner": volume}
    assert projected.name_now(f"/c/inner/{OLD}/f", volumes) == f"/c/inner/{NEW}/f"


MOUNTS = r"""
600 500 0:70 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
601 600 0:71 / /proc rw - proc proc rw
602 600 0:72 / /dev rw - tmpfs tmpfs rw,mode=755
603 600 8:1 /lib/kubelet/pods/uid/volumes/kubernetes.io~configmap/a /a\040b ro - ext4 /dev/sda1 rw
604 600 0:73 / /run/secrets/kubernetes.io/serviceaccount ro - tmpfs tmpfs rw,size=1k
605 600 8:2 /kubelet/pods/uid/volumes/kubernetes.io~downward-api/b /b ro master:1 - xfs /dev/sdb rw
606 600 8:2 /pods/uid/volumes/kubernetes.io~projected/c /c ro - xfs /dev/sdb rw
607 600 8:2 /pods/uid/volumes/kubernetes.io~secret/d /d ro - xfs /dev/sdb rw
608 600 8:2 /pods/uid/volumes/kubernetes.io~empty-dir/e /e rw - xfs /dev/sdb rw
609 600 8:2 /pods/uid/volumes/kubernetes.io~configmap/f/..2026/f /f ro - xfs /dev/sdb rw
610 600 8:2 /pods/other/volumes/kubernetes.io~configmap/g /g ro - xfs /dev/sdb rw
611 600 0:74 / /h rw - nfs4 server:/pods/uid/volumes/kubernetes.io~configmap/h rw
"""


def test_only_kubelets_own_volumes_of_this_pod_count() -> None:
    assert places.projections(MOUNTS.encode(), "uid") == [
        *("/dev", "/a b", "/run/secrets/kubernetes.io/serviceaccount", "/b", "/c", "/d")
    ]
