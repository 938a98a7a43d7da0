"""Where the object store is, and the form of keys in it."""

from __future__ import annotations

import pytest

from architect.core.errors import ConfigError, Rejected
from architect.objectstore.settings import StoreSettings, check_key


def test_amazons_own_store_needs_its_region_only() -> None:
    settings = StoreSettings(bucket="bucket", region="eu-central-1")
    assert settings.url == "https://s3.eu-central-1.amazonaws.com"
    assert settings.host == "s3.eu-central-1.amazonaws.com"
    assert settings.path_of("a/b c") == "/bucket/a/b%20c"
    assert StoreSettings(bucket="bucket", region="cn-north-1").url.endswith(".amazonaws.com.cn")


def test_a_bucket_may_stand_in_the_hosts_name() -> None:
    settings = StoreSettings(
        bucket="bucket", endpoint="http://s3.example.com:9000/", is_path_style=False
    )
    assert settings.url == "http://s3.example.com:9000"
    assert settings.host == "bucket.s3.example.com:9000"
    assert settings.path_of("a/b+c") == "/a/b%2Bc"
    assert not settings.is_encrypted


def test_a_prefix_stands_before_every_key() -> None:
    assert StoreSettings(bucket="bucket").key_of("web/1") == "web/1"
    settings = StoreSettings(bucket="bucket", prefix="clusters/one")
    assert settings.key_of("web/1") == "clusters/one/web/1"
    assert settings.probe_key == "clusters/one/.writable"


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1",
        "http://127.0.0.1:9000",
        "https://[::1]",
        "https://[fd00::1]:443",
        "https://s3",
        "https://s3.example.com:65535",
    ],
)
def test_addresses_of_servers(endpoint: str) -> None:
    assert StoreSettings(bucket="bucket", endpoint=endpoint).url == endpoint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("bucket", value) for value in ("", "ab", "Upper", "a..b", "-ab", "a/b", "x" * 64)),
        *(("region", value) for value in ("", "-eu", "a b", "a.evil.example/")),
        *(("prefix", value) for value in ("/a", "a/", "a//b", "../a", ".a", "a b", "x" * 513)),
        ("endpoint", "s3.example.com"),
        ("endpoint", "ftp://s3"),
        ("endpoint", "https://"),
        ("endpoint", "https://user:word@s3"),
        ("endpoint", "https://s3/path"),
        ("endpoint", "https://s3?query"),
        ("endpoint", "https://s3:0"),
        ("endpoint", "https://s3:65536"),
        ("endpoint", "https://s3:port"),
        ("endpoint", "https://::1"),
        ("endpoint", "https://s3\r\nX: y"),
        ("ca_file", "relative.pem"),
    ],
)
def test_a_value_that_cannot_be_is_named(name: str, value: str) -> None:
    arguments = {"bucket": "bucket"} | {name: value}
    with pytest.raises(ConfigError, match=rf"^{name}: "):
        StoreSettings(**arguments)  # type: ignore[arg-type]  # every one is a text


def test_a_ca_file_without_tls_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="has no certificates"):
        StoreSettings(bucket="bucket", endpoint="http://s3", ca_file="/ca.pem")


@pytest.mark.parametrize("key", ["a", "a/b.c", ".writable", "..a", "ключ", "x" * 1024])
def test_keys(key: str) -> None:
    check_key(key)


@pytest.mark.parametrize("key", ["", "/", "a/", "/a", "a//b", ".", "a/..", "a\0b", "é" * 513])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(Rejected) as caught:
        check_key(key)
    assert caught.value.reason == "BadKey"
