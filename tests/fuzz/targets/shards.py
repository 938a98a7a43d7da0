"""One shard out of the object store: as it is, and sealed with the right key around any text.

An input that begins with ``text`` is what a node that has the key has encrypted: a frame of zstd,
or what it says is one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import zstandard

from architect.checkpoint.envelope import OVERHEAD_BYTES, SHARD_BYTES, Codec
from architect.core.errors import FormatError
from architect.daemon.vault import shards
from architect.daemon.vault.shards import ShardName
from fuzz import mutations

SEALED: Final = b"text"
KEY: Final = bytes(range(32))
ABOUT: Final = ShardName(id="web-1234", attempt="0123456789abcdef", number=1)
PLAIN: Final = b"what a page of memory is like " * 200


def mutate(random_: random.Random, data: bytes, others: mutations.Others) -> bytes:
    """Change the bytes, and leave alone what says how they are taken."""
    prefix = SEALED if data.startswith(SEALED) else b""
    bare = [other.removeprefix(SEALED) for other in others]
    return prefix + mutations.raw(random_, data.removeprefix(SEALED), bare)


MUTATE = mutate


def seeds() -> Iterator[bytes]:
    yield bytes(shards.seal_shard(PLAIN, key=KEY, about=ABOUT).data)
    yield SEALED + zstandard.ZstdCompressor().compress(PLAIN)
    # A small frame that says that it is large, and one that is.
    yield SEALED + zstandard.ZstdCompressor().compress(bytes(SHARD_BYTES))
    yield SEALED + zstandard.ZstdCompressor(level=19, write_content_size=False).compress(PLAIN)


def run(data: bytes) -> None:
    for codec in Codec:
        for length in (len(PLAIN), 1, SHARD_BYTES):
            sealed = _sealed(data, codec, length)
            plain = _opened(shards.open_shard, sealed, codec, length)
            assert plain is None or len(plain) == length
            assert _opened(_from_pieces, sealed, codec, length) == plain


def _from_pieces(sealed: bytes, **about: Any) -> bytes:
    return b"".join(bytes(piece) for piece in shards.open_in_pieces(sealed, **about))


def _opened(opener: Callable[..., bytes], sealed: bytes, codec: Codec, length: int) -> bytes | None:
    try:
        return opener(sealed, key=KEY, about=ABOUT, codec=codec, length=length)
    except FormatError as error:
        assert str(ABOUT) in str(error)
        return None


def _sealed(data: bytes, codec: Codec, length: int) -> bytes:
    if not data.startswith(SEALED):
        return data
    nonce = bytes(OVERHEAD_BYTES - 16)
    text = data.removeprefix(SEALED)
    cipher = shards._cipher(KEY)
    return nonce + cipher.encrypt(nonce, text, shards._authenticated(ABOUT, codec, length))
