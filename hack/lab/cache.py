"""Built artefacts, one directory each, named by version and by how they are made.

A directory in the cache is complete: it is made elsewhere and renamed. A build that is killed
leaves only rubbish below ``.building``, which the next build of the same artefact removes. A
directory's time of modification is when somebody asked for it last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import commands, errors, leftovers
from lab.progress import SILENT, Progress

LOCK_TIMEOUT_SECONDS = 3600.0
"""Longer than the slowest build (Kubernetes on two slow cores) that may hold a lock."""

ROOM_BYTES = 5 << 30
"""With less free space than this a build first removes what newer artefacts have replaced."""

IDLE_SECONDS = 3600.0
"""An artefact that was asked for within this time may be in use and is never removed."""


def recipe_hash(recipe: object) -> str:
    """Name a recipe, any JSON value, by its content."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def artefact_key(name: str, version: str, recipe: object) -> str:
    """Return the name of an artefact's directory."""
    return f"{name}-{version}-{recipe_hash(recipe)}"


class LockHeld(errors.LabError):
    """Another process has not released a lock in time."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An artefact in the cache."""

    key: str
    used: float
    """When somebody asked for it last, in seconds since the epoch."""

    @property
    def subject(self) -> str:
        """Its name and version, without the hash of its recipe."""
        return self.key.rpartition("-")[0]


class Cache:
    """The directory of artefacts."""

    def __init__(self, root: Path, *, progress: Progress = SILENT) -> None:
        self.root = root
        self._progress = progress

    def artefact(
        self,
        name: str,
        *,
        version: str,
        recipe: object,
        build: Callable[[Path], None],
        takes: str = "",
    ) -> Path:
        """Return the directory of an artefact, built by *build* if it is not there.

        *build* is given an empty directory. Several processes may ask at once: one builds.
        *takes* tells the reader how long that is, where it is long.
        """
        key = artefact_key(name, version, recipe)
        target = self.root / key
        if self._take(target):
            return target
        with self.lock(key):
            if self._take(target):
                return target
            self.remove_leftovers(key)
            self._make_room()
            temporary = self._temporary(key)
            try:
                with (
                    self._progress.step(f"building {name} {version}", takes=takes),
                    commands.of_build(temporary),
                ):
                    build(temporary)
            except BaseException:
                leftovers.discard(temporary)
                raise
            temporary.rename(target)
        return target

    def remove_leftovers(self, key: str | None = None) -> list[str]:
        """Remove what killed builds of *key*, or of all artefacts that nobody builds now, left.

        Return the names of what was removed. The caller holds the lock of *key*.
        """
        removed = []
        for path in sorted(self._building.glob("*")):
            owner = path.name.partition("@")[0]
            if key is not None and owner != key:
                continue
            with contextlib.nullcontext(True) if key is not None else self._free(owner) as is_free:
                if is_free:
                    leftovers.discard(path)
                    removed.append(path.name)
        return removed

    def entries(self) -> list[Entry]:
        """Return the artefacts that are there, the one whose last use is longest ago first."""
        found = []
        for path in self.root.glob("*") if self.root.is_dir() else ():
            if path.is_dir() and re.fullmatch(r"[^.].*-[0-9a-f]{12}", path.name):
                found.append(Entry(key=path.name, used=path.stat().st_mtime))
        return sorted(found, key=lambda entry: entry.used)

    def remove(self, entry: Entry) -> bool:
        """Remove an artefact; False if somebody is at work on it, has mounted it or used it since.

        It is renamed first, so that it is there completely or not at all.
        """
        target = self.root / entry.key
        with self._free(entry.key) as is_free:
            if not is_free or not target.is_dir() or target.stat().st_mtime != entry.used:
                return False
            if leftovers.is_mounted_anywhere(target):
                return False
            temporary = self._temporary(entry.key)
            target.rename(temporary / entry.key)
            leftovers.discard(temporary)
        return True

    def _make_room(self) -> None:
        """Remove artefacts that newer ones have replaced while the disk is nearly full."""
        for entry in superseded(self.entries()):
            if shutil.disk_usage(self.root).free >= ROOM_BYTES:
                return
            if time.time() - entry.used >= IDLE_SECONDS and self.remove(entry):
                self._progress.say(f"disk is nearly full: removed {entry.key}")

    def _take(self, target: Path) -> bool:
        """Whether the artefact is there; if so, its time of last use is now."""
        try:
            os.utime(target)
        except FileNotFoundError:
            return False
        except PermissionError:
            return True  # another user's cache: to be read, not to be pruned by us
        return True

    def _temporary(self, key: str) -> Path:
        """Make a fresh directory for *key*: a build that was killed may still write to its own."""
        self._building.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{key}@", dir=self._building))
        made.chmod(0o755)
        return made

    @property
    def _building(self) -> Path:
        return self.root / ".building"

    @contextlib.contextmanager
    def _free(self, key: str) -> Iterator[bool]:
        """Hold the lock of *key* if nobody else does, and say whether that is so."""
        try:
            with hold(self._lock_file(key), timeout_seconds=0):
                yield True
        except LockHeld:
            yield False

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock named *key*; it is released when the process ends, however it ends."""
        path = self._lock_file(key)
        with hold(path, timeout_seconds=LOCK_TIMEOUT_SECONDS, progress=self._progress):
            yield

    def _lock_file(self, key: str) -> Path:
        path = self.root / ".locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def superseded(entries: Sequence[Entry]) -> list[Entry]:
    """Return those of *entries* of whose name and version another one was used later.

    *entries* are in the order of their last use, and so is what is returned.
    """
    latest = {entry.subject: entry for entry in entries}
    return [entry for entry in entries if latest[entry.subject] is not entry]


@contextlib.contextmanager
def hold(path: Path, *, timeout_seconds: float, progress: Progress = SILENT) -> Iterator[None]:
    """Hold an exclusive lock on *path*.

    Raises LockHeld if another process does not give it up within *timeout_seconds*.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout_seconds
        waiting = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LockHeld(
                        f"{path}: held by another process for {timeout_seconds:g} s",
                        hint="another run is at work",
                    ) from None
            if not waiting:
                progress.say(f"waiting for another run to release {path.name}")
                waiting = True
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
