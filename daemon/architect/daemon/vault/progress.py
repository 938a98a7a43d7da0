"""An upload on this node's disk, so that a daemon that starts goes on with it.

A line that begins the upload, and one for each shard that lies in the store and was proved to be
what the manifest says (:mod:`.proof`): the next daemon believes it without reading a byte. The data
key is in it, beside the memory that it protects elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from architect.checkpoint import digests, envelope, keys
from architect.checkpoint.envelope import Codec, Shard
from architect.core.errors import FormatError
from architect.daemon.vault import journal

VERSION: Final = 3
"""In 1 a line meant that the shard was sent, and no more; in 2 shards had SHA-256."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, repr=False)
class Begun:
    """What an upload began with."""

    manifest_sha256: str
    attempt: str
    data_key: bytes
    key_id: str
    wrapped_key: bytes


@dataclass(kw_only=True, repr=False)
class Progress:
    """One upload. :meth:`add` is safe to use from several threads."""

    begun: Begun
    path: Path
    shards: dict[int, Shard] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, number: int, shard: Shard) -> None:
        """Note that a shard lies in the store, and is what the manifest says.

        A disk that takes no note (it may be full, and this upload what makes room) costs only that
        the shard is sent again if the daemon ends before the upload does.
        """
        line = {
            "n": number,
            "size": shard.size,
            digests.NAME: shard.hash,
            "codec": shard.codec.value,
        }
        with self._lock:
            self.shards[number] = shard
            try:
                journal.append(self.path, line)
            except OSError as error:
                log.warning("shard %d is not noted: %s", number, error)


def begin(path: Path, begun: Begun) -> Progress:
    """Begin an upload anew. Raises OSError."""
    journal.begin(
        path,
        {
            "version": VERSION,
            "manifestSha256": begun.manifest_sha256,
            "attempt": begun.attempt,
            "dataKey": _encoded(begun.data_key),
            "keyID": begun.key_id,
            "wrappedKey": _encoded(begun.wrapped_key),
        },
    )
    return Progress(begun=begun, path=path)


def resume(path: Path, *, manifest_sha256: str) -> Progress | None:
    """Return how far an upload of exactly this checkpoint came; None: it begins anew."""
    lines = journal.read(path)
    try:
        begun = _begun(lines[0])
    except (ValueError, IndexError, KeyError, TypeError, FormatError):
        return None
    if begun.manifest_sha256 != manifest_sha256:
        return None
    # Written anew, so that lines are added behind whole ones only.
    rest = begin(path, begun)
    for value in lines[1:]:
        try:
            number, shard = _shard(value)
        except (ValueError, KeyError, TypeError):
            break  # what comes behind it is uploaded again
        rest.add(number, shard)
    return rest


def shards_noted(path: Path) -> int:
    """Return how many shards the notes of an upload name, which may be under way; 0 without any."""
    try:
        with open(path, "rb") as file:
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0
    return max(0, lines - 1)


def _begun(value: Mapping[str, Any]) -> Begun:
    if value["version"] != VERSION:
        raise FormatError(f"an upload of version {value['version']!r:.40}")
    begun = Begun(
        manifest_sha256=str(value["manifestSha256"]),
        attempt=str(value["attempt"]),
        data_key=_decoded(value["dataKey"]),
        key_id=str(value["keyID"]),
        wrapped_key=_decoded(value["wrappedKey"]),
    )
    if len(begun.data_key) != keys.DATA_KEY_BYTES or not envelope.is_attempt(begun.attempt):
        raise FormatError("an upload with another kind of key or name")
    return begun


def _shard(value: Mapping[str, Any]) -> tuple[int, Shard]:
    return int(value["n"]), Shard(
        size=int(value["size"]), hash=str(value[digests.NAME]), codec=Codec(value["codec"])
    )


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise FormatError("not base64") from error
