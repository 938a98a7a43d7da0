"""Built artefacts, one directory each, named by version and by how they are made.

A directory in the cache is complete: it is made elsewhere and renamed. A build that is killed
leaves only rubbish below ``.building``, which the next build of the same artefact removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab import errors
from lab.progress import SILENT, Progress

LOCK_TIMEOUT_SECONDS = 3600.0
"""Longer than the slowest build (Kubernetes on two slow cores) that may hold a lock."""


def recipe_hash(recipe: object) -> str:
    """Name a recipe, any JSON value, by its content."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
        key = f"{name}-{version}-{recipe_hash(recipe)}"
        target = self.root / key
        if target.is_dir():
            return target
        with self.lock(key):
            if target.is_dir():
                return target
            temporary = self.root / ".building" / key
            if temporary.exists():
                shutil.rmtree(temporary)
            temporary.mkdir(parents=True)
            try:
                with self._progress.step(f"building {name} {version}", takes=takes):
                    build(temporary)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            temporary.rename(target)
        return target

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock named *key*; it is released when the process ends, however it ends."""
        path = self.root / ".locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold(path, timeout_seconds=LOCK_TIMEOUT_SECONDS, progress=self._progress):
            yield


@contextlib.contextmanager
def hold(path: Path, *, timeout_seconds: float, progress: Progress = SILENT) -> Iterator[None]:
    """Hold an exclusive lock on *path*.

    Raises LabError if another process does not give it up within *timeout_seconds*.
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
                    raise errors.LabError(
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
