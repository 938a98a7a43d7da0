"""One shard of a sealed checkpoint: compressed where that pays, encrypted, and back.

A sealed shard is a random nonce of 12 bytes and what AES-256-GCM makes of the text after its codec,
tag included. Authenticated with it is which shard of which upload it is, its codec and its length,
so that none can stand in for another. A data key is of one upload, which has 2^18 shards at the
most: two of them have the same random nonce with a probability of 2^-60.

Memory images are made of pages that are zero, text-like or as good as random. A shard of the last
kind is recognised by a sample and stored as it is.

Everything here may run in many threads at once: an object of ``zstandard`` may not, so each call
makes its own, which costs 10 µs. Compression and decompression let other threads run meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from architect.checkpoint import digests, keys, strict
from architect.checkpoint.envelope import OVERHEAD_BYTES, SHARD_BYTES, Codec, Shard
from architect.core.errors import FormatError

LEVEL: Final = 1
"""Of zstd: the fastest of its ordinary ones, since a pod that moves is waited for."""

WORTH: Final = 0.9
"""What compression leaves of a shard, at most, for it to be kept."""

SAMPLES: Final = 16
SAMPLE_BYTES: Final = 4096
"""Of each sample, at even distances: a page. 64 KiB in all tell of 8 MiB in less than 0.5 ms."""

PIECE_BYTES: Final = 512 * 1024
"""Of a shard's text at once: it stays in a core's cache until it is written."""

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = OVERHEAD_BYTES - _NONCE_BYTES
_PURPOSE: Final = "architect.dev/checkpoint-shard/1"

Data = bytes | bytearray | memoryview


@dataclass(frozen=True, kw_only=True)
class ShardName:
    """Which shard it is."""

    id: str
    """Of the checkpoint."""
    attempt: str
    """Of the upload."""
    number: int

    def __str__(self) -> str:
        return f"shard {self.number} of {self.id:.128} ({self.attempt:.16})"


@dataclass(frozen=True, kw_only=True)
class SealedShard:
    """What is stored."""

    data: bytearray
    codec: Codec

    def to_entry(self) -> Shard:
        """Return what the envelope says of it."""
        return Shard(size=len(self.data), hash=digests.of(self.data), codec=self.codec)


def seal_shard(plain: Data, *, key: bytes, about: ShardName) -> SealedShard:
    """Return *plain*, of 1 to ``SHARD_BYTES`` bytes, encrypted with the data *key*.

    Sealing the same again gives other bytes. Raises FormatError for another length.
    """
    _check_length(len(plain), about)
    codec, packed = _pack(plain)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    data = bytearray(len(packed) + OVERHEAD_BYTES)
    # Into its place: a copy would be 8 MiB more for each shard that is under way.
    view = memoryview(data)
    view[:_NONCE_BYTES] = nonce
    _cipher(key).encrypt_into(
        nonce, packed, _authenticated(about, codec, len(plain)), view[_NONCE_BYTES:]
    )
    return SealedShard(data=data, codec=codec)


def open_in_pieces(
    data: Data, *, key: bytes, about: ShardName, codec: Codec, length: int
) -> Iterator[memoryview]:
    """Yield what :func:`open_shard` returns, piece by piece, each good until the next.

    Of a shard that is not compressed no more than a piece is in memory besides *data*. That it is
    what was sealed is known once all of it was yielded: until then it may go where nobody reads it.
    Raises FormatError, in the end at the latest.
    """
    if codec is not Codec.NONE:
        yield memoryview(open_shard(data, key=key, about=about, codec=codec, length=length))
        return
    _check_length(length, about)
    if len(data) != OVERHEAD_BYTES + length:
        raise FormatError(f"{about} has {len(data)} bytes, sealed, for {length} bytes of text")
    view = memoryview(data)
    nonce, text, tag = view[:_NONCE_BYTES], view[_NONCE_BYTES:-_TAG_BYTES], view[-_TAG_BYTES:]
    _check_key(key)
    opener = Cipher(algorithms.AES(key), modes.GCM(bytes(nonce), bytes(tag))).decryptor()
    opener.authenticate_additional_data(_authenticated(about, codec, length))
    # A block more, which the call asks for of any cipher.
    piece = memoryview(bytearray(min(PIECE_BYTES, length) + algorithms.AES.block_size // 8))
    for start in range(0, length, PIECE_BYTES):
        count = opener.update_into(text[start : start + PIECE_BYTES], piece)
        yield piece[:count]
    try:
        opener.finalize()
    except InvalidTag as error:
        raise _damaged(about) from error


def open_shard(data: Data, *, key: bytes, about: ShardName, codec: Codec, length: int) -> bytes:
    """Return the *length* bytes that :func:`seal_shard` was given with the same *key* and *about*.

    Nothing is decompressed before it was found to be what that call made, and nothing that would
    have another length than *length*. Raises FormatError, which names the shard.
    """
    _check_length(length, about)
    if not OVERHEAD_BYTES < len(data) <= OVERHEAD_BYTES + length:
        raise FormatError(f"{about} has {len(data)} bytes, sealed, for {length} bytes of text")
    view = memoryview(data)
    try:
        packed = _cipher(key).decrypt(
            view[:_NONCE_BYTES], view[_NONCE_BYTES:], _authenticated(about, codec, length)
        )
    except InvalidTag as error:
        raise _damaged(about) from error
    plain = packed if codec is Codec.NONE else _decompress(packed, length, about)
    if len(plain) != length:
        raise FormatError(f"{about} has {len(plain)} bytes of text instead of {length}")
    return plain


def _check_length(length: int, about: ShardName) -> None:
    if not 1 <= length <= SHARD_BYTES:
        raise FormatError(f"{about} cannot have {length} bytes of text: 1 to {SHARD_BYTES} can be")


def _cipher(key: bytes) -> AESGCM:
    _check_key(key)
    return AESGCM(key)


def _check_key(key: bytes) -> None:
    # A shorter key would be taken, for a weaker cipher.
    if len(key) != keys.DATA_KEY_BYTES:
        raise FormatError(f"{len(key)} bytes are not a data key")


def _damaged(about: ShardName) -> FormatError:
    return FormatError(f"{about} is damaged, or was sealed as another shard or with another key")


def _authenticated(about: ShardName, codec: Codec, length: int) -> bytes:
    return strict.canonical(
        {
            "purpose": _PURPOSE,
            "checkpoint": about.id,
            "attempt": about.attempt,
            "shard": about.number,
            "codec": codec.value,
            "length": length,
        }
    )


def _pack(plain: Data) -> tuple[Codec, Data]:
    if _may_pay(plain):
        packed = _compress(plain)
        if _pays(packed, plain):
            return Codec.ZSTD, packed
    return Codec.NONE, plain


def _may_pay(plain: Data) -> bool:
    """Whether a sample of *plain* gets smaller; of a short one, nothing is known before."""
    if len(plain) <= 2 * SAMPLES * SAMPLE_BYTES:
        return True
    step = len(plain) // SAMPLES
    view = memoryview(plain)
    sample = b"".join(view[n * step : n * step + SAMPLE_BYTES] for n in range(SAMPLES))
    return _pays(_compress(sample), sample)


def _pays(packed: Data, plain: Data) -> bool:
    return len(packed) <= WORTH * len(plain)


def _compress(plain: Data) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(plain)


def _decompress(packed: bytes, length: int, about: ShardName) -> bytes:
    """Return what the one frame in *packed* holds.

    The frame's own word for its length decides how much memory is taken, so it is looked at first;
    zstd does not write beyond it. The window is memory, too.
    """
    try:
        said = zstandard.get_frame_parameters(packed).content_size
        if said != length:
            raise FormatError(f"{about} would have {said} bytes of text instead of {length}")
        return zstandard.ZstdDecompressor(max_window_size=SHARD_BYTES).decompress(
            packed, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FormatError(f"{about} cannot be decompressed: {error!s:.200}") from error
