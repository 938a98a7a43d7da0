"""The line of conditions."""

from __future__ import annotations

from bench import conditions
from bench.conditions import Host, Load


def test_the_line_says_what_is_particular_before_what_is_common() -> None:
    host = Host(
        kernel="6.18",
        cgroup_version=1,
        cores=2,
        memory_gib=23.6,
        huge_pages="madvise",
        versions={"runc": "1.3.6", "CRIU": "4.2.1"},
    )
    said = conditions.line(host, Load(), notes=("warm page cache", "64 MiB"))
    assert said.startswith("warm page cache; 64 MiB; load average ")
    assert said.endswith(
        "Linux 6.18, cgroup v1, 2 cores, 24 GiB, huge pages madvise; runc 1.3.6, CRIU 4.2.1"
    )


def test_settings_and_versions_are_read_out_of_their_texts() -> None:
    assert conditions.chosen("always [madvise] never\n") == "madvise"
    assert conditions.chosen("always\n") == "always"
    assert conditions.total_memory_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n") == 2 << 20
    assert conditions.total_memory_bytes("") == 0
    assert conditions.version_word("runc version 1.3.6+ds1\ncommit: 1") == "1.3.6+ds1"
    assert conditions.version_word("Version: 4.2.1\n") == "4.2.1"
    assert conditions.version_word("unknown\n") == "unknown"
