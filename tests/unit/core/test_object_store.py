"""Where the object store is, as operator and daemon are told: read at the edge, or refused."""

from __future__ import annotations

import pytest

from architect.core import object_store

FINE = {
    "store_bucket": ["", "abc", "a" * 63, "my.bucket-1", "1.2.3.x"],
    "store_endpoint": [
        "", "https://s3.example", "http://minio.storage.svc:9000", "http://[::1]:9000",
        "https://10.0.0.1", "http://localhost:65535",
    ],
    "store_region": ["us-east-1", "RegionOne", "garage"],
    "store_prefix": ["", "a", "clusters/blue_1", "v1.0/x", "a" * 512],
    "store_path_style": ["true", "false"],
}  # fmt: skip

WRONG = {
    "store_bucket": [
        "ab", "a" * 64, "Bucket", "a_b", "-ab", "ab-", "a..b", "10.0.0.1", "a/b", "abc\n", "ä" * 3,
    ],
    "store_endpoint": [
        "s3.example", "ftp://s3.example", "https://", "https://s3.example/", "https://s3.example/x",
        "https://u:p@s3.example", "https://s3.example?x", "https://s3.example#x", "http://h:0",
        "http://h:65536", "http://h:", "http://h:x", "http://[::1", "http://h\n", "http://a b",
        "HTTPS://s3.example", "https://-h", "http://::1",
    ],
    "store_region": ["", "a b", "-", "a" * 65, "us-east-1\n", "../x"],
    "store_prefix": [
        "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a b", "a" * 513, "a\n", "ä", "/", "a%2f",
    ],
    "store_path_style": ["", "True", "yes", "1"],
}  # fmt: skip


def cases(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    assert table.keys() == object_store.READERS.keys()
    return [(name, text) for name, texts in table.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), cases(FINE))
def test_what_a_store_has_is_taken_as_it_is(name: str, text: str) -> None:
    reader, _ = object_store.READERS[name]
    assert reader(text) == (text == "true" if name == "store_path_style" else text)


@pytest.mark.parametrize(("name", "text"), cases(WRONG))
def test_what_no_store_has_is_refused(name: str, text: str) -> None:
    reader, _ = object_store.READERS[name]
    with pytest.raises(ValueError):
        reader(text)
