"""Text files of /proc, in which others chose some of the words.

A process names itself (``prctl``, 15 bytes of anything), and whoever mounts chooses where. The
kernel escapes line feeds, backslashes and, in mount tables, blanks. It writes every other byte as
it is: what is no UTF-8, such as half of a name that was cut, and what Python's ``splitlines`` takes
for the end of a line although it is none (form feeds, U+2028 and others).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

GONE: Final = (FileNotFoundError, ProcessLookupError, PermissionError)
"""What reading about a process raises that has ended, or ends in between: the last one where a link
is read (``exe``, ``fd/N``, ``ns/net``), for the kernel cannot ask any more whether we may."""

PF_EXITING: Final = 0x4
"""<linux/sched.h>"""


def lines(path: Path | str) -> list[str]:
    """Return the lines of a file, without their ends. Raises OSError."""
    return lines_of(Path(path).read_bytes())


def lines_of(raw: bytes) -> list[str]:
    """Return the lines of *raw*, without their ends. Pure."""
    text = raw.decode(errors="replace")
    return text.removesuffix("\n").split("\n") if text else []


def status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status; empty if the process has ended."""
    try:
        return status_of(Path(f"/proc/{pid}/status").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return {}


def status_of(raw: bytes) -> dict[str, str]:
    """Return the fields in *raw*, the content of such a file. Pure."""
    pairs = (line.split(":\t", 1) for line in lines_of(raw))
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def is_ending(pid: int) -> bool:
    """Whether *pid* has ended or gives back what it has: what /proc says of it is not its own."""
    try:
        found = stat_of(Path(f"/proc/{pid}/stat").read_bytes())
    except GONE:
        return True
    return bool(int(found[6]) & PF_EXITING)


def stat_of(raw: bytes) -> list[str]:
    """Return the fields of a /proc/PID/stat behind the process's name: its state is the first.

    Pure. The name is in parentheses, and may hold some.
    """
    return raw[raw.rindex(b")") + 2 :].decode().split()
