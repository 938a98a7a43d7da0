"""CRIU as the keeper uses it: command lines (pure) and the fork server that runs them.

``architect-criu serve`` has prepared itself once on the host; for each request it forks a process
that enters the container's namespaces and runs CRIU's code there, so that nothing is executed,
loaded or configured from the container's file system. Its protocol (one SOCK_SEQPACKET message per
request) is described in ``shim/native/criu/README.md``.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import enum
import fcntl
import itertools
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.core.errors import NodeError
from architect.shim import criu_errors
from architect.shim.keeper import images, initfiles, processes
from architect.shim.keeper.loop import Future, Loop, Timer

log = logging.getLogger(__name__)

FIRST_INHERITED: Final = 200
"""Number of the first passed descriptor inside CRIU (see the fork server)."""

FIRST_PAUSE_SECONDS: Final = 10.0
"""Before a server is started anew that lived shorter than this: it may be unable to live. Twice as
long after the next one, and so on. A request that comes meanwhile starts one at once."""
MAX_PAUSE_SECONDS: Final = 320.0

_SHARED_OPTIONS: Final = (
    # Our packet queue holds the network; CRIU's own lock would leave drop rules behind.
    "--network-lock",
    "skip",
    "--file-locks",
    "--link-remap",
    # On the command line, with the equals sign: in a configuration file it means "soft" and costs
    # a cgroup yard of 9-15 ms.
    "--manage-cgroups=ignore",
    "--ghost-limit",
    "64M",
    "-v2",
)


def dump_arguments(*, tree_pid: int, is_leaving: bool = False) -> list[str]:
    """Return CRIU's arguments for dumping and removing the tree below pid *tree_pid*.

    What the application has not accepted yet has no image. It makes a dump fail, so that it can be
    tried again; but for a pod that leaves, where it is reset with the listening socket.
    """
    arguments = ["dump", "-t", str(tree_pid), "--tcp-established", *_SHARED_OPTIONS]
    return [*arguments, "--skip-in-flight"] if is_leaving else arguments


def restore_arguments(
    *, pipes: dict[str, int], has_own_ipc: bool, is_moved: bool = False
) -> tuple[list[str], list[int]]:
    """Return CRIU's arguments for a restore and the init descriptors to pass, in order.

    In another pod (*is_moved*) connections have ended: the application reads their end.
    """
    connections = "--tcp-close" if is_moved else "--tcp-established"
    arguments = ["restore", "-d", connections, *_SHARED_OPTIONS]
    if has_own_ipc:
        # The segments of SysV shared memory are made anew in the container's own namespace.
        arguments += ["--join-ns", "ipc:/proc/1/ns/ipc"]
    descriptors: list[int] = []
    for position, (pipe, number) in enumerate(sorted(pipes.items())):
        arguments += ["--inherit-fd", f"fd[{FIRST_INHERITED + position}]:{pipe}"]
        descriptors.append(number)
    return arguments, descriptors


_NAMESPACES: Final = "mnt,uts,net,cgroup"
"""Entered besides the pid namespace. What is restored stays in CRIU's own cgroup namespace; with
version 2 engines give every container one. Not IPC: CRIU refuses SysV shared memory of its own."""

_PROGRAM: Final = "architect-criu"
"""Its file's name in every version's bundle."""

_PID_GAP: Final = 64
"""CRIU's own processes get pids this far above the tree's highest."""
_PID_TRIES: Final = 16
"""CRIU gets the first free one of so many pids (PID_TRIES of the fork server)."""


_SYS_OPEN_TREE: Final = 428
"""The same on every architecture. Since Linux 5.2."""
_OPEN_TREE_CLONE: Final = 1
_AT_FDCWD: Final = -100
_libc = ctypes.CDLL(None, use_errno=True)


def _apart(directory: Path) -> int:
    """Return *directory* as the top of a mount that is mounted nowhere. Raises OSError.

    Restored processes open their files by path while they still have CRIU's descriptors. A link in
    the container's files to ``/proc/self/fd/N/..`` would lead from an image's directory up to the
    node's root; from here nothing leads up.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    fd = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(directory), flags)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(directory))
    return int(fd)


def own_pids(highest_pid: int) -> range:
    """Return the pids, in the container's namespace, of which CRIU itself has one."""
    return range(highest_pid + _PID_GAP, highest_pid + _PID_GAP + _PID_TRIES)


class Kind(enum.StrEnum):
    """What CRIU is asked for."""

    DUMP = "dump"
    RESTORE = "restore"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run of CRIU inside a container's namespaces."""

    kind: Kind
    init_pid: int
    """The container's PID 1, as the host knows it."""
    image: Path
    arguments: tuple[str, ...]
    """CRIU's command line, from the kind on."""
    highest_pid: int
    """Highest pid of the tree; CRIU's own lies above."""
    cgroups: tuple[Path, ...] = ()
    """What :func:`.cgroups.entrances` returns; empty: CRIU stays in the host's."""
    inherited: tuple[int, ...] = ()
    """Descriptors of init that CRIU is given from :data:`FIRST_INHERITED` on."""

    @classmethod
    def dump(
        cls,
        *,
        init_pid: int,
        image: Path,
        tree_pid: int,
        highest_pid: int,
        is_leaving: bool = False,
    ) -> Request:
        """Return the request to dump and remove the tree below pid *tree_pid*."""
        return cls(
            kind=Kind.DUMP,
            init_pid=init_pid,
            image=image,
            arguments=tuple(dump_arguments(tree_pid=tree_pid, is_leaving=is_leaving)),
            highest_pid=highest_pid,
        )

    @classmethod
    def restore(
        cls,
        *,
        init_pid: int,
        image: Path,
        pipes: dict[str, int],
        highest_pid: int,
        cgroups: Sequence[Path],
        is_moved: bool,
    ) -> Request:
        """Return the request to restore a tree whose stdio was *pipes*, into *cgroups*."""
        arguments, inherited = restore_arguments(pipes=pipes, has_own_ipc=True, is_moved=is_moved)
        return cls(
            kind=Kind.RESTORE,
            init_pid=init_pid,
            image=image,
            arguments=tuple(arguments),
            highest_pid=highest_pid,
            cgroups=tuple(cgroups),
            inherited=tuple(inherited),
        )

    def message(self, number: int) -> bytes:
        """Return the fork server's message for this request, numbered *number*."""
        own = own_pids(self.highest_pid)
        tokens = (
            f"id={number}",
            f"kind={self.kind}",
            f"ns={_NAMESPACES}",
            f"pid={own.start}",
            f"last-pid={own.stop}",
            f"cgroups={len(self.cgroups)}",
            f"fds={len(self.inherited)}",
            "--",
            *self.arguments,
        )
        return b"".join(token.encode() + b"\0" for token in tokens)

    @contextlib.contextmanager
    def descriptors(self) -> Iterator[list[int]]:
        """Open what the message is sent with, in the order of the protocol.

        Raises OSError; NodeError if init's stdio is not what it was.
        """
        with contextlib.ExitStack() as opened:

            def keep(fd: int) -> int:
                opened.callback(os.close, fd)
                return fd

            directory = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            tree = keep(_apart(self.image))
            fds = [
                keep(os.pidfd_open(self.init_pid)),
                tree,
                keep(os.open(".", directory, dir_fd=tree)),
            ]
            # Held as long as the message, the supervisor or its CRIU lives, whoever else dies:
            # see is_working().
            fcntl.flock(fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in self.cgroups:
                flags = directory if path.is_dir() else os.O_WRONLY | os.O_CLOEXEC
                fds.append(keep(os.open(path, flags)))
            for number in self.inherited:
                fds.append(keep(initfiles.take_pipe(self.init_pid, number)))
            yield fds


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one CRIU run ended."""

    status: int
    """Exit status, or 128 plus the signal's number."""
    seconds: float


class _Connection:
    """One running server and what it was asked.

    Answers come from the supervisors, which hold the server's socket: they still come when the
    server itself was killed, and the end of the socket says that none will come any more.
    """

    def __init__(self, binary: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            try:
                # In a process group of its own: it outlives us while a CRIU works.
                self.pid = os.posix_spawn(
                    binary,
                    [str(binary), "serve"],
                    {},
                    file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
                    setpgroup=0,
                )
            except OSError:
                ours.close()
                raise
        self.socket = ours
        self.started = time.monotonic()
        self.waiting: dict[int, Future[Outcome]] = {}


class Server:
    """The fork server, started on first use and again if it has ended."""

    def __init__(self, loop: Loop, binary: Path) -> None:
        self._loop = loop
        self._binary = binary
        self._current: _Connection | None = None
        self._numbers = itertools.count(1)
        self._pause_seconds = 0.0
        self._restart: Timer | None = None

    @property
    def pid(self) -> int | None:
        """The running server's pid; None if there is none."""
        return None if self._current is None else self._current.pid

    def run(self, request: Request) -> Future[Outcome]:
        """Run CRIU and return how it ended.

        The future fails with NodeError where CRIU was not reached, and where nobody is left who
        would tell: :mod:`.runs` finds out what became of it.
        """
        number = next(self._numbers)
        future: Future[Outcome] = Future()
        try:
            with request.descriptors() as fds:
                server = self._running()
                try:
                    server.socket.sendmsg(
                        [request.message(number)],
                        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))],
                    )
                except (BrokenPipeError, ConnectionResetError):
                    self._lost(server)
                    raise
                server.waiting[number] = future
        except NodeError as error:
            future.set_error(error)
        except OSError as error:
            future.set_error(
                NodeError(
                    f"cannot start a {request.kind} of the container with init "
                    f"{request.init_pid}: {error}",
                    reason="CriuUnavailable",
                    errno=error.errno,
                )
            )
        return future

    def _running(self) -> _Connection:
        if self._current is None:
            made = self._current = _Connection(self._binary)
            self._loop.watch(made.socket.fileno(), lambda: self._receive(made))
        return self._current

    def prepare(self) -> None:
        """Start the server now, so that the first wake does not wait for it."""
        try:
            self._running()
        except OSError as error:
            log.error("cannot start %s: %s", self._binary, error)
            self._start_later(after_seconds=0.0)

    def _start_later(self, *, after_seconds: float) -> None:
        """Start a server anew after one that lived for so long.

        There is one such promise, however many servers requests have started meanwhile.
        """
        if after_seconds > FIRST_PAUSE_SECONDS:
            self._pause_seconds = 0.0
        else:
            longer = max(FIRST_PAUSE_SECONDS, 2 * self._pause_seconds)
            self._pause_seconds = min(longer, MAX_PAUSE_SECONDS)
        self._forget_restart()
        self._restart = self._loop.call_later(self._pause_seconds, self.prepare)

    def _forget_restart(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None

    def _receive(self, server: _Connection) -> None:
        while True:
            try:
                message = server.socket.recv(65536)
            except BlockingIOError:
                return
            except ConnectionResetError:
                message = b""
            if not message:
                self._lost(server)
                return
            self._answer(server, message)

    @staticmethod
    def _answer(server: _Connection, message: bytes) -> None:
        fields = dict(
            token.partition("=")[::2]
            for token in message.decode(errors="replace").split("\0")
            if token
        )
        future = server.waiting.pop(int(fields.get("id", "0")), None)
        if future is None:
            log.error("the CRIU server answered what nobody asked: %r", fields)
        elif "error" in fields:
            # What the disk says of itself is not the server's.
            reason, hint = criu_errors.translate(f"Error: {fields['error']}")
            if reason == criu_errors.UNKNOWN[0]:
                reason, hint = "CriuUnavailable", ""
            said = f"the CRIU server refused: {fields['error']}"
            future.set_error(NodeError(said, reason=reason, hint=hint))
        else:
            future.set_result(
                Outcome(status=int(fields["status"]), seconds=int(fields["usec"]) / 1e6)
            )

    def _lost(self, server: _Connection) -> None:
        self._retire(server)
        self._loop.unwatch(server.socket.fileno())
        server.socket.close()
        waiting, server.waiting = server.waiting, {}
        for future in waiting.values():
            future.set_error(NodeError("the CRIU server ended", reason="CriuUnavailable"))

    def close(self) -> None:
        """Let the server end once its runs have; nobody hears of them, and none is started."""
        self._forget_restart()
        if self._current is not None:
            self._loop.unwatch(self._current.socket.fileno())
            self._current.socket.close()
            self._current = None

    def reaped(self, pid: int) -> None:
        """Learn that child *pid* has ended; safe in a signal handler."""
        server = self._current
        if server is not None and server.pid == pid:
            # Its supervisors may work on and answer; whatever else is sent there, nobody reads.
            self._loop.call_from_thread(lambda: self._retire(server))

    def _retire(self, server: _Connection) -> None:
        if self._current is not server:
            return
        self._current = None
        log.error("the CRIU server %d has ended", server.pid)
        self._start_later(after_seconds=time.monotonic() - server.started)


def is_working(image: Path) -> bool:
    """Whether a CRIU is at work in *image*, or a request for one is under way, whosever it is.

    The children of a CRIU that was killed in the middle of a restore hold the lock, too.
    """
    try:
        fd = os.open(image, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def is_own(pid: int) -> bool:
    """Whether *pid* runs our CRIU's code (a child that has not become the application yet)."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")) == _PROGRAM
    except OSError:
        return False


def find(init_pid: int, *, highest_pid: int) -> int | None:
    """Return the pid of the CRIU that works in the container of *init_pid*; None if none lives.

    It is not among init's descendants, so this looks at every process of the node.
    """
    own = own_pids(highest_pid)
    namespace = processes.pid_namespace(init_pid)
    for pid in processes.all_pids():
        if namespace is None or processes.pid_namespace(pid) != namespace:
            continue
        if any(n in own for n in processes.ns_pids(pid)[-1:]) and processes.is_alive(pid):
            return pid
    return None


def failure(image: Path, kind: Kind, status: int) -> NodeError:
    """Return the error for a run that ended with *status*, translated from CRIU's log."""
    try:
        text = (image / f"{kind}.log").read_text(errors="replace")[-65536:]
    except FileNotFoundError:
        text = ""
    reason, hint = criu_errors.translate(text)
    said = criu_errors.cause(text)[:300] or "nothing"
    ended = f"status {status}"
    if status > images.SIGNALLED:
        ended = f"signal {status - images.SIGNALLED}"
        if reason == criu_errors.UNKNOWN[0]:
            reason, hint = "CriuKilled", "the kernel (out of memory?) or somebody killed CRIU"
    return NodeError(f"{kind} ended with {ended}; CRIU said: {said}", reason=reason, hint=hint)
