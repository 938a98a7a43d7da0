"""gVisor's runsc: where it is, and how it is run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from architect.shim import installation
from architect.shim.cli import Call

MAX_SAID_CHARS: Final = 600


def command(call: Call, words: Sequence[str]) -> list[str]:
    """Return *words* as a command line of runsc: the node's flags, and those of *call*."""
    flags = installation.runsc_flags()
    return [str(installation.runsc()), *flags, *call.words[: call.command_at], *words]


def become(call: Call) -> NoReturn:
    """Become runsc with *call* as it came."""
    words = command(call, call.words[call.command_at :])
    os.execv(words[0], words)


def complaint(said: str) -> str:
    """Return what is wrong, of what runsc *said*.

    That is its first line, bounded: it quotes whole specs, and the stack of its sandbox.
    """
    lines = said.strip().splitlines()
    return lines[0][:MAX_SAID_CHARS] if lines else "runsc did not say why"


def logged(call: Call) -> str:
    """Return the last error in the engine's log, where runsc writes it as well."""
    try:
        text = Path(call.global_options["log"]).read_text(errors="replace")
    except (KeyError, OSError):
        return ""
    found, decoder = "", json.JSONDecoder()
    while text := text.lstrip():
        try:
            entry, end = decoder.raw_decode(text)
        except ValueError:
            break
        text = text[end:]
        if isinstance(entry, dict) and entry.get("level") == "error":
            found = str(entry.get("msg"))
    return found


def run(words: Sequence[str], *, stdio: Sequence[int] = ()) -> tuple[int, str]:
    """Run a command line; return its exit status, and what it said unless it has *stdio*.

    What it says is read until it ends, not until nobody holds its output: a sandbox would.
    """
    # Not a pipe: whoever inherits that keeps the reader waiting.
    out = os.memfd_create("said")
    try:
        targets = [*stdio] or [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), out, out]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(targets)]
        pid = os.posix_spawn(words[0], list(words), os.environ, file_actions=actions)
        _, wait_status = os.waitpid(pid, 0)
        status = os.waitstatus_to_exitcode(wait_status)
        said = os.pread(out, 1 << 20, 0).decode(errors="replace")
    finally:
        os.close(out)
    return (128 - status if status < 0 else status), said
