"""The node that the daemon's container runs on: its files, its processes, commands run on it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.core.errors import NodeError
from architect.daemon.containerd import Edit

SEARCH_PATH: Final = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/opt/bin",
)
"""Where engines look for runc, and where distributions put it."""

_NSENTER: Final = (
    "nsenter", "--target", "1", "--mount", "--uts", "--ipc", "--net", "--cgroup",
)  # fmt: skip
"""All namespaces of the host but the pid namespace, which hostPID shares already. The keeper's
parent needs the network (kubelet's sockets) and cgroups (to leave this pod's) as well."""

BACKUP_SUFFIX: Final = ".architect-backup"
MAX_OUTPUT_CHARS: Final = 2000

CUE: Final = "go\n"
UNCUED_SECONDS: Final = 5.0
"""For a program that was not needed, until it is killed."""
_ENVIRONMENT: Final = {"PATH": ":".join(SEARCH_PATH), "LC_ALL": "C"}


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process of the host."""

    pid: int
    argv: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Host:
    """The host, seen from a container with ``hostPID``."""

    root: Path
    """Its root directory."""
    is_entered: bool = True
    """Whether commands must enter pid 1's namespaces; False where the daemon runs outside a pod."""
    proc: Path = Path("/proc")
    """Where the host's processes are seen."""

    def path(self, path: Path) -> Path:
        """Return where the host's absolute *path* is for this process."""
        return self.root / path.relative_to("/")

    def read(self, path: Path) -> str | None:
        """Return a text file of the host; None if there is none. Raises NodeError."""
        try:
            return self.path(path).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise NodeError(f"cannot read {path} on the host: {error}", path=path) from error

    def glob(self, pattern: str) -> list[Path]:
        """Return the host's paths that match the absolute *pattern*, sorted as Go's Glob does."""
        found = self.root.glob(pattern.lstrip("/"))
        return sorted(Path("/") / p.relative_to(self.root) for p in found)

    def apply(self, edit: Edit) -> None:
        """Write or remove a file, keeping its mode, owner and, once, its first content.

        The new content is complete and on disk before it has the file's name. Raises NodeError.
        """
        target = self.path(edit.path)
        try:
            if edit.text is None:
                target.unlink(missing_ok=True)
                target.with_name(target.name + BACKUP_SUFFIX).unlink(missing_ok=True)
                return
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._backup(target)
            _replace(target, edit.text.encode())
        except OSError as error:
            raise NodeError(
                f"cannot write {edit.path} on the host: {error.strerror}", path=edit.path
            ) from error

    def forget_backup(self, path: Path) -> None:
        """Remove the backup of a file that says what it said before us. Raises OSError."""
        target = self.path(path)
        target.with_name(target.name + BACKUP_SUFFIX).unlink(missing_ok=True)

    def _backup(self, target: Path) -> None:
        backup = target.with_name(target.name + BACKUP_SUFFIX)
        if target.exists() and not backup.exists():
            _replace(backup, target.read_bytes(), like=target)

    def find_program(self, name: str) -> Path | None:
        """Return the host's path of a program."""
        for directory in SEARCH_PATH:
            path = Path(directory) / name
            # A link is the host's, and absolute ones lead astray from here: its own is enough.
            if os.path.lexists(self.path(path)):
                return path
        return None

    def processes(self, name: str) -> Iterator[Process]:
        """Yield the host's processes whose program is called *name*."""
        for entry in self.proc.iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if (entry / "comm").read_text().rstrip("\n") != name[:15]:
                    continue
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended between two reads
            argv = tuple(word.decode(errors="replace") for word in words if word)
            if argv:
                yield Process(pid=int(entry.name), argv=argv)

    def run(self, argv: Sequence[str], *, timeout_seconds: float) -> str:
        """Run a program of the host and return its standard output.

        Raises NodeError with the end of what it said.
        """
        try:
            done = subprocess.run(
                self._entered(argv),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_seconds,
                text=True,
                errors="replace",
                env=_ENVIRONMENT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NodeError(f"cannot run {argv[0]} on the host: {error}") from error
        return _output_of(argv, done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def on_cue(self, argv: Sequence[str]) -> Iterator[Cued]:
        """Start a program of the host that waits for its cue, a line of its standard input.

        So its start costs nobody who cannot wait. Without a cue it ends with the context, which it
        must do at the end of its input. Raises NodeError.
        """
        try:
            process = subprocess.Popen(
                self._entered(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=_ENVIRONMENT,
            )
        except OSError as error:
            raise NodeError(f"cannot run {argv[0]} on the host: {error}") from error
        try:
            yield Cued(process, argv)
        finally:
            _end(process)

    def _entered(self, argv: Sequence[str]) -> list[str]:
        return [*_NSENTER, "--", *argv] if self.is_entered else list(argv)

    def has_systemd(self) -> bool:
        """Whether pid 1 of the host is systemd (its documented sign, sd_booted(3))."""
        return self.path(Path("/run/systemd/system")).is_dir()


class Cued:
    """A program that was started and waits; its output is short."""

    def __init__(self, process: subprocess.Popen[str], argv: Sequence[str]) -> None:
        self._process = process
        self._argv = argv

    def go(self, *, timeout_seconds: float) -> str:
        """Give the cue; return the standard output once it has ended.

        Raises NodeError with the end of what it said.
        """
        try:
            out, err = self._process.communicate(CUE, timeout=timeout_seconds)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NodeError(f"cannot run {self._argv[0]} on the host: {error}") from error
        return _output_of(self._argv, self._process.returncode, out, err)


def _output_of(argv: Sequence[str], status: int, out: str, err: str) -> str:
    if status != 0:
        said = (err.strip() or out.strip())[-MAX_OUTPUT_CHARS:]
        raise NodeError(f"{' '.join(argv)} on the host ended with {status}: {said}")
    return out


def _end(process: subprocess.Popen[str]) -> None:
    """End a program that may still wait for its cue, or hang."""
    if process.poll() is None:
        try:
            process.communicate(timeout=UNCUED_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.communicate()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def terminate(process: Process) -> None:
    """Ask *process* to end; that it has ended already is fine. Raises NodeError."""
    try:
        os.kill(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except OSError as error:
        name = f"{process.argv[0]} ({process.pid})"
        raise NodeError(f"cannot end {name}: {error.strerror}") from error


def _replace(target: Path, data: bytes, *, like: Path | None = None) -> None:
    """Write *data* as *target*, with the mode and owner of *like* or of what is there."""
    try:
        status = os.stat(like or target)
        mode, owner = status.st_mode & 0o7777, (status.st_uid, status.st_gid)
    except FileNotFoundError:
        mode, owner = 0o644, (0, 0)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, mode)
    try:
        try:
            os.fchmod(fd, mode)
            if (os.geteuid(), os.getegid()) != owner:
                os.fchown(fd, *owner)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
