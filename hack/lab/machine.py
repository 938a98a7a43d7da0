"""A machine: its own namespaces and cgroups over a copy-on-write root file system.

Kubernetes nodes are machines, and so is the control plane; kernel tests use them without
Kubernetes. A machine outlives the process that made it. Everything about it is below one
directory, written before the thing itself is made, so that any later process can remove it,
whatever happened to the first one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lab import cgroups, commands, errors, waiting
from lab.patience import patient
from lab.settings import Settings

HERE = Path(__file__).parent
SOCKET = "/run/lab/supervisor.sock"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SUPERVISOR = "/usr/lib/lab/supervisor.py"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
START_TIMEOUT_SECONDS = 60.0
REMOVE_TIMEOUT_SECONDS = 120.0
SUPERVISOR_SECONDS = 120.0

ENTER = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@"'
"""Joins the cgroups given before ``--``, then runs what comes after it. A process that only
entered the cgroup *namespace* would be seen as outside of it by everything in the machine."""


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A file or directory of the host that the machine sees."""

    source: Path
    target: str
    readonly: bool = False


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """What a machine is made of."""

    root: Path
    """Read-only root file system with ``/usr/bin/python3`` in it (``rootfs.node_root``)."""
    binds: tuple[Bind, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """Absolute path → text, present from the start."""
    executables: frozenset[str] = frozenset()
    """Those of *files* that can be run."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Path below ``/proc/sys`` → value; those that the kernel does not have are left out."""


class Machine:
    """One machine by name. Making the object touches nothing; :meth:`create` makes the machine."""

    def __init__(self, name: str, *, settings: Settings | None = None) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
            raise errors.LabError(f"not a machine name: {name!r}", hint="like a DNS label")
        self.name = name
        self.settings = settings or Settings.from_environment()
        self.directory = self.settings.machines / name

    @property
    def pid(self) -> int | None:
        """Process id, on the host, of the machine's first process; None if it does not run."""
        try:
            recorded = json.loads((self.directory / "pid.json").read_text())
            pid = int(recorded["pid"])
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        if int(stat[19]) != recorded["start_ticks"] or stat[0] in "ZX":
            return None
        return pid

    @property
    def running_pid(self) -> int:
        """Like :attr:`pid`. Raises LabError if the machine does not run."""
        pid = self.pid
        if pid is None:
            raise errors.LabError(f"machine {self.name} does not run")
        return pid

    @property
    def exists(self) -> bool:
        """Whether anything of it is left, running or not."""
        return self.directory.exists()

    @property
    def complete(self) -> bool:
        """Whether it runs, answers, and :meth:`mark_complete` was called for it."""
        if self.pid is None or not (self.directory / "complete").exists():
            return False
        try:
            self.services()
        except errors.LabError:
            return False  # killed a moment ago: its pid lasts until its last child has died
        return True

    def mark_complete(self) -> None:
        """Say that whoever made the machine has finished with it: it need not be made again."""
        (self.directory / "complete").touch()

    @property
    def logs(self) -> Path:
        """The machine's ``/var/log``, on the host."""
        return self.directory / "log"

    @property
    def network(self) -> str:
        """Path of its network namespace on the host."""
        return f"/proc/{self.running_pid}/ns/net"

    def create(self, spec: MachineSpec) -> None:
        """Make the machine and return when its supervisor answers.

        What a dead machine of this name left is removed first. Raises LabError if a live one is
        there, or if it does not start; then nothing of it remains but the log in the error.
        """
        if self.pid is not None:
            raise errors.LabError(f"machine {self.name} runs already")
        self.destroy()
        plan = self._plan()
        for folder in ("upper", "work", "root", "lib", "opt", "log"):
            (self.directory / folder).mkdir(parents=True)
        self._write_json(
            "machine.json",
            {"cgroups": [str(d) for d in plan.directories], "cgroup_version": plan.version},
        )
        try:
            plan.create()
            self._write_files(spec)
            self._write_json("spec.json", self._boot_spec(spec, plan))
            self._boot()
            plan.hand_down()
            self.run_in_network("ip", "link", "set", "lo", "up")
        except BaseException:
            self.destroy()
            raise

    def reboot(self) -> None:
        """End every process of the machine at once, and boot it again from the disk that it has.

        What lay in memory is gone: tmpfs, mounts, the network. No service runs yet. LabError.
        """
        plan = self._plan()
        self._end()
        (self.directory / "pid.json").unlink(missing_ok=True)
        try:
            plan.create()
            self._boot()
        except BaseException:
            self.destroy()
            raise
        plan.hand_down()
        self.run_in_network("ip", "link", "set", "lo", "up")

    def destroy(self) -> None:
        """Kill everything in the machine and remove every trace. Repeating it does nothing."""
        if not self.directory.exists():
            return
        self._end()
        # By rm: a node's images are tens of thousands of files. Nothing is mounted here, and if
        # something were, it would not be ours to delete.
        commands.run(
            ["rm", "-rf", "--one-file-system", self.directory],
            timeout_seconds=REMOVE_TIMEOUT_SECONDS,
        )

    def _plan(self) -> cgroups.MachineCgroups:
        return cgroups.MachineCgroups.plan(
            self.name, state=self.settings.state, found=cgroups.hierarchies()
        )

    def _end(self) -> None:
        """Kill everything in the machine, and remove its cgroups."""
        pid = self.pid
        if pid is not None:
            # The kernel kills the rest of a pid namespace with its first process.
            with contextlib.suppress(ProcessLookupError):  # it ended by itself in between
                os.kill(pid, signal.SIGKILL)
        record = self.directory / "machine.json"
        if record.exists():
            kept = json.loads(record.read_text())
            cgroups.MachineCgroups(
                version=kept["cgroup_version"],
                directories=tuple(Path(d) for d in kept["cgroups"]),
                hierarchies=(),
            ).destroy()
        if pid is not None:
            waiting.until(
                lambda: self.pid is None,
                what=f"end of machine {self.name}",
                timeout_seconds=REMOVE_TIMEOUT_SECONDS,
            )

    def exec(
        self,
        argv: Sequence[str | Path],
        *,
        timeout_seconds: float = 60,
        input: str | None = None,
        stdin: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command in the machine and return its standard output.

        *env* is added to the machine's environment. Raises CommandFailed.
        """
        return commands.run(
            self.enter(argv),
            timeout_seconds=timeout_seconds,
            input=input,
            stdin=stdin,
            env={**ENVIRONMENT, **(env or {})},
        )

    def popen(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command in the machine, in a session of its own.

        End it with ``commands.kill_group``: its parent on the host does not pass signals on.
        """
        return subprocess.Popen(
            self.enter(argv),
            env={**ENVIRONMENT, **(env or {})},
            start_new_session=True,
            **options,
        )

    def interact(self, argv: Sequence[str]) -> int:
        """Run a command on this terminal and return its exit status."""
        env = {**ENVIRONMENT, "TERM": os.environ.get("TERM", "linux")}
        return subprocess.run(self.enter(argv), env=env, check=False).returncode

    def enter(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the host command line that runs *argv* in the machine."""
        join = self._cgroup_files()
        target = ["-t", str(self.running_pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        words = [str(word) for word in argv]
        return ["/bin/sh", "-c", ENTER, "sh", *join, "--", "nsenter", *target, "--", *words]

    def in_network(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs a host program in the machine's network only."""
        return ["nsenter", f"--net={self.network}", "--", *(str(word) for word in argv)]

    def run_in_network(
        self, *argv: str | Path, timeout_seconds: float = 60, input: str | None = None
    ) -> str:
        """Run a host program in the machine's network namespace."""
        return commands.run(self.in_network(*argv), timeout_seconds=timeout_seconds, input=input)

    def spawn_on_host(self, argv: Sequence[str | Path], *, log: Path) -> None:
        """Start a host program that ends with the machine: it is in the machine's cgroups.

        It is in none of the machine's namespaces.
        """
        words = [str(word) for word in argv]
        with log.open("ab") as target:
            subprocess.Popen(
                ["/bin/sh", "-c", ENTER, "sh", *self._cgroup_files(), "--", *words],
                stdin=subprocess.DEVNULL,
                stdout=target,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
            )

    def popen_in_network(self, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a host program in the machine's network, and in no other of its namespaces.

        It ends with the machine, in whose cgroups it is.
        """
        words = self.in_network(*argv)
        return subprocess.Popen(
            ["/bin/sh", "-c", ENTER, "sh", *self._cgroup_files(), "--", *words],
            start_new_session=True,
            **options,
        )

    def start_service(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> None:
        """Run a program under the machine's supervisor; its output is ``/var/log/NAME.log``."""
        self._ask(
            {
                "op": "start",
                "name": name,
                "argv": list(argv),
                "env": {**ENVIRONMENT, **(env or {})},
                "log": f"/var/log/{name}.log",
            }
        )

    def service(self, name: str) -> Service:
        """Return the handle of a service that was started before."""
        return Service(self, name)

    def services(self) -> dict[str, dict[str, Any]]:
        """Return what the supervisor knows of each service."""
        return dict(self._ask({"op": "status"})["services"])

    def _cgroup_files(self) -> list[str]:
        kept = json.loads((self.directory / "machine.json").read_text())
        leaf = cgroups.LEAF_EXEC if kept["cgroup_version"] == 2 else ""
        return [str(Path(d, leaf, "cgroup.procs")) for d in kept["cgroups"]]

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        path = f"/proc/{self.running_pid}/root{SOCKET}"
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(patient(SUPERVISOR_SECONDS))
                connection.connect(path)
                with connection.makefile("rw") as stream:
                    stream.write(json.dumps(request) + "\n")
                    stream.flush()
                    answer = json.loads(stream.readline())
        except (OSError, ValueError) as error:
            raise errors.LabError(f"supervisor of machine {self.name}: {error}") from error
        if "error" in answer:
            raise errors.LabError(f"supervisor of machine {self.name}: {answer['error']}")
        return dict(answer)

    def _boot(self) -> None:
        log = self.directory / "boot.log"
        try:
            commands.run(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    HERE / "boot.py",
                    self.directory / "spec.json",
                    str(os.getpid()),
                ],
                timeout_seconds=START_TIMEOUT_SECONDS,
                log=log,
            )
            waiting.until(
                self._answers,
                what=f"start of machine {self.name}",
                timeout_seconds=START_TIMEOUT_SECONDS,
                interval_seconds=0.02,
                last_seen=log.read_text,
            )
        except errors.LabError as error:
            raise errors.LabError(f"machine {self.name} does not start: {error}") from error

    def _answers(self) -> bool:
        pid = self.pid
        if pid is None:
            raise errors.LabError((self.directory / "boot.log").read_text().strip() or "it ended")
        return Path(f"/proc/{pid}/root{SOCKET}").exists()

    def _boot_spec(self, spec: MachineSpec, plan: cgroups.MachineCgroups) -> dict[str, object]:
        own = [
            # An overlay's upper layer cannot be on an overlay: container layers are on the disk.
            Bind(source=self.directory / "lib", target="/var/lib"),
            Bind(source=self.directory / "opt", target="/opt"),
            Bind(source=self.directory / "log", target="/var/log"),
        ]
        return {
            "hostname": self.name,
            "lower": str(spec.root),
            "upper": str(self.directory / "upper"),
            "work": str(self.directory / "work"),
            "root": str(self.directory / "root"),
            "pid_file": str(self.directory / "pid.json"),
            "cgroup": {
                "version": plan.version,
                "join": plan.join_files(leaf=""),
                "leaf": plan.join_files(leaf=cgroups.LEAF_INIT),
                "hierarchies": [dict(h) for h in plan.hierarchies],
            },
            "binds": [
                {"source": str(b.source), "target": b.target, "readonly": b.readonly}
                for b in (*own, *spec.binds)
            ],
            "sysctls": dict(spec.sysctls),
            "init": ["/usr/bin/python3", "-I", "-S", SUPERVISOR, SOCKET],
            "env": ENVIRONMENT,
        }

    def _write_files(self, spec: MachineSpec) -> None:
        files = {
            "/etc/hostname": f"{self.name}\n",
            "/etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {self.name}\n",
            "/etc/machine-id": f"{uuid.uuid4().hex}\n",
            "/etc/resolv.conf": "",
            SUPERVISOR: (HERE / "supervisor.py").read_text(),
            "/usr/local/bin/systemctl": (HERE / "systemctl.py").read_text(),
            **spec.files,
        }
        executables = {"/usr/local/bin/systemctl", *spec.executables}
        for path, text in files.items():
            target = self.directory / "upper" / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            target.chmod(0o755 if path in executables else 0o644)

    def _write_json(self, name: str, value: object) -> None:
        temporary = self.directory / f"{name}.new"
        temporary.write_text(json.dumps(value, indent=1))
        temporary.rename(self.directory / name)


@dataclass(frozen=True)
class Service:
    """One program under a machine's supervisor."""

    machine: Machine
    name: str

    def stop(self) -> None:
        """End it and keep it ended; children that it left to the machine stay."""
        self.machine._ask({"op": "stop", "name": self.name})

    def start(self) -> None:
        """Run it again as it was defined."""
        self.machine._ask({"op": "start", "name": self.name})

    def restart(self) -> None:
        """End it and start it at once."""
        self.machine._ask({"op": "restart", "name": self.name})

    def forget(self) -> None:
        """End it, and let go of how it was defined."""
        self.machine._ask({"op": "forget", "name": self.name})

    @property
    def pid(self) -> int | None:
        """Its process id inside the machine; None while it does not run."""
        value = self.machine.services()[self.name]["pid"]
        return None if value is None else int(value)


def remove_strays(settings: Settings) -> list[Path]:
    """Kill and remove the cgroups of machines that nothing else is left of; return which.

    Whoever deletes the state directory of a running lab leaves its processes behind, and with them
    its network, in which no other cluster can be made.
    """
    found = cgroups.hierarchies()
    # Before the directories: a machine that is being made has had one for longer than its cgroups.
    present = cgroups.present(state=settings.state, found=found)
    known = {one.name for one in all_machines(settings)}
    removed: list[Path] = []
    for name in sorted(present - known):
        plan = cgroups.MachineCgroups.plan(name, state=settings.state, found=found)
        plan.destroy()
        removed += plan.directories
    return removed


def all_machines(settings: Settings) -> list[Machine]:
    """Return every machine that has left a trace, running or not."""
    if not settings.machines.is_dir():
        return []
    return [Machine(p.name, settings=settings) for p in sorted(settings.machines.iterdir())]
