"""The operator's end of the object store, against a real server."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import http.server
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from architect.core.errors import ConfigError, Rejected, Unavailable
from architect.daemon.vault.store import Store
from architect.objectstore import control as controls
from architect.objectstore.control import Control
from architect.objectstore.settings import StoreSettings
from support import s3server
from support.faultproxy import FaultProxy
from support.patience import patient

MANY = 2100
"""Objects of which a listing and a deletion take three requests."""


def fill(server: s3server.Server, *keys: str) -> None:
    """Have objects be there, past the server."""
    for key in keys:
        path = server.root / s3server.BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())


def keys(control: Control, prefix: str = "") -> list[str]:
    return [listed.key for listed in control.list(prefix)]


def test_a_listing_tells_key_size_and_age(store: Store, control: Control) -> None:
    before = datetime.datetime.now(datetime.UTC)
    store.put("web/1/a/000000", b"12345", timeout_seconds=patient(60))
    (listed,) = control.list("")
    assert (listed.key, listed.size) == ("web/1/a/000000", 5)
    assert abs(listed.modified - before) < datetime.timedelta(minutes=5)


def test_a_listing_begins_with_its_prefix(server: s3server.Server, control: Control) -> None:
    fill(server, "a/web/1/x", "a/web/10/x", "a/web/2/x", "b/web/1/x")
    assert keys(control, "a/web/1/") == ["a/web/1/x"]
    assert keys(control, "a/web/1") == ["a/web/1/x", "a/web/10/x"]
    assert keys(control, "c/") == []


def test_an_object_is_read_within_a_bound_and_once(
    server: s3server.Server, store: Store, control: Control
) -> None:
    store.put("web/1/manifest.json", b"12345", timeout_seconds=patient(60))
    found = control.get("web/1/manifest.json", most=5)
    assert (found.body, found.size) == (b"12345", 5)
    assert found.etag
    assert control.get("web/1/manifest.json", most=4).body is None
    assert control.get("web/1/manifest.json", most=5, unless=found.etag).body is None
    control.delete(["web/1/manifest.json"])
    with pytest.raises(Rejected) as refused:
        control.get("web/1/manifest.json", most=5)
    assert refused.value.reason == "NoSuchKey"
    store.put("web/1/manifest.json", b"54321", timeout_seconds=patient(60))
    assert control.get("web/1/manifest.json", most=5, unless=found.etag).body == b"54321"


def test_an_empty_object_is_read(store: Store, control: Control) -> None:
    store.put("web/1/empty", b"", timeout_seconds=patient(60))
    assert control.get("web/1/empty", most=5).body == b""


def test_more_than_a_page_is_listed_and_deleted(server: s3server.Server, control: Control) -> None:
    names = [f"web/1/a/{number:06}" for number in range(MANY)]
    fill(server, *names, "web/2/a/000000")
    assert keys(control, "web/1/") == names
    assert control.delete(iter(names)) == ()
    assert keys(control) == ["web/2/a/000000"]


def test_what_is_gone_counts_as_deleted(server: s3server.Server, control: Control) -> None:
    fill(server, "a", "grün & <rot>/%20")
    assert control.delete(["a", "never-there", "grün & <rot>/%20"]) == ()
    assert control.delete([]) == ()
    assert keys(control) == []


def test_what_cannot_be_deleted_is_told(server: s3server.Server, control: Control) -> None:
    fill(server, "a/1", "locked/1", "z/1")
    locked = server.root / s3server.BUCKET / "locked"
    subprocess.run(["chattr", "+i", locked / "1"], check=True)
    try:
        (left,) = control.delete(["a/1", "locked/1", "z/1"])
    finally:
        subprocess.run(["chattr", "-i", locked / "1"], check=True)
    assert left.key == "locked/1"
    assert "checkpoints/locked/1" in str(left.error)
    assert keys(control) == ["locked/1"]


def test_a_check_of_a_store_that_can_be_used(control: Control) -> None:
    control.check()


def test_a_missing_bucket_has_a_name(server: s3server.Server) -> None:
    control = Control(dataclasses.replace(server.settings, bucket="another-one"))
    for ask in (control.check, lambda: keys(control), lambda: control.delete(["a"])):
        with pytest.raises(Rejected, match="another-one") as caught:
            ask()
        assert caught.value.reason == "BucketMissing"
    control.close()


@pytest.mark.parametrize(
    "environment", s3server.WRONG_CREDENTIALS.values(), ids=s3server.WRONG_CREDENTIALS
)
def test_credentials_that_are_not_taken_have_a_name(
    server: s3server.Server, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    control = Control(server.settings)
    with pytest.raises(Rejected) as caught:
        control.check()
    assert caught.value.reason == "WrongCredentials"
    control.close()


def test_no_credentials_have_a_name(
    server: s3server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    control = Control(server.settings)
    with pytest.raises(Rejected) as caught:
        control.check()
    assert caught.value.reason == "NoCredentials"
    control.close()


def test_https_by_an_authority_of_ones_own(tmp_path: Path) -> None:
    with s3server.Server(tmp_path / "s3", tls=s3server.Tls.make(tmp_path / "tls")) as server:
        control = Control(server.settings)
        control.check()
        control.close()
        control = Control(dataclasses.replace(server.settings, ca_file=""))
        with pytest.raises(Rejected) as caught:
            control.check()
        assert caught.value.reason == "Untrusted"
        control.close()


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        Control(
            StoreSettings(
                bucket="bucket",
                endpoint="https://127.0.0.1:1",
                ca_file=str(tmp_path / "missing"),
            )
        )


def test_a_server_that_goes_and_comes(server: s3server.Server, control: Control) -> None:
    fill(server, "a")
    with server.away(), pytest.raises(Unavailable, match="list checkpoints/"):
        keys(control)
    assert keys(control) == ["a"]


def test_failures_that_pass_are_not_noticed(server: s3server.Server, proxy: FaultProxy) -> None:
    fill(server, "a")
    control = Control(server.with_endpoint(proxy.endpoint))
    proxy.failures, proxy.status = 2, 503
    assert keys(control) == ["a"]
    proxy.failures = 1000
    with pytest.raises(Unavailable, match="SlowDown"):
        keys(control)
    control.close()


ENTRY = "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{}</LastModified></Contents>"
TIME = "2030-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "listing",
    [
        "<html><p>Sign in to the hotel's network",
        ENTRY.format("a", "x", TIME),
        ENTRY.format("a", 1, "zz"),
        f"<Contents><Size>1</Size><LastModified>{TIME}</LastModified></Contents>",
        ENTRY.format("elsewhere/a", 1, TIME),
    ],
    ids=["a page", "a size", "a time", "no key", "a key that is not below"],
)
def test_an_answer_that_is_none_is_an_error_of_ours(listing: str) -> None:
    with (
        answering(lambda _: listing) as at,
        contextlib.closing(Control(at)) as control,
        pytest.raises(Unavailable, match="list pods/a"),
    ):
        list(control.list("a"))


def test_a_listing_without_an_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "MAX_PAGES", 3)
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>"
    with (
        answering(lambda number: ENTRY.format(f"a{number}", 1, TIME) + more.format(number)) as at,
        contextlib.closing(Control(at)) as control,
        pytest.raises(Unavailable, match="more than 3 pages"),
    ):
        list(control.list("a"))


@contextlib.contextmanager
def answering(listing: Callable[[int], str]) -> Iterator[StoreSettings]:
    """Have a server say to its nth request that a listing is what *listing* says."""
    asked = itertools.count()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = listing(next(asked))
            if not text.startswith("<html>"):
                text = f"<ListBucketResult>{text}</ListBucketResult>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Be silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield StoreSettings(bucket="pods", endpoint=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def test_who_does_not_use_it_does_without_the_library() -> None:
    code = "import sys, architect.objectstore.control; sys.exit('boto3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
