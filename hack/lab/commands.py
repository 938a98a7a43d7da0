"""Run programs with a bound, and say what they said when they fail."""

from __future__ import annotations

import contextlib
import contextvars
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from lab import errors
from lab.patience import patient

TAIL_BYTES = 4000
"""How much of a failed program's output an error carries."""

BUILD_VARIABLE = "ARCHITECT_BUILD"
"""Names the directory that a program builds in; what the program starts inherits it."""

_build: contextvars.ContextVar[Path | None] = contextvars.ContextVar("build", default=None)


class _Builds:
    """The programs of builds that run now, in whatever thread."""

    def __init__(self) -> None:
        self.stopped = False
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()

    @contextlib.contextmanager
    def holding(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        with self._lock:
            self._processes.add(process)
        try:
            if self.stopped:
                kill_group(process)
            yield
        finally:
            with self._lock:
                self._processes.discard(process)

    def stop(self) -> None:
        self.stopped = True
        # No lock: a signal handler, which calls this, may have interrupted the lock's holder.
        for process in list(self._processes):
            if process.returncode is None:
                kill_group(process)


_builds = _Builds()


@contextlib.contextmanager
def of_build(directory: Path) -> Iterator[None]:
    """Mark the programs that this thread runs meanwhile as building in *directory*."""
    token = _build.set(directory)
    try:
        yield
    finally:
        _build.reset(token)


def stop_builds() -> None:
    """Kill the programs of all builds of this process and let no more of them start.

    For signal handlers: a thread that waits for a compiler of ten minutes hears of no Ctrl-C, and
    programs in sessions of their own do not either.
    """
    _builds.stop()


def run(
    argv: Sequence[str | Path],
    *,
    timeout_seconds: float = 60,
    input: str | None = None,
    stdin: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> str:
    """Return the standard output of *argv*.

    *timeout_seconds* are as long as they are on this machine (:mod:`lab.patience`).
    With *log*, both streams are appended to that file and "" is returned. The program runs in a
    session of its own, so that on timeout everything it started is killed with it.

    Raises CommandFailed for a status other than 0 and for a program that is not there.
    """
    process = _start(argv, stdin=stdin, has_input=input is not None, env=env, cwd=cwd, log=log)
    data = None if input is None else input.encode()
    limit_seconds = patient(timeout_seconds)
    try:
        with _builds.holding(process) if _build.get() else contextlib.nullcontext():
            out, err = process.communicate(data, timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        kill_group(process)
        out, err = process.communicate()
        raise errors.CommandFailed(
            f"{quote(argv)}: not finished after {limit_seconds:g} s{_tail(out, err, log)}"
        ) from None
    except BaseException:
        kill_group(process)
        raise
    if process.returncode != 0:
        raise errors.CommandFailed(
            f"{quote(argv)}: {describe_status(process.returncode)}{_tail(out, err, log)}",
            output=_text(out) + _text(err),
            status=process.returncode,
        )
    return _text(out)


def describe_status(status: int) -> str:
    """Say how a process ended, as subprocess reports it."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def quote(argv: Sequence[str | Path]) -> str:
    """Shorten a command line for a message."""
    text = shlex.join(str(word) for word in argv)
    return text if len(text) <= 200 else text[:197] + "..."


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process started in its own session, and what it started in it."""
    with contextlib.suppress(ProcessLookupError):  # it ended by itself in between
        os.killpg(process.pid, signal.SIGKILL)


def _start(
    argv: Sequence[str | Path],
    *,
    stdin: IO[bytes] | None,
    has_input: bool,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    log: Path | None,
) -> subprocess.Popen[bytes]:
    words = [str(word) for word in argv]
    directory = _build.get()
    if directory is not None:
        if _builds.stopped:
            raise errors.CommandFailed(f"{quote(words)}: not started, the build was interrupted")
        env = {**(os.environ if env is None else env), BUILD_VARIABLE: str(directory)}
    source: int | IO[bytes] = subprocess.PIPE if has_input else stdin or subprocess.DEVNULL
    try:
        if log is None:
            return subprocess.Popen(
                words,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        with log.open("ab") as target:
            return subprocess.Popen(
                words,
                stdin=source,
                stdout=target,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
    except FileNotFoundError as error:
        raise errors.CommandFailed(f"{quote(words)}: {error.strerror}: {error.filename}") from error


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


def _tail(out: bytes | None, err: bytes | None, log: Path | None) -> str:
    data = (err or b"") or (out or b"")
    if log is not None:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
            data = stream.read()
    text = _text(data[-TAIL_BYTES:]).strip()
    return f"\n{text}" if text else ""
