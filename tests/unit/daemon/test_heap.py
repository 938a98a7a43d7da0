"""What glibc does with free memory, in a process of its own: its limits are the process's."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, resource, threading
from pathlib import Path
from architect.daemon.heap import Heap

SHARD = 8 << 20


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def use():
    blocks = [bytes([n]) * SHARD for n in range(4)]
    del blocks


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


heap = Heap()
heap.prepare()
before = resident()
with heap.busy():
    with heap.busy():
        in_thread(use)
    kept = resident()
    first = faults()
    for _ in range(20):
        in_thread(use)
    again = faults() - first
print(json.dumps({"kept": kept - before, "again": again, "after": resident() - before}))
"""


def test_what_is_free_is_kept_while_somebody_is_at_work_and_given_back_then() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=240
    ).stdout
    found = json.loads(said)
    assert found["kept"] > 24 << 20
    # Each use of 32 MiB would otherwise be 8192 pages that the kernel fetches anew.
    assert found["again"] < 20 * 1000
    assert found["after"] < 8 << 20
