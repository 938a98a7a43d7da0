"""A node without Kubernetes: the real keeper with its warden, runc and CRIU, and a disk of its own.

It is the kernel tests' (:class:`support.runtime.Host`): a mount namespace with its own ``/run`` and
``/var/lib``. The harness is the engine, and the API: it restarts what ends, and says what is gone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from architect.core import wire
from architect.core.errors import Unavailable
from architect.shim.keeper import processes
from faults import leaks
from faults.disk import Disk
from faults.errors import FaultError
from faults.gate import Gate
from support import runtime
from support.patience import patient

DEADLINE_SECONDS: Final = patient(90.0)
LEAK_SECONDS: Final = patient(90.0)
"""How long what ends may take to be gone: namespaces and cgroups end some time after the last
process in them."""
CRIU: Final = "architect-criu"
RUN_NAME: Final = "faults"
"""In the names of cgroups and namespaces."""


class Node:
    """One node; *disk_file*: the disk of an earlier one, whose power failed."""

    def __init__(self, directory: Path, *, bundle: Path, disk_file: Path | None = None) -> None:
        directory.mkdir()
        self.directory = directory
        self.disk = Disk(disk_file or directory / "disk.img", directory / "state")
        try:
            self.gate = Gate(self.disk.mount_point)
            self.host = runtime.Host(directory, bundle=bundle)
            self.run_gate = Gate(self.host.view / "run", is_mount_alone=True)
        except BaseException:
            self.disk.close()
            raise
        self.state = self.host.state / "architect"

    def close(self) -> None:
        """End the keeper, the namespace and the disk."""
        with ExitStack() as stack:
            stack.callback(self.disk.close)
            stack.callback(remove_cgroups)
            stack.callback(self.host.close)
            stack.callback(self.gate.close)
            stack.callback(self.run_gate.close)
            self.host.end_keeper()

    # The keeper

    @property
    def socket(self) -> Path:
        """Its control socket, as we see it."""
        return self.host.run_directory / "keeper.sock"

    def client(self) -> wire.Client:
        """Connect to the keeper. Raises Unavailable."""
        return wire.Client(self.socket, timeout_seconds=DEADLINE_SECONDS)

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Ask the keeper, also right after its restart. Raises ArchitectError but Unavailable."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                with self.client() as client:
                    return client.call(op, **arguments)
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise FaultError(f"no keeper answers {op}: {error}\n{self.log()}") from None
                time.sleep(0.02)

    def start_keeper(self) -> None:
        """Start the keeper if none is there, as the daemon does."""
        with suppress(Unavailable), self.client():
            return
        self.host.call(self.host.bundle / "bin/architect-warden")

    def renew_keeper(self) -> None:
        """End a keeper that has lost its parent, and start one that has one."""
        pid = self.keeper_pid()
        _kill(pid)
        while processes.is_alive(pid):
            time.sleep(0.01)
        self.start_keeper()
        self.ask("version")

    def keeper_pid(self) -> int:
        """Return the pid of the keeper that answers."""
        return int(self.ask("version")["pid"])

    def log(self, *, since: int = 0) -> str:
        """Return the end of what the keeper has said since the log had *since* bytes."""
        file = self.host.run_directory / "keeper.log"
        return file.read_bytes()[since:].decode(errors="replace") if file.exists() else ""

    def log_bytes(self) -> int:
        """Return how much the keeper has said."""
        file = self.host.run_directory / "keeper.log"
        return file.stat().st_size if file.exists() else 0

    def until_safe(self) -> None:
        """Wait until the keeper has nothing more to do in the background, as to have an image safe.

        Raises FaultError if that does not end.
        """
        tasks = Path(f"/proc/{self.keeper_pid()}/task")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(os.listdir(tasks)) > 1:
            if time.monotonic() > deadline:
                raise FaultError(f"the keeper's threads do not end: {self.log()}")
            time.sleep(0.01)

    # CRIU

    def criu(self) -> dict[str, int]:
        """Return the pids of the fork server and, where one works, of the supervisor and CRIU."""
        program = str(self.host.bundle / "bin" / CRIU)
        ours = {pid for pid in processes.all_pids() if _exe(pid) == program}
        found: dict[str, int] = {}
        for pid in ours:
            if processes.parent(pid) not in ours:
                found["server"] = pid
        for part, parent in (("supervisor", "server"), ("criu", "supervisor")):
            for pid in ours:
                if processes.parent(pid) == found.get(parent, 0):
                    found[part] = pid
        return found

    def is_criu(self, pid: int) -> bool:
        """Whether *pid* runs CRIU's code."""
        return _exe(pid) == str(self.host.bundle / "bin" / CRIU)

    # What is left

    def snapshot(self) -> leaks.Snapshot:
        """Return what there is."""
        holder = int(self.host.view.parent.name)
        _reap_orphans()
        return leaks.snapshot(
            leaks.Scope(
                below=os.getpid(),
                mounts_of=(os.getpid(), holder),
                cgroup_names=f"/{RUN_NAME}-{os.getpid()}",
                directories=(
                    str(self.state),
                    str(self.host.run_directory),
                    str(self.host.view / "run/test"),
                ),
                paths=(str(self.directory),),
            )
        )

    def leaked(self, before: leaks.Snapshot) -> list[str]:
        """Return what is there that was not *before*, once it has had the time to go."""
        deadline = time.monotonic() + LEAK_SECONDS
        while found := leaks.leaked(before, self.snapshot()):
            if time.monotonic() > deadline:
                return found
            time.sleep(0.1)
        return []

    # Its end

    def cut_power(self) -> None:
        """Kill everything that runs on it, at once."""
        holder = int(self.host.view.parent.name)
        # The wardens first, or they would start keepers meanwhile.
        for pid in (*self.host.wardens(), *leaks.below(os.getpid())):
            if pid != holder and _is_on_a_node(pid):
                _kill(pid)


def _reap_orphans() -> None:
    """Wait for what an engine would: what others have left to us, their subreaper."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def remove_cgroups(name: str = f"{RUN_NAME}-{os.getpid()}-") -> None:
    """Remove what is left of containers' cgroups whose names begin with *name*, and who is there.

    Kubelet does so with what is left below a pod's; a machine without power has none.
    """
    for root, directories, _ in os.walk("/sys/fs/cgroup", topdown=False):
        for directory in directories:
            if directory.startswith(name):
                _remove_cgroup(Path(root, directory))


def _remove_cgroup(directory: Path) -> None:
    deadline = time.monotonic() + LEAK_SECONDS
    while time.monotonic() < deadline:
        try:
            for pid in (directory / "cgroup.procs").read_text().split():
                _kill(int(pid))
            _reap_orphans()
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # who was killed still ends
            time.sleep(0.01)


def _is_on_a_node(pid: int) -> bool:
    """Whether a process was started on the node, or in a container of it."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    except OSError:
        return False


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _exe(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


@contextmanager
def opened(directory: Path, *, bundle: Path) -> Iterator[Node]:
    """A node that is gone afterwards."""
    made = Node(directory, bundle=bundle)
    try:
        yield made
    finally:
        made.close()
