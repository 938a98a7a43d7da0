"""Shards: what was sealed comes back, and nothing else does."""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import json
import os
import tracemalloc
from typing import Any

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import assume, given
from hypothesis import strategies as st

from architect.checkpoint.envelope import OVERHEAD_BYTES, SHARD_BYTES, Codec, Shard
from architect.core.errors import FormatError
from architect.daemon.vault import shards
from architect.daemon.vault.shards import (
    PIECE_BYTES,
    SealedShard,
    ShardName,
    open_in_pieces,
    open_shard,
    seal_shard,
)

KEY = b"k" * 32
ABOUT = ShardName(id="web-1234", attempt="0123456789abcdef", number=7)
WORDS = b"".join(b"%d bottles of beer, " % n for n in range(10_000))


def opened(
    sealed: SealedShard, length: int, *, key: bytes = KEY, about: ShardName = ABOUT
) -> bytes:
    return open_shard(sealed.data, key=key, about=about, codec=sealed.codec, length=length)


def in_pieces(
    sealed: SealedShard, length: int, *, key: bytes = KEY, about: ShardName = ABOUT
) -> list[bytes]:
    pieces = open_in_pieces(sealed.data, key=key, about=about, codec=sealed.codec, length=length)
    return [bytes(piece) for piece in pieces]


def forged(packed: bytes, length: int, *, codec: Codec = Codec.ZSTD) -> bytes:
    """Seal *packed* as one who has the data key and says what is not so."""
    said = {
        "purpose": "architect.dev/checkpoint-shard/1",
        "checkpoint": ABOUT.id,
        "attempt": ABOUT.attempt,
        "shard": ABOUT.number,
        "codec": codec.value,
        "length": length,
    }
    aad = json.dumps(said, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    nonce = os.urandom(12)
    return nonce + AESGCM(KEY).encrypt(nonce, packed, aad)


PLAIN = st.binary(min_size=1, max_size=2000) | st.builds(
    lambda part, times: part * times, st.binary(min_size=1, max_size=50), st.integers(1, 5000)
)


@given(PLAIN)
def test_any_text_comes_back(plain: bytes) -> None:
    sealed = seal_shard(plain, key=KEY, about=ABOUT)
    assert opened(sealed, len(plain)) == plain
    assert b"".join(in_pieces(sealed, len(plain))) == plain
    stored = len(sealed.data) - OVERHEAD_BYTES
    if sealed.codec is Codec.NONE:
        assert stored == len(plain)
    else:
        assert stored <= shards.WORTH * len(plain)


def test_what_this_version_sealed_is_opened_by_later_ones() -> None:
    plain = base64.b64decode("uJtiIEtMkNnUVYvmzCsdL3GnJTw8VLQKw21ylZ86gJDzYQ==")
    packed = base64.b64decode(
        "ZLzT8lEsMH+QpDkahcc/KPlBmVO0HP/yWkDhermqx6yfcmLTDWNLQfHOzWrw5lMG/EXA"
    )
    assert open_shard(plain, key=KEY, about=ABOUT, codec=Codec.NONE, length=6) == b"memory"
    assert (
        open_shard(packed, key=KEY, about=ABOUT, codec=Codec.ZSTD, length=1200) == b"memory" * 200
    )
    assert open_shard(forged(b"x", 1, codec=Codec.NONE), key=KEY, about=ABOUT,
                      codec=Codec.NONE, length=1) == b"x"  # fmt: skip


def test_a_whole_shard_of_each_kind_is_stored_as_it_pays() -> None:
    kinds = {
        "zero": (bytes(SHARD_BYTES), Codec.ZSTD),
        "text": ((WORDS * 50)[:SHARD_BYTES], Codec.ZSTD),
        "random": (os.urandom(SHARD_BYTES), Codec.NONE),
    }
    for name, (plain, codec) in kinds.items():
        assert len(plain) == SHARD_BYTES
        sealed = seal_shard(plain, key=KEY, about=ABOUT)
        assert sealed.codec is codec, name
        assert opened(sealed, SHARD_BYTES) == plain, name
        assert b"".join(in_pieces(sealed, SHARD_BYTES)) == plain, name
        assert len(sealed.data) <= SHARD_BYTES + OVERHEAD_BYTES


def test_what_the_sample_promised_in_vain_is_stored_as_it_is() -> None:
    plain = bytearray(os.urandom(SHARD_BYTES))
    step = SHARD_BYTES // shards.SAMPLES
    for n in range(shards.SAMPLES):
        plain[n * step : n * step + shards.SAMPLE_BYTES] = bytes(shards.SAMPLE_BYTES)
    sealed = seal_shard(plain, key=KEY, about=ABOUT)
    assert sealed.codec is Codec.NONE
    assert opened(sealed, SHARD_BYTES) == plain


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_text_and_shard_may_lie_in_any_buffer(kind: Any) -> None:
    for plain in (WORDS, os.urandom(300_000)):
        sealed = seal_shard(kind(plain), key=KEY, about=ABOUT)
        data = kind(sealed.data)
        assert (
            open_shard(data, key=KEY, about=ABOUT, codec=sealed.codec, length=len(plain)) == plain
        )


def test_many_threads_seal_and_open_at_once() -> None:
    def one(number: int) -> bool:
        about = dataclasses.replace(ABOUT, number=number)
        plain = WORDS[number : number + 100_000]
        sealed = seal_shard(plain, key=KEY, about=about)
        return opened(sealed, len(plain), about=about) == plain

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(100)))


def test_the_same_text_sealed_twice_looks_different() -> None:
    made = {bytes(seal_shard(b"x", key=KEY, about=ABOUT).data[:12]) for _ in range(100)}
    assert len(made) == 100


def test_the_envelopes_entry_is_of_the_sealed_bytes() -> None:
    sealed = seal_shard(WORDS, key=KEY, about=ABOUT)
    assert sealed.to_entry() == Shard(
        size=len(sealed.data), hash=blake3(sealed.data).hexdigest(), codec=Codec.ZSTD
    )


SEALED = seal_shard(b"memory" * 200, key=KEY, about=ABOUT)


@given(st.integers(0, len(SEALED.data) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, change: int) -> None:
    raw = bytearray(SEALED.data)
    raw[at] ^= change
    with pytest.raises(FormatError, match=r"shard 7 of web-1234 \(0123456789abcdef\) is damaged"):
        open_shard(raw, key=KEY, about=ABOUT, codec=SEALED.codec, length=1200)


PIECES = os.urandom(PIECE_BYTES + 1)
IN_PIECES = seal_shard(PIECES, key=KEY, about=ABOUT)


def test_what_is_not_compressed_is_opened_piece_by_piece() -> None:
    assert IN_PIECES.codec is Codec.NONE
    assert in_pieces(IN_PIECES, len(PIECES)) == [PIECES[:PIECE_BYTES], PIECES[PIECE_BYTES:]]


def test_a_piece_takes_the_place_of_the_one_before() -> None:
    plain = os.urandom(SHARD_BYTES)
    data = bytes(seal_shard(plain, key=KEY, about=ABOUT).data)
    tracemalloc.start()
    try:
        pieces = open_in_pieces(data, key=KEY, about=ABOUT, codec=Codec.NONE, length=len(plain))
        assert sum(len(piece) for piece in pieces) == len(plain)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * PIECE_BYTES


@pytest.mark.parametrize("at", [0, 12, 12 + PIECE_BYTES, -17, -16, -1])
def test_pieces_of_what_was_changed_end_with_an_error(at: int) -> None:
    raw = bytearray(IN_PIECES.data)
    raw[at] ^= 1
    with pytest.raises(FormatError, match=r"shard 7 of web-1234 \(0123456789abcdef\) is damaged"):
        in_pieces(SealedShard(data=raw, codec=Codec.NONE), len(PIECES))


def test_pieces_of_another_shard_key_or_length_end_with_an_error() -> None:
    for other in OTHERS:
        with pytest.raises(FormatError, match="sealed as another shard or with another key"):
            in_pieces(IN_PIECES, len(PIECES), about=dataclasses.replace(ABOUT, **other))
    with pytest.raises(FormatError, match="with another key"):
        in_pieces(IN_PIECES, len(PIECES), key=b"K" * 32)
    with pytest.raises(FormatError, match="16 bytes are not a data key"):
        in_pieces(IN_PIECES, len(PIECES), key=bytes(16))
    for length in (0, SHARD_BYTES + 1):
        with pytest.raises(FormatError, match=f"cannot have {length} bytes of text"):
            in_pieces(IN_PIECES, length)
    for length in (1, len(PIECES) - 1, len(PIECES) + 1):
        with pytest.raises(FormatError, match=f"has {len(IN_PIECES.data)} bytes, sealed"):
            in_pieces(IN_PIECES, length)


OTHERS: list[dict[str, Any]] = [
    {"id": "web-1235"},
    {"attempt": "0123456789abcdee"},
    {"number": 8},
    {"number": -7},
]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_shard_does_not_stand_in_for_another(other: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="sealed as another shard or with another key"):
        opened(SEALED, 1200, about=dataclasses.replace(ABOUT, **other))


@given(st.text(), st.text(), st.integers())
def test_no_other_name_opens_it(checkpoint_id: str, attempt: str, number: int) -> None:
    about = ShardName(id=checkpoint_id, attempt=attempt, number=number)
    assume(about != ABOUT)
    with pytest.raises(FormatError):
        opened(SEALED, 1200, about=about)


@pytest.mark.parametrize("length", [1199, 1201, 6, SHARD_BYTES])
def test_another_length_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match="shard 7 of web-1234"):
        opened(SEALED, length)


def test_another_codec_is_refused() -> None:
    with pytest.raises(FormatError, match="damaged, or was sealed as another"):
        opened(dataclasses.replace(SEALED, codec=Codec.NONE), 1200)


def test_another_key_opens_nothing() -> None:
    with pytest.raises(FormatError, match="with another key"):
        opened(SEALED, 1200, key=b"K" * 32)


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match=f"{size} bytes are not a data key"):
        seal_shard(b"x", key=bytes(size), about=ABOUT)
    with pytest.raises(FormatError, match=f"{size} bytes are not a data key"):
        opened(SEALED, 1200, key=bytes(size))


@pytest.mark.parametrize("size", [0, SHARD_BYTES + 1])
def test_a_shard_of_nothing_or_too_much_is_neither_sealed_nor_opened(size: int) -> None:
    with pytest.raises(FormatError, match=f"cannot have {size} bytes of text"):
        seal_shard(bytes(size), key=KEY, about=ABOUT)
    with pytest.raises(FormatError, match=f"cannot have {size} bytes of text"):
        opened(SEALED, size)


@pytest.mark.parametrize(
    "size", [0, OVERHEAD_BYTES, 1200 + OVERHEAD_BYTES + 1], ids=["none", "no text", "too much"]
)
def test_a_sealed_length_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match=f"has {size} bytes, sealed"):
        open_shard(bytes(size), key=KEY, about=ABOUT, codec=Codec.NONE, length=1200)


def frame(text: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(level=1, **options).compress(text)


def claiming(packed: bytes, said: int) -> bytes:
    """Return a frame with *packed*'s blocks that says it holds *said* bytes."""
    body = packed[zstandard.frame_header_size(packed) :]
    return b"\x28\xb5\x2f\xfd" + b"\xc0" + b"\x50" + said.to_bytes(8, "little") + body


def bomb(size: int) -> bytes:
    """Return a frame of *size* zeros, made with less."""
    maker = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    return b"".join([maker.compress(bytes(2**20)) for _ in range(size >> 20)]) + maker.flush()


def unsized(text: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_content_size=False).compress(text)


SMALL = b"memory" * 200
HOSTILE = {
    "a bomb": (bomb(2**24), "would have 16777216 bytes of text instead of 1200"),
    "a bomb that says 1 TiB": (claiming(frame(SMALL), 2**40), "would have 1099511627776"),
    "a bomb that says what fits": (claiming(frame(bytes(2**20)), 1200), "cannot be decompressed"),
    "a bomb that says nothing": (unsized(bytes(2**24)), "would have"),
    "no length": (unsized(SMALL), "would have"),
    "shorter": (frame(SMALL[:-1]), "would have 1199"),
    "less than it says": (claiming(frame(SMALL[:-1]), 1200), "shard 7"),
    "another frame after it": (frame(SMALL) + frame(SMALL), "cannot be decompressed"),
    "an empty frame after it": (frame(SMALL) + frame(b""), "cannot be decompressed"),
    "a byte after it": (frame(SMALL) + b"\0", "cannot be decompressed"),
    "a frame to skip before it": (
        b"\x50\x2a\x4d\x18\x04\0\0\0skip" + frame(SMALL), "shard 7"),
    "a frame to skip of that length": (
        b"\x50\x2a\x4d\x18" + (1200).to_bytes(4, "little") + b"x" * 1100, "shard 7"),
    "half a frame": (frame(SMALL)[:-3], "cannot be decompressed"),
    "a header": (frame(SMALL)[:6], "shard 7"),
    "no frame": (b"x" * 100, "cannot be decompressed"),
    "a large window": (
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters.from_level(
                1, window_log=26, write_content_size=False)
        ).compress(SMALL), "shard 7"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_the_key_was_used_for_by_another_is_refused_by_name(what: str) -> None:
    packed, said = HOSTILE[what]
    assert len(packed) <= 1200, "it would be refused for its size alone"
    with pytest.raises(FormatError, match=said) as caught:
        open_shard(forged(packed, 1200), key=KEY, about=ABOUT, codec=Codec.ZSTD, length=1200)
    assert "shard 7 of web-1234" in str(caught.value)


def test_a_frame_that_needs_a_dictionary_is_refused() -> None:
    packed = zstandard.ZstdCompressor(
        level=1, dict_data=zstandard.train_dictionary(1000, [WORDS[n : n + 50] for n in range(999)])
    ).compress(SMALL)
    with pytest.raises(FormatError, match="cannot be decompressed"):
        open_shard(forged(packed, 1200), key=KEY, about=ABOUT, codec=Codec.ZSTD, length=1200)


def test_a_bomb_takes_no_memory() -> None:
    sealed = forged(bomb(2**28), SHARD_BYTES)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="would have 268435456"):
            open_shard(sealed, key=KEY, about=ABOUT, codec=Codec.ZSTD, length=SHARD_BYTES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@given(st.binary(max_size=300))
def test_no_bytes_under_the_key_make_it_fail_otherwise(packed: bytes) -> None:
    assume(packed)
    for raw in (packed, frame(SMALL)[:6] + packed, b"\x28\xb5\x2f\xfd" + packed):
        with pytest.raises(FormatError):
            open_shard(forged(raw, 1200), key=KEY, about=ABOUT, codec=Codec.ZSTD, length=1200)
