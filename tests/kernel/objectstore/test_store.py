"""The daemon's end of the object store, against a real server."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path

import pytest

from architect.core.errors import ArchitectError, ConfigError, FormatError, Rejected, Unavailable
from architect.daemon.vault.store import MAX_OBJECT_BYTES, PART_BYTES, Store
from architect.objectstore.settings import StoreSettings
from support import s3server
from support.patience import patient

SECONDS = patient(60)
MIB = 1 << 20


@contextlib.contextmanager
def opened(settings: StoreSettings) -> Iterator[Store]:
    store = Store(settings)
    try:
        yield store
    finally:
        store.close()


def put(store: Store, key: str, body: bytes, *, is_new: bool = False) -> None:
    store.put(key, body, is_new=is_new, timeout_seconds=SECONDS)


def get(store: Store, key: str, *, most_bytes: int = MAX_OBJECT_BYTES) -> bytes:
    return store.get(key, most_bytes=most_bytes, timeout_seconds=SECONDS)


def reason_of(caught: pytest.ExceptionInfo[ArchitectError]) -> str:
    assert isinstance(caught.value, Rejected)
    return caught.value.reason


@pytest.mark.parametrize(
    "size", [0, 1, 8 * MIB, PART_BYTES, PART_BYTES + 1, MAX_OBJECT_BYTES], ids=str
)
def test_an_object_comes_as_it_went(server: s3server.Server, store: Store, size: int) -> None:
    body = os.urandom(size)
    put(store, "web/1/a/000000", body)
    assert server.stored("web/1/a/000000") == body
    assert get(store, "web/1/a/000000", most_bytes=max(1, size)) == body


def test_a_later_put_replaces_an_earlier_one(store: Store) -> None:
    put(store, "key", b"first, and longer")
    put(store, "key", b"second")
    assert get(store, "key") == b"second"


def test_an_object_is_made_once(store: Store) -> None:
    put(store, "web/1/manifest.json", b"first", is_new=True)
    with pytest.raises(Rejected) as caught:
        put(store, "web/1/manifest.json", b"second", is_new=True)
    assert reason_of(caught) == "Exists"
    assert "checkpoints/web/1/manifest.json" in str(caught.value)
    assert get(store, "web/1/manifest.json") == b"first"


def test_one_of_many_makes_an_object(store: Store) -> None:
    def make(number: int) -> bool:
        try:
            put(store, "once", b"%d" % number, is_new=True)
        except Rejected as error:
            assert error.reason == "Exists"
            return False
        return True

    with futures.ThreadPoolExecutor(16) as pool:
        won = [number for number, made in enumerate(pool.map(make, range(16))) if made]
    assert [int(get(store, "once"))] == won


def test_what_is_not_there_has_a_name(store: Store) -> None:
    with pytest.raises(Rejected) as caught:
        get(store, "web/2/manifest.json")
    assert reason_of(caught) == "NoSuchKey"
    assert "get checkpoints/web/2/manifest.json" in str(caught.value)


@pytest.mark.parametrize("size", [11, MIB, MAX_OBJECT_BYTES])
def test_more_than_is_wanted_is_refused(store: Store, size: int) -> None:
    put(store, "large", bytes(size))
    with pytest.raises(FormatError, match=f"{size} bytes, at most 10"):
        get(store, "large", most_bytes=10)
    assert get(store, "large") == bytes(size)


def test_a_larger_object_than_any_of_ours_is_not_put(store: Store) -> None:
    with pytest.raises(ValueError, match="at most"):
        put(store, "larger", bytes(MAX_OBJECT_BYTES + 1))


@pytest.mark.parametrize(
    "key",
    [
        "with space/and+plus",
        "a=b&c=d/e?f#g",
        "100%25/%2F",
        "~tilde/(round)/[square]/{curly}/'quote'/\"double\"",
        "grün/ключ/鍵/🔑",
        "semi;colon:at@comma,dollar$star*bang!",
        "x" * 200 + "/" + "y" * 200,
    ],
)
def test_any_printable_key_is_that_key(server: s3server.Server, store: Store, key: str) -> None:
    put(store, key, b"value")
    assert server.stored(key) == b"value"
    assert get(store, key) == b"value"


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "a/../b", "./a", "a\nb", "x" * 1025, "\ud800"]
)
def test_what_is_no_key_is_not_asked_for(store: Store, key: str) -> None:
    for ask in (lambda: put(store, key, b""), lambda: get(store, key)):
        with pytest.raises(Rejected) as caught:
            ask()
        assert reason_of(caught) == "BadKey"


def test_sixteen_threads_at_once(store: Store) -> None:
    def there_and_back(number: int) -> bool:
        body = bytes([number]) * (2 * MIB + number)
        put(store, f"many/{number}", body)
        return get(store, f"many/{number}") == body

    with futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(there_and_back, range(32)))


def test_a_check_of_a_store_that_can_be_used(server: s3server.Server, store: Store) -> None:
    store.check()
    store.check()
    assert server.stored(".writable") == b""


def test_a_missing_bucket_has_a_name(server: s3server.Server) -> None:
    with opened(dataclasses.replace(server.settings, bucket="another-one")) as store:
        for ask in (store.check, lambda: get(store, "a"), lambda: put(store, "a", b"")):
            with pytest.raises(Rejected, match="another-one") as caught:
                ask()
            assert reason_of(caught) == "BucketMissing"


@pytest.mark.parametrize(
    "environment", s3server.WRONG_CREDENTIALS.values(), ids=s3server.WRONG_CREDENTIALS
)
def test_credentials_that_are_not_taken_have_a_name(
    server: s3server.Server, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with opened(server.settings) as store:
        for ask in (store.check, lambda: get(store, "a"), lambda: put(store, "a", b"")):
            with pytest.raises(Rejected) as caught:
                ask()
            assert reason_of(caught) == "WrongCredentials"


def test_no_credentials_have_a_name(
    server: s3server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with opened(server.settings) as store, pytest.raises(Rejected) as caught:
        store.check()
    assert reason_of(caught) == "NoCredentials"


def test_credentials_of_a_profile_are_found(
    server: s3server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\n"
        f"aws_access_key_id = {s3server.ACCESS_KEY}\n"
        f"aws_secret_access_key = {s3server.SECRET_KEY}\n"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with opened(server.settings) as store:
        store.check()


def test_https_by_an_authority_of_ones_own(tmp_path: Path) -> None:
    tls = s3server.Tls.make(tmp_path / "tls")
    other = s3server.Tls.make(tmp_path / "other")
    body = os.urandom(MIB)
    with s3server.Server(tmp_path / "s3", tls=tls) as server:
        with opened(server.settings) as store:
            store.check()
            put(store, "sealed", body)
            assert get(store, "sealed") == body
        for ca_file in ("", str(other.authority)):
            with (
                opened(dataclasses.replace(server.settings, ca_file=ca_file)) as store,
                pytest.raises(Rejected) as caught,
            ):
                store.check()
            assert reason_of(caught) == "Untrusted"
        with (
            opened(dataclasses.replace(server.settings, ca_file="")) as store,
            pytest.raises(Rejected) as caught,
        ):
            # The library answers with silence: found out at the request's end.
            store.put("secret", b"secret", timeout_seconds=0.5)
        assert reason_of(caught) == "Untrusted"
        assert server.stored("secret") is None


def test_a_ca_file_that_is_none(server: s3server.Server, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=path.name):
            Store(StoreSettings(bucket="bucket", endpoint="https://127.0.0.1:1", ca_file=str(path)))


def test_a_closed_store_says_so(server: s3server.Server) -> None:
    store = Store(server.settings)
    put(store, "a", b"")
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        get(store, "a")


def test_the_other_commands_of_the_daemon_do_without_the_library() -> None:
    code = "import sys, architect.daemon.vault.store as s; sys.exit('awscrt' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
