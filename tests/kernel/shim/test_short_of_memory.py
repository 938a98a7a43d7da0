"""A node that has no memory for what sleeps: whoever wakes it waits, and nobody is killed for it.

What the node has is told by a file in the place of ``/proc/meminfo``, as the keeper sees it: to
have it short in truth would be every test's beside this one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from support.mover import Mover, numbers
from support.runtime import Container, Host, eventually

MEMINFO = Path("/proc/meminfo")
AVAILABLE_KIB = 1024


@contextmanager
def short_of_memory(host: Host, directory: Path) -> Iterator[None]:
    """Have the node say that it has next to nothing left."""
    told = re.sub(
        r"(?m)^MemAvailable:.*$", f"MemAvailable: {AVAILABLE_KIB} kB", MEMINFO.read_text()
    )
    (directory / "meminfo").write_text(told)
    host.call("mount", "--bind", directory / "meminfo", MEMINFO)
    try:
        yield
    finally:
        host.call("umount", MEMINFO)


def goes_on(pod: Container, *, after: int) -> None:
    eventually(lambda: numbers(pod)[-1:] > [after + 2], what="more output")


def test_a_wake_waits_for_memory_and_says_so(mover: Mover, tmp_path: Path) -> None:
    pod = mover.counting("uid-a")
    mover.ask("sleep", pod="uid-a", reason="test")
    last = numbers(pod)[-1]
    woken = threading.Event()

    def wake() -> int:
        status = pod.exec("true")
        woken.set()
        return status

    with ThreadPoolExecutor(1) as pool, mover.events() as events:
        with short_of_memory(mover.host, tmp_path):
            waiting = pool.submit(wake)
            told = events.until("wake-blocked")
            assert told["available_bytes"] == AVAILABLE_KIB * 1024 < told["needed_bytes"]
            # Whoever comes now waits as well, and the memory stays where it is.
            assert mover.state("uid-a") == "waking"
            assert not woken.is_set()
            assert numbers(pod)[-1] == last
        assert waiting.result(60) == 0
        assert events.until("woke")["pod"] == "uid-a"
    goes_on(pod, after=last)
    assert numbers(pod) == list(range(1, numbers(pod)[-1] + 1))


def test_a_keeper_that_is_killed_meanwhile_waits_on(mover: Mover, tmp_path: Path) -> None:
    pod = mover.counting("uid-a")
    mover.ask("sleep", pod="uid-a", reason="test")
    last = numbers(pod)[-1]
    with ThreadPoolExecutor(1) as pool:
        with short_of_memory(mover.host, tmp_path):
            with mover.events() as events:
                waiting = pool.submit(pod.exec, "true")
                events.until("wake-blocked")
            mover.kill_keeper()
            eventually(
                lambda: mover.state("uid-a") in ("asleep", "waking"), what="the next keeper's word"
            )
            assert numbers(pod)[-1] == last
        waiting.result(60)  # whatever it was told of the keeper that it asked
    assert pod.exec("true") == 0
    assert mover.state("uid-a") == "awake"
    goes_on(pod, after=last)
    assert numbers(pod) == list(range(1, numbers(pod)[-1] + 1))
