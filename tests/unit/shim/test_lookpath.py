from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from architect.shim.lookpath import Tree, is_found

PATH = ["PATH=/usr/bin:/bin"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    for name in ("usr/bin/app", "opt/own"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("#!")
        (root / name).chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/absolute").symlink_to("/opt/own")
    (root / "usr/bin/relative").symlink_to("../../opt/./own")
    (root / "usr/bin/escape").symlink_to("../../../../../../opt/own")
    (root / "usr/bin/outside").symlink_to(tmp_path / "host")
    (root / "usr/bin/loop").symlink_to("loop")
    (root / "usr/bin/data").write_text("")
    (root / "usr/bin/directory").mkdir()
    (tmp_path / "host").write_text("#!")
    (tmp_path / "host").chmod(0o755)
    return root


def found(root: Path, name: str, mounts: list[dict[str, Any]] | None = None, **more: Any) -> bool:
    process = {"args": [name], "cwd": "/", "env": PATH, **more}
    return is_found(Tree(root, mounts or []), process)


@pytest.mark.parametrize(
    "name", ["app", "/usr/bin/app", "/bin/app", "absolute", "relative", "escape", "usr/bin/app"]
)
def test_what_the_container_can_run_is_found(root: Path, name: str) -> None:
    assert found(root, name)


@pytest.mark.parametrize("name", ["nothing", "/nothing", "outside", "loop", "data", "directory"])
def test_what_it_cannot_run_is_not(root: Path, name: str) -> None:
    assert not found(root, name)


def test_a_relative_path_begins_at_the_working_directory(root: Path) -> None:
    assert found(root, "./own", cwd="/opt")
    assert not found(root, "./own")


def test_without_a_path_nothing_is_searched(root: Path) -> None:
    assert not found(root, "app", env=[])
    assert found(root, "/bin/app", env=[])


def test_a_volume_is_part_of_the_tree_also_below_a_tmpfs(root: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "tool").write_text("#!")
    (volume / "tool").chmod(0o755)
    bind: dict[str, Any] = {"type": "bind", "source": str(volume), "options": ["rbind"]}
    for destination in ("/data", "/new/deep/data", "/tmp/data", "/usr/bin"):
        mounts = [
            {"destination": "/tmp", "type": "tmpfs"},
            {**bind, "destination": destination},
        ]
        assert found(root, f"{destination}/tool", mounts)
    assert not found(root, "app", [{**bind, "destination": "/usr/bin"}])
    file = {**bind, "source": str(volume / "tool"), "destination": "/usr/bin/data"}
    assert found(root, "data", [file])
    assert not found(root, "own", [{"destination": "/opt", "type": "tmpfs"}], cwd="/opt")


@pytest.mark.parametrize(
    ("mode", "user", "expected"),
    [
        (0o700, {"uid": 1000}, False),
        (0o711, {"uid": 1000}, True),
        (0o610, {"uid": 1000, "gid": 0}, True),
        (0o610, {"uid": 1000, "gid": 5, "additionalGids": [0]}, True),
        (0o610, {"uid": 1000, "gid": 5}, False),
        (0o010, {"uid": 0}, True),
        (0o644, {"uid": 0}, False),
    ],
)
def test_the_user_must_be_allowed(
    root: Path, mode: int, user: dict[str, Any], expected: bool
) -> None:
    file = root / "usr/bin/app"
    file.chmod(mode)
    status = file.stat()
    # The files belong to whoever runs the tests; the cases are written for root.
    if (status.st_uid, status.st_gid) == (0, 0):
        assert found(root, "app", user=user) is expected
    else:
        assert found(root, "app", user={"uid": status.st_uid}) is bool(mode & 0o100)
