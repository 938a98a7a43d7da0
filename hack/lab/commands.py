"""Run programs with a bound, and say what they said when they fail."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from lab import errors

TAIL_BYTES = 4000
"""How much of a failed program's output an error carries."""


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

    With *log*, both streams are appended to that file and "" is returned. The program runs in a
    session of its own, so that on timeout everything it started is killed with it.

    Raises CommandFailed for a status other than 0 and for a program that is not there.
    """
    process = _start(argv, stdin=stdin, has_input=input is not None, env=env, cwd=cwd, log=log)
    data = None if input is None else input.encode()
    try:
        out, err = process.communicate(data, timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        kill_group(process)
        out, err = process.communicate()
        raise errors.CommandFailed(
            f"{quote(argv)}: not finished after {timeout_seconds:g} s{_tail(out, err, log)}"
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
