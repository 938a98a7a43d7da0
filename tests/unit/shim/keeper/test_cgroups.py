"""What the keeper reads of a container's cgroup."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from architect.shim.keeper import cgroups


def test_members_of_a_cgroup_that_is_gone_are_none(tmp_path: Path) -> None:
    assert cgroups.members({"": tmp_path / "gone"}) == []


def test_members_of_a_cgroup_that_is_removed_while_it_is_read_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_the_kernel(path: Path) -> str:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(path))

    monkeypatch.setattr(Path, "read_text", as_the_kernel)
    assert cgroups.members({"": tmp_path}) == []


def test_members_of_a_threaded_cgroup_are_the_processes_of_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_text = Path.read_text

    def as_the_kernel(path: Path) -> str:
        if path.name == "cgroup.procs":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(path))
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", as_the_kernel)
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        beyond_the_last = int(read_text(Path("/proc/sys/kernel/pid_max"))) + 1
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
