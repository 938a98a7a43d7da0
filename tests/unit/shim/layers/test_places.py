"""What config.json and mountinfo say about where files lie."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import NodeError, Rejected
from architect.shim.layers import places

UID = "6a1f-11"
KUBELET = "/var/lib/kubelet"
OVERLAY = (
    b"600 500 0:70 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/s/2/fs:/s/1/fs,"
    b"upperdir=/s/3/fs,workdir=/s/3/work,uuid=on,nouserxattr\n"
    b"601 600 0:71 / /proc rw,nosuid - proc proc rw\n"
)


def mount(source: str, destination: str = "/data", **others: Any) -> dict[str, Any]:
    found = {"type": "bind", "source": source, "destination": destination, "options": ["rbind"]}
    return {**found, **others}


def spec(*mounts: dict[str, Any]) -> dict[str, Any]:
    return {"mounts": list(mounts)}


def test_the_upper_directory_is_that_of_the_root() -> None:
    inner = (
        b"602 600 0:72 / /var/lib/x rw - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c\n"
    )
    assert places.upper_of_root(OVERLAY + inner) == Path("/s/3/fs")


@pytest.mark.parametrize(
    ("written", "path"),
    [
        (rb"/with\040blank\054comma", "/with blank,comma"),
        (rb"/back\134slash\012line", "/back\\slash\nline"),
        (b"/not-\xff-utf-8", os.fsdecode(b"/not-\xff-utf-8")),
    ],
)
def test_paths_in_mountinfo_are_unescaped(written: bytes, path: str) -> None:
    table = OVERLAY.replace(b"upperdir=/s/3/fs", b"upperdir=" + written)
    assert places.upper_of_root(table) == Path(path)


def test_the_mount_that_covers_another_counts() -> None:
    above = b"700 600 8:1 / / rw - ext4 /dev/sda1 rw\n"
    with pytest.raises(NodeError, match="ext4") as caught:
        places.upper_of_root(OVERLAY + above)
    assert caught.value.reason == "RootNotOverlay"
    assert places.upper_of_root(above + OVERLAY) == Path("/s/3/fs")


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"", "RootNotOverlay"),
        (b"700 600 8:1 / / rw - ext4 /dev/sda1 rw\n", "RootNotOverlay"),
        (b"garbage\n\n - \n", "RootNotOverlay"),
        (OVERLAY.replace(b",nouserxattr", b",userxattr"), "UserXattr"),
        (OVERLAY.replace(b"upperdir=/s/3/fs,workdir=/s/3/work,", b""), "NoUpperDirectory"),
    ],
)
def test_other_roots_are_refused_by_name(table: bytes, reason: str) -> None:
    with pytest.raises(NodeError) as caught:
        places.upper_of_root(table)
    assert caught.value.reason == reason


def test_this_process_has_no_overlay_or_one_that_is_there() -> None:
    try:
        assert places.upper_directory(os.getpid()).is_dir()
    except NodeError as error:
        assert error.reason in ("RootNotOverlay", "NoUpperDirectory", "UserXattr")


def test_a_process_that_is_gone_is_named() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(NodeError) as zombie:
            places.upper_directory(child.pid)
    with pytest.raises(NodeError) as gone:
        places.upper_directory(child.pid)
    assert (zombie.value.reason, gone.value.reason) == ("ContainerGone", "ContainerGone")


@pytest.mark.parametrize("root", [KUBELET, "/data/k8s", "/mnt/pods/of/kubelet"])
def test_empty_directories_are_found_wherever_kubelet_lives(root: str) -> None:
    pod = f"{root}/pods/{UID}"
    found = places.volumes(
        spec(
            mount(f"{pod}/volumes/kubernetes.io~empty-dir/scratch"),
            mount(f"{pod}/volumes/kubernetes.io~empty-dir/cache/", "/cache"),
            mount(f"{pod}/volumes/kubernetes.io~projected/kube-api-access", "/var/run/secrets"),
            mount(f"{pod}/volumes/kubernetes.io~configmap/settings", "/settings"),
            mount(f"{pod}/etc-hosts", "/etc/hosts"),
            mount("/srv/data", "/host"),
            {"type": "tmpfs", "source": "tmpfs", "destination": "/run"},
        ),
        UID,
    )
    base = Path(pod, "volumes/kubernetes.io~empty-dir")
    assert found == {"scratch": base / "scratch", "cache": base / "cache"}


def test_anothers_volumes_are_not_ours() -> None:
    other = f"{KUBELET}/pods/{UID}0/volumes/kubernetes.io~empty-dir/scratch"
    pattern = f"{KUBELET}/pods/6a1fx11/volumes/kubernetes.io~empty-dir/scratch"
    out = f"{KUBELET}/pods/{UID}/volumes/kubernetes.io~empty-dir/../../../other"
    assert places.volumes(spec(mount(other), mount(pattern), mount(out)), UID) == {}
    assert places.volumes(spec(mount(pattern)), "6a1f.11") == {}


def test_a_sub_path_counts_if_its_volume_is_an_empty_directory() -> None:
    pod = f"{KUBELET}/pods/{UID}"
    mounts = spec(
        mount(f"{pod}/volume-subpaths/scratch/app/0"),
        mount(f"{pod}/volume-subpaths/disk/app/1", "/disk"),
    )
    scratch = Path(pod, "volumes/kubernetes.io~empty-dir/scratch")
    assert places.volumes(mounts, UID, is_directory=lambda path: path == scratch) == {
        "scratch": scratch
    }


def test_shared_memory_is_the_sandboxs() -> None:
    sandbox = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/abc/shm"
    assert places.shared_memory(spec(mount(sandbox, "/dev/shm")), UID) == Path(sandbox)


@pytest.mark.parametrize(
    "mounts",
    [
        [],
        [mount("shm", "/dev/shm", type="tmpfs", options=["nosuid"])],
        [mount(f"{KUBELET}/pods/{UID}/volumes/kubernetes.io~empty-dir/m", "/dev/shm")],
        [mount("/sandbox/shm", "/dev/shm"), mount("shm", "/dev/shm/", type="tmpfs", options=[])],
    ],
)
def test_other_shared_memory_is_not_the_sandboxs(mounts: list[dict[str, Any]]) -> None:
    assert places.shared_memory(spec(*mounts), UID) is None


def test_the_nodes_shared_memory_does_not_travel() -> None:
    with pytest.raises(Rejected) as caught:
        places.shared_memory(spec(mount("/dev/shm/", "/dev/shm")), UID)
    assert caught.value.reason == "HostIpc"


def test_the_name_of_a_mount_point_is_no_end_of_a_line() -> None:
    root = b"36 35 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n"
    mounted = b"40 36 8:1 / /\rdata rw - ext4 /dev/sda1 rw\n"
    assert places.upper_of_root(root + mounted) == Path("/u")


def test_mounts_are_read_with_what_makes_them_read_only() -> None:
    table = (
        OVERLAY
        + b"602 600 8:1 /a /with\\040blank ro,relatime master:1 - ext4 /dev/sda1 rw,discard\n"
        + b"603 600 0:9 / /image rw - erofs none ro\n"
        + b"cut short\n"
    )
    assert [(m.point, m.kind, m.is_read_only) for m in places.mounts(table)] == [
        ("/", "overlay", False),
        ("/proc", "proc", False),
        ("/with blank", "ext4", True),
        ("/image", "erofs", True),
    ]


@pytest.mark.parametrize(
    ("path", "at"),
    [
        ("/", 0),
        ("/a", 0),
        ("/data", 2),
        ("/data/x", 2),
        ("/data2", 0),
        ("/data/in/x", 3),
        ("x", None),
    ],
)
def test_a_path_is_looked_for_on_the_innermost_mount(path: str, at: int | None) -> None:
    points = ["/", "/data", "/data", "/data/in"]
    table = [
        places.Mounted(point=point, kind=str(n), is_read_only=False)
        for n, point in enumerate(points)
    ]
    found = places.mount_of(path, table)
    assert (None if found is None else int(found.kind)) == at
