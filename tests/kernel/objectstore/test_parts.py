"""No object is sent in parts, so none can be left behind; a large one is got in several ranges."""

from __future__ import annotations

import os
from typing import Any

import pytest

from architect.checkpoint.envelope import OVERHEAD_BYTES, SHARD_BYTES
from architect.core.errors import Unavailable
from architect.daemon.vault.shards import ShardName, seal_shard
from architect.daemon.vault.store import MAX_OBJECT_BYTES, PART_BYTES, Store
from architect.objectstore.control import Control
from support import s3server
from support.faultproxy import FaultProxy
from support.patience import patient

SECONDS = patient(60)
KEY = "web/1/a/000000"
LARGEST_SHARD = SHARD_BYTES + OVERHEAD_BYTES


@pytest.fixture
def through(server: s3server.Server, proxy: FaultProxy) -> Any:
    made = Store(server.with_endpoint(proxy.endpoint))
    yield made
    made.close()


@pytest.fixture
def client(control: Control) -> Any:
    return control._client


def uploads(client: Any) -> list[str]:
    """Return the keys of which parts lie in the store, and no object."""
    found = client.list_multipart_uploads(Bucket=s3server.BUCKET)
    return [upload["Key"] for upload in found.get("Uploads", ())]


def test_the_largest_shard_fits_into_one_part() -> None:
    """One of random bytes, which compression does not make smaller."""
    about = ShardName(id="web-1234", attempt="0123456789abcdef", number=7)
    sealed = seal_shard(os.urandom(SHARD_BYTES), key=bytes(32), about=about)
    assert len(sealed.data) == LARGEST_SHARD <= PART_BYTES


@pytest.mark.parametrize("size", [LARGEST_SHARD, MAX_OBJECT_BYTES], ids=["shard", "envelope"])
def test_it_goes_in_one_request_and_comes_in_ranges(
    server: s3server.Server, proxy: FaultProxy, through: Store, size: int
) -> None:
    body = os.urandom(size)
    through.put(KEY, body, timeout_seconds=SECONDS)
    assert proxy.requests == [f"PUT /{s3server.BUCKET}/{KEY} HTTP/1.1"]
    proxy.requests.clear()
    assert through.get(KEY, most_bytes=size, timeout_seconds=SECONDS) == body
    ranges = -(-size // PART_BYTES)
    assert proxy.requests == [f"GET /{s3server.BUCKET}/{KEY} HTTP/1.1"] * ranges


@pytest.mark.parametrize("size", [LARGEST_SHARD, MAX_OBJECT_BYTES], ids=["shard", "envelope"])
def test_one_that_is_cut_leaves_no_parts(
    server: s3server.Server, proxy: FaultProxy, through: Store, client: Any, size: int
) -> None:
    others = client.create_multipart_upload(Bucket=s3server.BUCKET, Key="others/of/somebody")
    proxy.cut_request_after = size // 2
    with pytest.raises(Unavailable):
        through.put(KEY, os.urandom(size), timeout_seconds=SECONDS)
    assert proxy.cuts > 1
    assert uploads(client) == ["others/of/somebody"]
    assert server.stored(KEY) is None
    client.abort_multipart_upload(
        Bucket=s3server.BUCKET, Key="others/of/somebody", UploadId=others["UploadId"]
    )
    assert uploads(client) == []


def test_a_range_that_is_lost_in_the_middle_leaves_the_object_out(
    proxy: FaultProxy, through: Store
) -> None:
    """All or nothing, though its ranges come at once."""
    body = os.urandom(MAX_OBJECT_BYTES)
    through.put(KEY, body, timeout_seconds=SECONDS)
    proxy.cut_answer_after = PART_BYTES // 2
    with pytest.raises(Unavailable):
        through.get(KEY, most_bytes=MAX_OBJECT_BYTES, timeout_seconds=SECONDS)
    proxy.cuts, proxy.most_cuts = 0, 2
    assert through.get(KEY, most_bytes=MAX_OBJECT_BYTES, timeout_seconds=SECONDS) == body
    assert proxy.cuts == 2
