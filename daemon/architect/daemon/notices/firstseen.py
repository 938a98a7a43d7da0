"""Deadlines that count from when something was first seen, remembered beyond a restart.

Google says that a machine is being preempted and not since when. A daemon that is restarted in the
middle of the window must not believe that it begins then. What is remembered are moments of the
monotonic clock, which goes on for as long as the machine runs; the file lies where a reboot removes
it, and names the boot that it is of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from architect.core import files
from architect.core.errors import FormatError

log = logging.getLogger(__name__)

VERSION: Final = 1
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class FirstSeen:
    """Deadlines by part of a source, and id. Not safe for use by several threads at once."""

    def __init__(self, path: Path | None = None, *, boot_id: Path = BOOT_ID) -> None:
        """Remember in *path*; None: for as long as this object lives."""
        self._path = path
        self._boot_id = boot_id
        self._deadlines = self._read()

    def earliest(self, part: str, name: str, deadline: float) -> float:
        """Return the earliest *deadline* that was given for this, and remember it."""
        key = f"{part}: {name}"
        known = self._deadlines.get(key)
        if known is not None and known <= deadline:
            return known
        self._deadlines[key] = deadline
        self._write()
        return deadline

    def retain(self, part: str, names: Iterable[str]) -> None:
        """Forget what of this part is not in *names*: when it comes again, it begins anew."""
        kept = {f"{part}: {name}" for name in names}
        gone = [k for k in self._deadlines if k.startswith(f"{part}: ") and k not in kept]
        for key in gone:
            del self._deadlines[key]
        if gone:
            self._write()

    def _boot(self) -> str:
        return self._boot_id.read_text(encoding="ascii").strip()

    def _read(self) -> dict[str, float]:
        if self._path is None:
            return {}
        try:
            value = files.read_json(self._path, version=VERSION)
            found = value.get("deadlines")
            if value.get("boot") != self._boot() or not isinstance(found, dict):
                return {}
            return {k: float(v) for k, v in found.items() if isinstance(v, (int, float))}
        except FileNotFoundError:
            return {}
        except (OSError, FormatError, ValueError, OverflowError) as error:
            log.warning("%s is not read: %s", self._path, error)
            return {}

    def _write(self) -> None:
        if self._path is None:
            return
        value = {"version": VERSION, "boot": "", "deadlines": self._deadlines}
        try:
            value["boot"] = self._boot()
            files.write_json(self._path, value, durable=False)
        except (OSError, ValueError) as error:
            log.warning("%s is not written, and a restart would not know: %s", self._path, error)
