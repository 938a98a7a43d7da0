"""The inits of this node, by content: a saved pod's images refer to the one that it ran with.

A pod keeps its init for as long as it lives, whatever is installed meanwhile, and may move to a
node on which that version never was. So the init travels with it, a few kilobytes, and is believed
by its hash, which the images name.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from architect.api import names, saved
from architect.core import files
from architect.core.errors import FormatError, NodeError

META_VERSION: Final = 1
"""Of ``meta.json``, as :mod:`architect.shim.keeper.images` writes it."""

_SHA: Final = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)

MAX_BYTES: Final = 4 * 1024**2
"""Of an init that comes; ours has less than 100 kB."""


class Inits:
    """Of one installation."""

    def __init__(self, directory: Path = names.INSTALL / "init") -> None:
        self._directory = directory

    def put_into(self, checkpoint: Path, hashes: Iterable[str]) -> None:
        """Put the inits of these SHA-256 into a checkpoint. Raises NodeError, OSError."""
        for sha in sorted(set(hashes)):
            target = checkpoint / saved.init(sha)
            files.make_private(target.parent)
            try:
                data = self._path(sha).read_bytes()
            except FileNotFoundError as error:
                raise NodeError(
                    f"init {sha:.12} of a saved pod is not on this node", reason="NoInit"
                ) from error
            files.write_atomic(target, data, mode=0o500, durable=False)

    def take_from(self, checkpoint: Path) -> None:
        """Have every init that the images of a checkpoint refer to.

        Raises NodeError, FormatError, OSError.
        """
        for sha in sorted(_referred_to(checkpoint)):
            if self._path(sha).exists():
                continue
            try:
                with open(checkpoint / saved.init(sha), "rb") as file:
                    data = file.read(MAX_BYTES + 1)
            except FileNotFoundError as error:
                raise NodeError(
                    f"init {sha:.12} is not on this node, and an earlier version of Architect did "
                    "not send it",
                    reason="NoInit",
                    hint="install that version on this node first",
                ) from error
            if len(data) > MAX_BYTES or hashlib.sha256(data).hexdigest() != sha:
                raise FormatError(f"what came as init {sha:.12} is not that")
            path = self._path(sha)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            files.write_atomic(path, data, mode=0o755)
            log.info("init %.12s came with a pod", sha)

    def _path(self, sha: str) -> Path:
        if not _SHA.fullmatch(sha):
            raise FormatError(f"{sha!r:.80} is no SHA-256 of an init")
        return self._directory / sha / "init"


def _referred_to(checkpoint: Path) -> set[str]:
    metas = files.matching(checkpoint, f"{saved.container('*')}/{saved.META}")
    return {str(files.read_json(meta, version=META_VERSION).get("init_sha")) for meta in metas}
