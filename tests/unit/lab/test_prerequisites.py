from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab import cgroups, errors, packages, prerequisites
from lab.packages import Package
from lab.prerequisites import GIB
from lab.progress import Progress
from lab.settings import Settings


def program(directory: Path, name: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n")
    (directory / name).chmod(0o755)


def test_a_program_counts_from_wherever_it_comes(tmp_path: Path) -> None:
    wanted = [Package(name="golang-go", why="helm", program="some-go")]
    assert packages.missing(wanted, {"PATH": str(tmp_path)}) == wanted
    program(tmp_path, "some-go")
    assert packages.missing(wanted, {"PATH": str(tmp_path)}) == []


def test_what_is_missing_is_said_with_its_reason() -> None:
    lacking = [Package(name="a", why="this", program="a"), Package(name="b", why="that", file="/b")]
    assert packages.describe(lacking) == "a (this), b (that)"


class Apt:
    """Stands for dpkg and apt-get; an installation makes the program, as long as it works."""

    def __init__(self, target: Path, *, is_update_broken: bool = False) -> None:
        self.target = target
        self.is_update_broken = is_update_broken
        self.ran: list[Sequence[str]] = []

    def __call__(self, argv: Sequence[str]) -> None:
        self.ran.append(argv)
        if "update" in argv and self.is_update_broken:
            raise errors.CommandFailed("no Release file")
        if "install" in argv:
            program(self.target, argv[-1])


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("is_update_broken", [False, True])
def test_only_what_is_missing_is_installed(tmp_path: Path, is_update_broken: bool) -> None:
    program(tmp_path, "lab-here")
    apt = Apt(tmp_path, is_update_broken=is_update_broken)
    stream = io.StringIO()
    packages.provide(
        [
            Package(name="lab-here", why="x", program="lab-here"),
            Package(name="lab-away", why="some reason", program="lab-away"),
        ],
        progress=Progress(stream),
        environ={"PATH": str(tmp_path)},
        run=apt,
    )
    # An interrupted installation is completed before the next.
    assert apt.ran[0] == ["dpkg", "--configure", "-a"]
    assert apt.ran[-1][-1] == "lab-away"
    assert "lab-here" not in apt.ran[-1]
    assert "missing: lab-away (some reason)" in stream.getvalue()
    packages.provide(
        [Package(name="lab-away", why="x", program="lab-away")],
        progress=Progress(stream),
        environ={"PATH": str(tmp_path)},
        run=apt,
    )
    assert len(apt.ran) == 3


@pytest.mark.usefixtures("root")
def test_an_installation_that_changes_nothing_is_an_error(tmp_path: Path) -> None:
    wanted = [Package(name="lab-away", why="x", program="lab-away")]
    with pytest.raises(errors.LabError, match="missing after installation: lab-away"):
        packages.provide(
            wanted, progress=Progress(quiet=True), environ={}, run=Apt(tmp_path / "elsewhere")
        )


def test_who_is_not_root_learns_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    wanted = [Package(name="lab-away", why="x", program="lab-away")]
    with pytest.raises(errors.LabError, match="apt-get install --no-install-recommends lab-away"):
        packages.provide(wanted, progress=Progress(quiet=True), environ={})


def test_directories_on_one_disk_share_its_space() -> None:
    wanted = {Path("/cache"): 8 * GIB, Path("/state"): 6 * GIB, Path("/home"): 9 * GIB}

    def free(path: Path) -> tuple[int, int]:
        return (2, 10 * GIB) if path == Path("/home") else (1, 12 * GIB)

    (problem,) = prerequisites.disk(wanted, free=free)
    assert problem.what == "12.0 GiB free for /cache, /state; 14 GiB are needed"


def test_less_space_is_needed_when_everything_is_built(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path / "cache", state=tmp_path / "state")
    first = prerequisites.needs(settings, {"HOME": "/home/me"})
    (settings.cache / "kubernetes-1-0").mkdir(parents=True)
    (settings.cache / "node-root-1-0").mkdir()
    (settings.machines / "node1").mkdir(parents=True)
    later = prerequisites.needs(settings, {"HOME": "/home/me"})
    assert first.keys() == later.keys() == {settings.cache, Path("/home/me/.cache"), settings.state}
    assert all(later[path] < first[path] for path in first)


def test_memory_is_compared_with_what_a_build_takes() -> None:
    assert prerequisites.memory("MemTotal:        4026532 kB\n") == []
    (problem,) = prerequisites.memory("MemTotal:        2026532 kB\n")
    assert "1.9 GiB" in problem.what


def test_a_user_and_an_architecture_that_will_not_do_are_both_named() -> None:
    assert prerequisites.privilege(0, "aarch64") == []
    assert len(prerequisites.privilege(1000, "riscv64")) == 2


def hierarchy(version: int, options: str, mount: Path) -> cgroups.Hierarchy:
    return cgroups.Hierarchy(version=version, options=options, name="x", mount=mount, own=mount)


def test_controllers_are_looked_for_in_both_versions_of_cgroups(tmp_path: Path) -> None:
    first = [hierarchy(1, "cpu,cpuacct", tmp_path), hierarchy(1, "memory", tmp_path)]
    (problem,) = prerequisites.cgroup_controllers(first)
    assert problem.what == "cgroup v1 without pids"
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids\n")
    assert prerequisites.cgroup_controllers([hierarchy(2, "", tmp_path)]) == []
    (tmp_path / "cgroup.controllers").write_text("cpu io\n")
    (problem,) = prerequisites.cgroup_controllers([hierarchy(2, "", tmp_path)])
    assert problem.what == "cgroup v2 without memory, pids"


def test_everything_that_is_wrong_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(prerequisites, "MEMORY_BYTES", 1 << 60)
    monkeypatch.setattr(prerequisites, "SPARE_BYTES", 1 << 60)
    monkeypatch.setattr(prerequisites, "BUILT_BYTES", 1 << 60)
    settings = Settings(cache=tmp_path / "cache", state=tmp_path / "state")
    with pytest.raises(errors.LabError) as caught:
        prerequisites.ensure(settings, progress=Progress(quiet=True))
    said = str(caught.value)
    for part in ("not root", "of memory", "free for"):
        assert part in said
    assert not settings.state.exists()
