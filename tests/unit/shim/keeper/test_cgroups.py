"""What the keeper reads of a container's cgroup."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from architect.core.errors import NodeError
from architect.shim.keeper import cgroups, paused


def test_members_of_a_cgroup_that_is_gone_are_none(tmp_path: Path) -> None:
    assert cgroups.members({"": tmp_path / "gone"}) == []


def test_members_of_a_cgroup_that_is_removed_while_it_is_read_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_the_kernel(path: Path) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(path))

    monkeypatch.setattr(Path, "read_bytes", as_the_kernel)
    assert cgroups.members({"": tmp_path}) == []


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.ESRCH])
def test_a_cgroup_that_goes_while_it_is_asked_uses_nothing_and_is_not_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def as_the_kernel(path: Path) -> bytes:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "read_bytes", as_the_kernel)
    nothing = cgroups.Usage(cpu_seconds=0.0, memory_bytes=0, processes=0)
    for directories in (
        {"": tmp_path},
        dict.fromkeys(("cpuacct", "memory", "pids", "freezer"), tmp_path),
    ):
        assert cgroups.usage(directories) == nothing
        assert cgroups.own_memory_bytes(directories) == 0
        assert not paused.is_paused(directories)


def test_what_is_wrong_with_a_cgroup_besides_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_the_kernel(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", as_the_kernel)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        cgroups.usage({"": tmp_path})


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_the_cgroups_of_a_process_that_has_ended_are_not_the_nodes(is_waited_for: bool) -> None:
    """In version 1 the kernel says ``/`` of one that nobody has waited for."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    if is_waited_for:
        child.wait()
    with pytest.raises(NodeError) as caught:
        cgroups.of_process(child.pid)
    assert caught.value.reason == "ContainerGone"
    child.wait()


def test_the_cgroups_of_a_process_that_lives() -> None:
    assert all(path.is_absolute() for path in cgroups.of_process(os.getpid()).values())


def test_members_of_a_threaded_cgroup_are_the_processes_of_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes

    def as_the_kernel(path: Path) -> bytes:
        if path.name == "cgroup.procs":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", as_the_kernel)
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        beyond_the_last = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
        listed = (os.getpid(), thread.native_id, beyond_the_last)
        (tmp_path / "cgroup.threads").write_text("".join(f"{tid}\n" for tid in listed))
        assert cgroups.members({"": tmp_path}) == [os.getpid()]
    finally:
        ended.set()
        thread.join()


def test_usage_of_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("1\n2\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (tmp_path / "memory.current").write_text("4096\n")
    expected = cgroups.Usage(cpu_seconds=2.5, memory_bytes=4096, processes=2)
    assert cgroups.usage({"": tmp_path}) == expected


def test_memory_of_no_file_in_version_2(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 9000\nshmem 200\nanon_thp 5\n")
    (tmp_path / "memory.swap.current").write_text("30\n")
    assert cgroups.own_memory_bytes({"": tmp_path}) == 1230


def test_memory_of_no_file_in_version_1_counts_cgroups_below(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text(
        "cache 9000\nrss 1\nshmem 1\nswap 1\ntotal_cache 9\ntotal_rss 100\ntotal_shmem 20\n"
        "total_swap 3\n"
    )
    assert cgroups.own_memory_bytes({"memory": tmp_path, "": tmp_path / "gone"}) == 123


def test_memory_of_a_cgroup_that_is_gone_is_none(tmp_path: Path) -> None:
    assert cgroups.own_memory_bytes({"": tmp_path / "gone"}) == 0
    assert cgroups.own_memory_bytes({"memory": tmp_path / "gone"}) == 0
    assert cgroups.own_memory_bytes({}) == 0
