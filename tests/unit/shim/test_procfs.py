"""What the kernel says of a process, whatever it calls itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from architect.shim import procfs
from architect.shim.keeper import processes, tracers

NAMED = """
import sys
open("/proc/self/comm", "wb").write(bytes.fromhex(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def named(name: bytes) -> Iterator[int]:
    """Have a process that calls itself *name*, and yield its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", NAMED, name.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


@pytest.mark.parametrize(
    "name",
    [
        b"nginx",
        "日本語の名".encode()[:14],  # as it is cut by whoever sets it
        b"\xff\xfe",
        b"\x0cNSpid:\t1",
        b"\x0cCapPrm:\tzz",
        b"a) R 1 (b",
    ],
)
def test_a_process_is_told_by_its_number_and_not_by_its_name(name: bytes) -> None:
    with named(name) as pid:
        assert processes.ns_pids(pid)[0] == pid
        assert processes.resident_bytes([pid]) > 1 << 20
        assert processes.is_alive(pid)
        assert tracers.held(pid) == tracers.held(processes.parent(pid) or 0)


def test_of_one_that_has_ended_nothing_is_known() -> None:
    with named(b"x") as pid:
        pass
    assert procfs.status(pid) == {}
    assert processes.ns_pids(pid) == []
    assert processes.resident_bytes([pid]) == 0
    assert not processes.is_alive(pid)
