"""Frames: whole messages in order, and garbage that changes nothing."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core import wire
from architect.core.errors import FormatError

objects = st.dictionaries(st.text(), st.none() | st.integers() | st.text(), max_size=5)


@given(messages=st.lists(objects, max_size=5), cut=st.integers(min_value=1, max_value=50))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(
    messages: list[dict[str, object]], cut: int
) -> None:
    data = b"".join(wire.encode(m) for m in messages)
    decoder = wire.Decoder()
    received = [m for i in range(0, len(data), cut) for m in decoder.feed(data[i : i + cut])]
    assert received == messages
    assert decoder.is_between_frames


@given(data=st.binary(max_size=200))
def test_garbage_gives_messages_or_an_error_and_nothing_else(data: bytes) -> None:
    decoder = wire.Decoder()
    try:
        for message in decoder.feed(data):
            assert isinstance(message, dict)
    except FormatError:
        pass


def test_an_oversized_frame_is_refused_by_its_length_alone() -> None:
    with pytest.raises(FormatError, match="longer than"):
        list(wire.Decoder().feed(struct.pack("!I", wire.MAX_FRAME_BYTES + 1)))


def test_a_frame_that_is_not_an_object_is_refused() -> None:
    body = json.dumps([1]).encode()
    with pytest.raises(FormatError, match="not an object"):
        list(wire.Decoder().feed(struct.pack("!I", len(body)) + body))
