"""Commands after a restore: their output, status and limit, with a program for the runtime."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import NodeError
from architect.shim.keeper import processes, programs
from architect.shim.keeper.hooks import Hooks
from architect.shim.keeper.loop import Future, Loop, Task
from architect.shim.keeper.programs import Ended
from architect.shim.records import Record
from support.programs import ProgramLoop

RUNTIME = """#!/bin/sh
# As runc does it: the command is a child, and its status is ours.
echo "$@" > {told}
while [ "$1" != exec ]; do shift; done
shift 2
"$@" &
wait $!
"""


def record(runtime: Path, *, systemd: bool = False) -> Record:
    return Record(
        id="c1",
        pod="uid",
        namespace="ns",
        pod_name="web",
        container="app",
        sandbox_id=None,
        bundle="/b",
        pid_file=None,
        runc_root="/run/runc",
        systemd_cgroup=systemd,
        runtime=str(runtime),
        netns=None,
        policy={},
        init_sha="0" * 64,
        created=0.0,
        hollow=False,
    )


class World(ProgramLoop):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.told = directory / "told"
        self.runtime = directory / "runtime"
        self.runtime.write_text(RUNTIME.format(told=self.told))
        self.runtime.chmod(0o755)

    def run(self, *argv: str, limit: float = 60.0, runtime: Path | None = None) -> Ended:
        made = Hooks(self.programs, limit_seconds=limit)
        return self.finish(made.run(record(runtime or self.runtime, systemd=True), argv))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.reaping():
        yield made


def test_the_lower_runtime_executes_it(world: World) -> None:
    ended = world.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (ended.status, ended.output, ended.is_late) == (3, "out\nerr", False)
    assert world.told.read_text().startswith(
        "--root /run/runc --systemd-cgroup exec c1 sh -c echo out"
    )


def test_one_that_ends_before_its_pid_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = os.posix_spawn

    def spawn_slowly(*arguments: Any, **more: Any) -> int:
        pid = spawn(*arguments, **more)
        while Path(f"/proc/{pid}").exists():  # until the handler of its signal has reaped it
            time.sleep(0.01)
        return pid

    monkeypatch.setattr(os, "posix_spawn", spawn_slowly)
    is_over = threading.Event()
    # Any thread gets the signal, whatever the others block.
    other = threading.Thread(target=is_over.wait)
    other.start()
    try:
        assert world.run("sh", "-c", "exit 3").status == 3
    finally:
        is_over.set()
        other.join()


def test_of_much_output_the_end_is_kept(world: World) -> None:
    ended = world.run("sh", "-c", "i=0; while [ $i -lt 9999 ]; do i=$((i+1)); echo $i; done")
    assert ended.output.endswith("9998\n9999")
    assert len(ended.output) <= programs.MAX_OUTPUT_BYTES


def test_one_that_does_not_end_is_killed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    monkeypatch.setattr(world.loop, "within", once(begun, world.loop))
    mark = f"{os.getpid()}4321"  # which no other run has
    ended = world.run(
        "sh", "-c", f"trap '' TERM; echo begun; touch {begun}; exec sleep {mark}", limit=0.1
    )
    assert (ended.status, ended.output.split()[0], ended.is_late) == (137, "begun", True)
    left = [pid for pid in processes.all_pids() if mark.encode() in _command_line(pid)]
    assert left == []


def once(begun: Path, loop: Loop) -> Callable[..., Future[Any]]:
    """Return the loop's bounded wait, whose time begins once there is a file *begun*."""
    within = loop.within

    def wait(future: Future[Any], seconds: float, *, what: str) -> Future[Any]:
        bounded: Future[Any] = Future()

        def take(outcome: Future[Any]) -> None:
            try:
                bounded.set_result(outcome.result())
            except TimeoutError as error:
                bounded.set_error(error)

        def look() -> None:
            if begun.exists():
                within(future, seconds, what=what).when_done(take)
            else:
                loop.call_later(0.01, look)

        look()
        return bounded

    return wait


def test_a_runtime_that_does_not_notice_is_killed_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "END_SECONDS", 0.3)
    world.runtime.write_text("#!/bin/sh\nsleep 4322 &\nexec sleep 4323\n")
    started = time.monotonic()
    ended = world.run("true", limit=0.2)
    assert (ended.status, ended.is_late) == (137, True)
    assert time.monotonic() - started < 60


def test_what_it_leaves_running_keeps_nobody(world: World) -> None:
    ended = world.run("sh", "-c", "sleep 5 & echo done")
    assert (ended.status, ended.output) == (0, "done")


def test_a_runtime_that_is_not_there_is_told(world: World, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"cannot run .*missing: No such file") as caught:
        world.run("true", runtime=tmp_path / "missing")
    assert caught.value.reason == "HookNotRun"


def test_no_descriptor_is_left(world: World) -> None:
    made = Hooks(world.programs)
    open_now: list[set[str]] = []

    def several() -> Task[None]:
        for _ in range(5):
            yield from made.run(record(world.runtime), ["true"])
            open_now.append(_what_is_open())

    world.finish(several())
    first, *later = open_now
    assert len(later) == 4
    # What other tests left behind may be closed meanwhile, or open something for a moment, so not
    # a count: what the second left would be there to the end.
    assert set.intersection(*later) - first == set()


def _what_is_open() -> set[str]:
    """The descriptors of this process, each with what it stands for (a pipe has its number)."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
