"""Which artefacts of the cache this checkout has no use for, and their removal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import artefacts, csi, dockerfiles, gomodules, gotoolchain, leftovers, rootfs
from lab.cache import IDLE_SECONDS, Cache, Entry, artefact_key, superseded


class Recorder(Cache):
    """Takes note of the artefacts that it is asked for and builds none."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.keys: set[str] = set()
        self.names: set[str] = set()

    def artefact(
        self,
        name: str,
        *,
        version: str,
        recipe: object,
        build: Callable[[Path], None],
        takes: str = "",
    ) -> Path:
        """Return where the artefact is or would be."""
        key = artefact_key(name, version, recipe)
        self.keys.add(key)
        self.names.add(name)
        return self.root / key


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was removed."""

    names: tuple[str, ...]
    freed_bytes: int


def prune(cache: Cache) -> Pruned:
    """Remove what killed builds left, and artefacts that :func:`stale` names and nobody uses."""
    removed = cache.remove_leftovers()
    freed = 0
    wanted = wanted_by_checkout(cache.root)
    entries = cache.entries()
    for entry in stale(entries, names=wanted.names, keys=wanted.keys, now=time.time()):
        size = leftovers.size_bytes(cache.root / entry.key)
        if cache.remove(entry):
            removed.append(entry.key)
            freed += size
    return Pruned(names=tuple(removed), freed_bytes=freed)


def wanted_by_checkout(root: Path) -> Recorder:
    """Return every artefact that a command of this checkout would ask for."""
    recorder = Recorder(root)
    artefacts.build(recorder)
    dockerfiles.architect(recorder)
    dockerfiles.native_programs(recorder)
    rootfs.standalone_root(recorder)
    gotoolchain.fetched(recorder)
    csi.image(recorder)
    for tool in gomodules.TOOLS:
        gomodules.tool(recorder, tool)
    return recorder


def stale(entries: Sequence[Entry], *, names: set[str], keys: set[str], now: float) -> list[Entry]:
    """Return the artefacts that are of no use: of a known name but another version or recipe.

    Of a name that only others know (the demonstration's images), those that a later one replaced.
    What was asked for within the last hour stays: another checkout may be at work.
    """
    replaced = set(superseded(entries))
    return [
        entry
        for entry in entries
        if entry.key not in keys
        and now - entry.used >= IDLE_SECONDS
        and (entry in replaced or any(entry.key.startswith(f"{name}-") for name in names))
    ]
