"""CRIU as the keeper uses it: command lines (pure) and the fork server that runs them.

``architect-criu serve`` has prepared itself once on the host; for each request it forks a process
that enters the container's namespaces and runs CRIU's code there, so that nothing is executed,
loaded or configured from the container's file system. Its protocol (one SOCK_SEQPACKET message per
request) is described in ``shim/native/criu/README.md``.
"""

from __future__ import annotations

import array
import fcntl
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.core.errors import NodeError
from architect.shim import criu_errors
from architect.shim.keeper.loop import Future, Loop

log = logging.getLogger(__name__)

FIRST_INHERITED: Final = 200
"""Number of the first passed descriptor inside CRIU (see the fork server)."""

_SHARED_OPTIONS: Final = (
    # Our packet queue holds the network; CRIU's own lock would leave drop rules behind.
    "--network-lock",
    "skip",
    "--tcp-established",
    "--file-locks",
    "--link-remap",
    # On the command line, with the equals sign: in a configuration file it means "soft" and costs
    # a cgroup yard of 9-15 ms.
    "--manage-cgroups=ignore",
    "--ghost-limit",
    "64M",
    "-v2",
)


def dump_arguments(*, tree_pid: int) -> list[str]:
    """Return CRIU's arguments for dumping and removing the tree below pid *tree_pid*."""
    return ["dump", "-t", str(tree_pid), *_SHARED_OPTIONS]


def restore_arguments(*, pipes: dict[str, int], has_own_ipc: bool) -> tuple[list[str], list[int]]:
    """Return CRIU's arguments for a restore and the init descriptors to pass, in order."""
    arguments = ["restore", "-d", *_SHARED_OPTIONS]
    if has_own_ipc:
        # The segments of SysV shared memory are made anew in the container's own namespace.
        arguments += ["--join-ns", "ipc:/proc/1/ns/ipc"]
    descriptors: list[int] = []
    for position, (pipe, number) in enumerate(sorted(pipes.items())):
        arguments += ["--inherit-fd", f"fd[{FIRST_INHERITED + position}]:{pipe}"]
        descriptors.append(number)
    return arguments, descriptors


_NAMESPACES: Final = "mnt,uts,net"
"""Entered besides the pid namespace. Not IPC: CRIU refuses SysV shared memory of its own one."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one CRIU run ended."""

    status: int
    """Exit status, or 128 plus the signal's number."""
    seconds: float


class Server:
    """The running fork server, started on first use and again if it has ended."""

    def __init__(self, loop: Loop, binary: Path) -> None:
        self._loop = loop
        self._binary = binary
        self._socket: socket.socket | None = None
        self._pid = 0
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Outcome]] = {}

    def dump(
        self, *, init_pid: int, image: Path, arguments: Sequence[str], own_pid: int
    ) -> Future[Outcome]:
        """Run a dump; the future fails with NodeError only if CRIU could not be started."""
        return self._request(
            kind="dump",
            namespaces=_NAMESPACES,
            init_pid=init_pid,
            image=image,
            arguments=arguments,
            own_pid=own_pid,
            cgroups=(),
            inherited=(),
        )

    def restore(
        self,
        *,
        init_pid: int,
        image: Path,
        arguments: Sequence[str],
        own_pid: int,
        cgroups: Sequence[Path],
        inherited: Sequence[int],
    ) -> Future[Outcome]:
        """Run a restore inside *cgroups* (``cgroup.procs`` files), with init's descriptors."""
        return self._request(
            kind="restore",
            namespaces=_NAMESPACES,
            init_pid=init_pid,
            image=image,
            arguments=arguments,
            own_pid=own_pid,
            cgroups=cgroups,
            inherited=inherited,
        )

    def _request(
        self,
        *,
        kind: str,
        namespaces: str,
        init_pid: int,
        image: Path,
        arguments: Sequence[str],
        own_pid: int,
        cgroups: Sequence[Path],
        inherited: Sequence[int],
    ) -> Future[Outcome]:
        number = next(self._numbers)
        future: Future[Outcome] = Future()
        opened: list[int] = []

        def keep(fd: int) -> int:
            opened.append(fd)
            return fd

        try:
            keep(os.pidfd_open(init_pid))
            directory = keep(os.open(image, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            # The lock is held as long as we or the forked CRIU live: a restarted keeper sees that
            # CRIU is still at work.
            work = keep(os.open(image, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            fcntl.flock(work, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert directory != work
            for path in cgroups:
                keep(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
            for descriptor in inherited:
                flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY
                keep(os.open(f"/proc/{init_pid}/fd/{descriptor}", flags | os.O_CLOEXEC))
            tokens = [
                f"id={number}",
                f"kind={kind}",
                f"ns={namespaces}",
                f"pid={own_pid}",
                f"last-pid={own_pid + 16}",
                f"cgroups={len(cgroups)}",
                f"fds={len(inherited)}",
                "--",
                *arguments,
            ]
            message = b"".join(token.encode() + b"\0" for token in tokens)
            server = self._running()
            self._waiting[number] = future
            server.sendmsg(
                [message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", opened))]
            )
        except OSError as error:
            self._waiting.pop(number, None)
            future.set_error(
                NodeError(
                    f"cannot start a {kind} of the container with init {init_pid}: {error}",
                    reason="CriuUnavailable",
                    errno=error.errno,
                )
            )
        finally:
            for fd in opened:
                os.close(fd)
        return future

    def _running(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # The server runs in a process group of its own and outlives us while a CRIU works.
        self._pid = os.posix_spawn(
            self._binary,
            [str(self._binary), "serve"],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)],
            setpgroup=0,
        )
        theirs.close()
        self._socket = ours
        self._loop.watch(ours.fileno(), self._receive)
        return ours

    def prepare(self) -> None:
        """Start the server now, so that the first wake does not wait for it."""
        try:
            self._running()
        except OSError as error:
            log.error("cannot start %s: %s", self._binary, error)

    def _receive(self) -> None:
        assert self._socket is not None
        while True:
            try:
                message = self._socket.recv(65536)
            except BlockingIOError:
                return
            except ConnectionResetError:
                message = b""
            if not message:
                self._lost()
                return
            self._answer(message)

    def _answer(self, message: bytes) -> None:
        fields = dict(
            token.partition("=")[::2]
            for token in message.decode(errors="replace").split("\0")
            if token
        )
        future = self._waiting.pop(int(fields.get("id", "0")), None)
        if future is None:
            log.error("the CRIU server answered what nobody asked: %r", fields)
        elif "error" in fields:
            future.set_error(
                NodeError(f"the CRIU server refused: {fields['error']}", reason="CriuUnavailable")
            )
        else:
            future.set_result(
                Outcome(status=int(fields["status"]), seconds=int(fields["usec"]) / 1e6)
            )

    def _lost(self) -> None:
        assert self._socket is not None
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._socket = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_error(NodeError("the CRIU server ended", reason="CriuUnavailable"))

    def reaped(self, pid: int) -> None:
        """Learn that child *pid* has ended."""
        if pid == self._pid:
            self._pid = 0


def is_working(image: Path) -> bool:
    """Whether a CRIU started by an earlier keeper is still at work in *image*."""
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


def failure(
    image: Path,
    kind: str,
    outcome: Outcome,
    *,
    translate: Callable[[str], tuple[str, str]] | None = None,
) -> NodeError:
    """Return the error for a failed run, translated from the end of CRIU's log."""
    path = image / f"{kind}.log"
    try:
        text = path.read_text(errors="replace")[-65536:]
    except FileNotFoundError:
        text = ""
    reason, hint = (translate or criu_errors.translate)(text)
    said = criu_errors.cause(text)[:300] or "nothing"
    ended = (
        f"signal {signal.Signals(outcome.status - 128).name}"
        if 128 < outcome.status < 128 + signal.NSIG
        else f"status {outcome.status}"
    )
    return NodeError(f"{kind} ended with {ended}; CRIU said: {said}", reason=reason, hint=hint)
