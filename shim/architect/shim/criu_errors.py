"""What CRIU's log says, for people: a stable reason and a hint (pure)."""

from __future__ import annotations

import re
from typing import Final

_KNOWN: Final = (
    (
        re.compile(r"io_uring|anon_inode:\[io_uring\]|Can't open .*map_files", re.I),
        "IoUring",
        "the process uses io_uring; the RuntimeDefault seccomp profile denies it and programs "
        "fall back by themselves",
    ),
    (
        re.compile(r"MPTCP|unknown proto(col)? 262|Unsupported.*proto.*262", re.I),
        "Mptcp",
        "the process listens by MPTCP; Go programs stop with GODEBUG=multipathtcp=0",
    ),
    (re.compile(r"in-flight connection", re.I), "InFlight", "it is tried again"),
    (re.compile(r"No space left|ENOSPC", re.I), "NoSpace", "free space for /var/lib/architect"),
    (re.compile(r"inotify|fanotify|fsnotify", re.I), "Inotify", "the process watches files"),
    (re.compile(r"tty|ptmx|/dev/pts", re.I), "Terminal", "the process has a terminal open"),
)


def translate(text: str) -> tuple[str, str]:
    """Return (reason, hint) for the end of a log; ``Criu`` where nothing known is found."""
    for line in reversed([line for line in text.splitlines() if "Error" in line]):
        for pattern, reason, hint in _KNOWN:
            if pattern.search(line):
                return reason, hint
    return "Criu", "see the log beside the image"
