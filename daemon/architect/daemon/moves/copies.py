"""Copies of pods on this node's disk, on their way into the object store.

::

    requests/<id>/           a copy, by the uid of the PersistentCheckpoint that asked for it
    requests/<id>.partial/   one that is being made, or removed
    requests/<id>.json       how far its way into the object store has come

They are nobody's but the object store's: no other node asks for them, and no pod of this one. So
they lie apart from the pods that left (:mod:`.depot`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Final

from architect.api import names
from architect.core import files
from architect.core.errors import NodeError
from architect.daemon.moves.depot import PARTIAL, safe_name

NOTES: Final = ".json"


class Copies:
    """Their directory. Safe to use from several threads, one copy a thread."""

    def __init__(self, directory: Path = names.REQUESTS, *, floor_bytes: int = 0) -> None:
        self._directory = directory
        self._floor_bytes = floor_bytes

    def begin(self, id: str) -> Path:
        """Return an empty directory for a copy. Raises NodeError for a full disk, OSError."""
        path = self._half(id)
        shutil.rmtree(path, ignore_errors=True)
        files.make_private(path.parent)
        path.mkdir(mode=0o700)
        self.check_room()
        return path

    def check_room(self) -> None:
        """Raise NodeError if less than the floor is free. Raises OSError."""
        at = os.statvfs(self._directory)
        free = at.f_bavail * at.f_frsize
        if free < self._floor_bytes:
            raise NodeError(
                f"{free >> 20} MiB are free for copies, of which {self._floor_bytes >> 20} MiB are "
                "to stay free",
                reason="NoSpace",
                hint=f"free space on the file system of {self._directory}",
            )

    def finish(self, id: str) -> Path:
        """Make a copy whole; return where it lies. Raises OSError."""
        whole = self._directory / safe_name(id)
        self._half(id).rename(whole)
        return whole

    def give_up(self, id: str) -> None:
        """Remove half a copy."""
        shutil.rmtree(self._half(id), ignore_errors=True)

    def find(self, id: str) -> Path | None:
        """Return where a whole copy lies; None if it does not."""
        found = self._directory / safe_name(id)
        return found if found.is_dir() else None

    def notes(self, id: str) -> Path:
        """Return the file that says how far a copy's way into the object store has come."""
        return self._directory / f"{safe_name(id)}{NOTES}"

    def drop(self, id: str) -> None:
        """Remove all of a copy: it lies in the object store, or nobody wants it any more."""
        self.give_up(id)
        if (whole := self.find(id)) is not None:
            whole.rename(self._half(id))  # half a removal must not look whole
            self.give_up(id)
        self.notes(id).unlink(missing_ok=True)

    def all(self) -> set[str]:
        """Return the ids of which anything lies here. Raises OSError."""
        try:
            found = os.listdir(self._directory)
        except FileNotFoundError:
            return set()
        return {name.removesuffix(PARTIAL).removesuffix(NOTES) for name in found}

    def sweep(self, *, but: Container[str]) -> None:
        """Remove halves of copies at which nobody is: all but these. Raises OSError."""
        for id in self.all():
            if id not in but:
                self.give_up(id)

    def _half(self, id: str) -> Path:
        return self._directory / f"{safe_name(id)}{PARTIAL}"
