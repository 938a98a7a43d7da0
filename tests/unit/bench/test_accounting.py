"""Memory and processor time from the texts of /proc and of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import accounting
from bench.accounting import Memory, Process, ProcTable
from bench.errors import BenchError

ROLLUP = """\
00400000-7ffd1000 ---p 00000000 00:00 0                                  [rollup]
Rss:                1236 kB
Pss:                 800 kB
Pss_Dirty:           120 kB
Shared_Clean:        800 kB
Private_Clean:       300 kB
Private_Dirty:       136 kB
Private_Hugetlb:       0 kB
"""
STAT = "77 (a (b) c) S 12 77 77 0 -1 4194560 2306 0 13 0 4 1 20 3 25 5 2 0 74356 97325056 3673"


def process(pid: int, parent: int) -> Process:
    return Process(pid=pid, parent=parent, command="x", cgroups="")


def test_private_memory_is_clean_and_dirty_together() -> None:
    assert accounting.memory_of(ROLLUP) == Memory(
        private=436 * 1024, proportional=800 * 1024, resident=1236 * 1024
    )


def test_a_text_that_is_no_rollup_is_refused() -> None:
    with pytest.raises(BenchError, match="Private_Clean"):
        accounting.memory_of("Rss: 1 kB\n")


def test_memory_adds_up() -> None:
    one = Memory(private=1, proportional=2, resident=3)
    assert one + one == Memory(private=2, proportional=4, resident=6)


def test_a_command_with_parentheses_does_not_shift_the_fields() -> None:
    assert accounting.parent_of(STAT) == 12
    assert accounting.ticks_of(STAT) == 4 + 1 + 20 + 3


def test_a_family_is_its_top_and_all_below_it() -> None:
    table = [process(5, 4), process(2, 1), process(4, 2), process(3, 1), process(1, 0)]
    assert sorted(p.pid for p in accounting.descendants(table, 2)) == [2, 4, 5]
    assert accounting.descendants(table, 99) == []


def test_processor_time_is_read_from_both_versions_of_cgroups() -> None:
    assert accounting.cpu_seconds({"cpuacct.usage": "1500000000\n"}) == 1.5
    assert accounting.cpu_seconds({"cpu.stat": "usage_usec 2500000\nuser_usec 1\n"}) == 2.5
    with pytest.raises(BenchError, match="no processor time"):
        accounting.cpu_seconds({"cpu.stat": "nr_periods 0\n"})


def test_a_containers_cgroup_is_found_where_processor_time_is_counted(tmp_path: Path) -> None:
    wanted = tmp_path / "cpuacct" / "kubepods" / "pod1" / "abc123"
    other = tmp_path / "cpu" / "kubepods" / "pod1" / "abc123"
    other.mkdir(parents=True)
    # Version 1 has a file of this name in its other hierarchy, with other things in it.
    (other / "cpu.stat").write_text("nr_periods 0\nnr_throttled 0\n")
    wanted.mkdir(parents=True)
    (wanted / "cpuacct.usage").write_text("2000000000\n")
    found = accounting.cpu_cgroup(tmp_path, "abc123")
    assert found == wanted
    assert accounting.read_cpu_seconds(found) == 2
    with pytest.raises(BenchError, match="zzz"):
        accounting.cpu_cgroup(tmp_path, "zzz")


def test_a_process_that_ends_while_the_table_is_read_is_left_out(tmp_path: Path) -> None:
    living = tmp_path / "77"
    living.mkdir()
    for name, text in (("stat", STAT), ("cmdline", "a\0b\0"), ("cgroup", "0::/x\n")):
        (living / name).write_text(text)
    (living / "smaps_rollup").write_text(ROLLUP)
    (tmp_path / "78").mkdir()
    (tmp_path / "self").mkdir()
    table = ProcTable(tmp_path)
    (found,) = table.processes()
    assert (found.pid, found.parent, found.command) == (77, 12, "a b ")
    gone = process(78, 1)
    assert table.memory([found, gone]) == accounting.memory_of(ROLLUP)
    assert table.cpu_seconds([found, gone]) == 28 / accounting.TICKS_PER_SECOND


def test_a_peak_is_of_one_process_and_since_the_last_look(tmp_path: Path) -> None:
    process = tmp_path / "7"
    process.mkdir()
    (process / "stat").write_text("7 (python3) S 1 0")
    (process / "cmdline").write_bytes(b"python3\0-m\0architect.daemon\0")
    (process / "cgroup").write_text("")
    (process / "status").write_text("Name:\tpython3\nVmHWM:\t   1000 kB\nVmRSS:\t   10 kB\n")
    peak = accounting.Peak(tmp_path, "architect.daemon")
    (process / "clear_refs").write_text("")
    assert peak.take() == 1000 * 1024
    assert (process / "clear_refs").read_text() == "5"
    with pytest.raises(BenchError, match=r"0 processes run 'architect\.keeper'"):
        accounting.Peak(tmp_path, "architect.keeper")
