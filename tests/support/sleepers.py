"""Containers that are dumped and restored by the keeper's own code, in the test's process."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from architect.api import names
from architect.api.policy import Policy
from architect.shim import records
from architect.shim.keeper import container, criu, processes, survey
from architect.shim.keeper.loop import Future, Loop, Task
from support import runtime, syncing

T = TypeVar("T")
_numbers = itertools.count(1)

COUNTER = """
import os, sys, time, zlib
memory = os.urandom(1 << 20) * int(sys.argv[1])
if not os.fork():
    while True: time.sleep(0.5)
count = 0
while True:
    count += 1
    os.write(1, b'%d %x\\n' % (count, zlib.crc32(memory[::257])))
    time.sleep(0.002)
"""
"""Counts aloud, says whether its memory is as it was, and has a child."""


class Missed(Exception):
    """What was to be stopped in the middle was over before it was seen."""


class Keeper:
    """The loop, the fork server and what else the keeper has, without its socket."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self.following: list[Keeper] = []
        self.on_close: list[Callable[[], None]] = []
        self._orphans: set[int] = set()
        self.loop = Loop()
        self.server = criu.Server(self.loop, binary)

    def run(self, task: Task[T]) -> T:
        """Run *task* to its end and return its result, or raise its error."""
        return self.until(self.loop.spawn(task, name="test"))

    def until(self, future: Future[T]) -> T:
        """Turn until *future* is done and return its result, or raise its error."""
        deadline = time.monotonic() + runtime.DEADLINE_SECONDS
        while not future.is_done:
            assert time.monotonic() < deadline, "the task does not end"
            self.turn()
        return future.result()

    def turn(self) -> None:
        """Let the loop turn once, and learn of ends as by SIGCHLD."""
        self.loop.run_once(at_most_seconds=0.01)
        if self.server.pid is not None and _reap(self.server.pid):
            self.server.reaped(self.server.pid)
        # What a killed server leaves is ours to wait for, and a container does not end before.
        self._orphans = {pid for pid in self._orphans if not _reap(pid)}

    def turn_until(self, condition: Callable[[], bool], *, what: str) -> None:
        """Turn until *condition* holds."""
        deadline = time.monotonic() + runtime.DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, what
            self.turn()

    def again(self) -> Keeper:
        """Return a keeper that knows nothing of this one's work."""
        self.following.append(Keeper(self._binary))
        return self.following[-1]

    def working(self, kind: str, *, of: Future[None] | None = None) -> tuple[int, int]:
        """Turn until a CRIU works; return the pids of its supervisor and of itself.

        *of*: what it works for. Raises its error, or Missed, if that ends before.
        """
        server: int | None = None
        seen: set[str] = set()
        deadline = time.monotonic() + runtime.DEADLINE_SECONDS
        while time.monotonic() < deadline:
            self.turn()
            server = self.server.pid or server
            for supervisor in processes.children(server) if server else []:
                seen.add(name := _name(supervisor))
                if name.startswith(kind):
                    for pid in processes.children(supervisor):
                        self._orphans |= {supervisor, pid}
                        return supervisor, pid
            if of is not None and of.is_done:
                of.result()
                raise Missed(f"a {kind} that was over at once")
        raise AssertionError(f"no {kind} begins; the server had {sorted(seen)}")

    def caught(
        self,
        begin: Callable[[], Future[None]],
        catch: Callable[[Future[None]], T],
        *,
        undo: Callable[[], object],
    ) -> tuple[Future[None], T]:
        """*begin* something and *catch* it in the middle; return both results.

        Nobody who only looks can be sure to see it: what was over before is undone and begun anew.
        """
        for _ in range(20):
            work = begin()
            try:
                return work, catch(work)
            except Missed:
                undo()
        raise AssertionError("it is always over before it is seen")

    def close(self) -> None:
        """End the server."""
        for each in self.following:
            each.close()
        for callback in self.on_close:
            callback()
        for pid in self._orphans:
            _reap(pid)
        server = self.server.pid
        self.server.close()
        syncing.finish()
        self.loop.close()
        if server is not None:
            os.waitpid(server, 0)


def _reap(pid: int) -> bool:
    """Wait for *pid* if it is our child and has ended; whether it was."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Sleeper:
    """A counting application in a container, and the keeper's view of it."""

    def __init__(
        self, host: runtime.Host, *, mebibytes: int = 4, uid: int = 1000, before: str = ""
    ) -> None:
        """*before*: what it does first."""
        made = runtime.spec(
            [*runtime.python(before + COUNTER), str(mebibytes)], annotations=runtime.IDLE, uid=uid
        )
        # A cgroup of its own in every hierarchy, and a view of nothing else: so do engines with
        # cgroup v2.
        made["linux"]["namespaces"].append({"type": "cgroup"})
        made["linux"]["cgroupsPath"] = f"/sleeper-{os.getpid()}-{next(_numbers)}"
        self.real = host.container(made)
        reader, writer = os.pipe()
        os.fchown(writer, uid, uid)
        self.output = os.fdopen(reader, "rb", buffering=0)
        self.real.create(stdout=writer)
        os.close(writer)
        self.real.call("start", self.real.id)
        self.host = host
        self.last = self.lines(1)[0]
        self.container = self.seen()

    def seen(self) -> container.Container:
        """Return the container as a keeper that has just started sees it."""
        path = self.host.run_directory / "containers" / f"{self.real.id}.json"
        value = json.loads(path.read_text())
        value.pop("version")
        value["runc_root"] = str(self.host.view / value["runc_root"].lstrip("/"))
        found = records.Record(**value)
        policy = Policy.from_dict(found.policy)
        return container.Container(found, policy.containers[found.container])

    @property
    def image(self) -> Path:
        return self.container.directory / "image"

    def lines(self, wanted: int) -> list[tuple[int, str]]:
        """Return the next *wanted* pairs of count and checksum. Raises EOFError after its end."""
        lines = []
        for _ in range(wanted):
            ready, _, _ = select.select([self.output], [], [], runtime.DEADLINE_SECONDS)
            assert ready, "the application says nothing"
            words = self.output.readline().decode().split()
            if not words:
                raise EOFError("the application has ended")
            lines.append((int(words[0]), words[1]))
        return lines

    def drain(self) -> list[tuple[int, str]]:
        """Return what was said already."""
        lines = []
        while select.select([self.output], [], [], 0)[0]:
            lines += self.lines(1)
        return lines

    def goes_on(self) -> None:
        """The application counts on without a gap, with the same memory."""
        count, checksum = self.last
        lines = self.drain() + self.lines(5)
        assert lines == [(count + n, checksum) for n in range(1, len(lines) + 1)]
        self.last = lines[-1]

    def tree(self) -> list[int]:
        """Return the living tree."""
        return self.container.tree()

    def has_written_pages(self) -> bool:
        """Whether a dump is in the midst of the application's memory (of much more than this).

        A CRIU killed while it still puts its code into the application takes it along.
        """
        return any(path.stat().st_size > 8 << 20 for path in self.image.glob("pages-*.img"))

    def everything(self) -> list[int]:
        """Return init and all below it."""
        return list(processes.tree(self.container.init().pid))

    def statuses(self) -> list[dict[str, Any]]:
        """Return what a restored process must share with its container."""
        return [
            {
                "cgroups": sorted(Path(f"/proc/{pid}/cgroup").read_text().splitlines()),
                "namespaces": {
                    name: os.readlink(f"/proc/{pid}/ns/{name}") for name in survey.NAMESPACES
                },
                "pids": processes.ns_pids(pid)[-1],
                "cpus": os.sched_getaffinity(pid),
            }
            for pid in self.tree()
        ]

    def close(self) -> None:
        self.output.close()
        self.container.close()
        self.real.remove()


def keep_state_in(directory: Path, patch: Any) -> None:
    """Make images go below *directory*."""
    patch.setattr(names, "STATE", directory)
    patch.setattr(names, "PODS", directory / "pods")


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
