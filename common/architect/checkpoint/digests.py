"""The hash of bulk bytes: of the segments of a checkpoint's pieces, and of its sealed shards.

It is BLAKE3 with 256 bits of output (https://github.com/BLAKE3-team/BLAKE3-specs, by the official
implementation): to find another text with the same hash takes 2^128 work, as with SHA-256, and to
hash takes a quarter of SHA-256's time on a processor that has instructions for the latter
(``docs/decisions/0024-bulk-bytes-are-hashed-by-blake3.md``). What is small or other people's keeps
SHA-256: the names of manifests and envelopes, signatures, inits, images, keys.

This is the only place that knows which hash it is. The library is imported when something is
hashed: the operator reads the formats, hashes no bulk bytes, and does without.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from architect.checkpoint import strict

if TYPE_CHECKING:
    from blake3 import blake3

NAME: Final = "blake3"
"""Of the key that holds such a hash, in every format."""

BYTES: Final = 32

form: Final = strict.matching(re.compile(rf"[0-9a-f]{{{2 * BYTES}}}"))
"""How a hash is written, for readers of formats."""


def hasher() -> blake3:
    """Return a hash of nothing yet: ``update`` and ``hexdigest`` as those of ``hashlib``.

    It uses the calling thread only, and lets others run for all but the smallest updates.
    """
    from blake3 import blake3

    return blake3()


def of(data: bytes | bytearray | memoryview) -> str:
    """Return the hash of *data*, as it is written."""
    value = hasher()
    value.update(data)
    return value.hexdigest()
