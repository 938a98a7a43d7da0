"""A download on this node's disk, so that a daemon that starts goes on with it.

A line that says which checkpoint it is, and one for each shard that was verified and lies in its
place. What they say holds while the machine runs: after a power cut the notes may be there and the
bytes not, so another boot begins anew.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from architect.daemon.vault import journal

VERSION: Final = 1

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
"""Another one each time the machine starts."""

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Received:
    """One download. :meth:`add` is safe to use from several threads."""

    path: Path
    shards: set[int] = field(default_factory=set)
    """Numbers of those that lie in their places."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, number: int) -> None:
        """Note that a shard lies in its place; one that cannot be noted is got again."""
        with self._lock:
            self.shards.add(number)
            try:
                journal.append(self.path, {"n": number})
            except OSError as error:
                log.warning("shard %d is not noted: %s", number, error)


def begin(path: Path, *, manifest_sha256: str) -> Received:
    """Begin a download anew; one that cannot be noted is not resumed."""
    try:
        journal.begin(path, _head(manifest_sha256))
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)
    return Received(path=path)


def resume(path: Path, *, manifest_sha256: str) -> Received | None:
    """Return how far a download of exactly this checkpoint came; None: it begins anew."""
    lines = journal.read(path)
    if not lines or lines[0] != _head(manifest_sha256):
        return None
    # Written anew, so that lines are added behind whole ones only.
    rest = begin(path, manifest_sha256=manifest_sha256)
    for value in lines[1:]:
        if not isinstance(number := value.get("n"), int):
            break
        rest.add(number)
    return rest


def _head(manifest_sha256: str) -> dict[str, Any]:
    boot_id = BOOT_ID.read_text(encoding="ascii").strip()
    return {"version": VERSION, "manifestSha256": manifest_sha256, "bootID": boot_id}
