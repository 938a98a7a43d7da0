"""Which run of the machine this is: a reboot ends one, with all of its processes.

The kernel's boot id would tell the same, except where a node is not a whole machine.
"""

from __future__ import annotations

import uuid

from architect.api import names
from architect.core import files


def current() -> str:
    """Return this run's name; empty as long as no keeper has begun in it."""
    try:
        return names.MACHINE_RUN.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def begin() -> None:
    """Give this run its name, unless it has one. Raises OSError."""
    if not current():
        # Lives as long as the processes do: on a tmpfs.
        text = f"{uuid.uuid4().hex}\n"
        files.write_atomic(names.MACHINE_RUN, text.encode(), mode=0o600, durable=False)
