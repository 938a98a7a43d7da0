"""A checkpoint through a real S3 server: whole, sealed, resumed, and refused if touched."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected, Unavailable
from architect.daemon.checkpoint import contents
from architect.daemon.spot.learning import Measure
from architect.daemon.vault import meter as meters
from architect.daemon.vault import received
from architect.daemon.vault.meter import Meter
from architect.daemon.vault.store import Store
from support.checkpointdirs import fill
from support.disks import fill_up, free, small_disk
from support.faultproxy import FaultProxy
from support.issuer import Issuer
from support.s3server import BUCKET, Server
from support.vaults import FILES, ID, Vaults, until


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    made = Store(server.settings)
    yield made
    made.close()


@pytest.fixture
def vaults(tmp_path: Path, issuer: Issuer, store: Store) -> Vaults:

    return Vaults(tmp_path / "v", issuer, store)


def bucket(server: Server) -> Path:
    return server.root / BUCKET


def shard_files(server: Server) -> list[Path]:
    return sorted(p for p in bucket(server).rglob("0*") if p.is_file())


def test_it_comes_as_it_went(server: Server, vaults: Vaults) -> None:
    found = vaults.upload()
    assert found.key == f"default/{ID}/manifest.json"
    assert len(shard_files(server)) == vaults.shards
    assert vaults.download(found).sha256 == vaults.manifest.sha256
    contents.verify(vaults.target, vaults.manifest)
    assert os.stat(vaults.target).st_mode & 0o777 == 0o700


def test_what_it_took_is_told_to_who_plans(vaults: Vaults, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it: an upload of which nobody learns is planned with as if it had never been."""
    monkeypatch.setattr(meters, "WINDOW_BYTES", 1)
    told: dict[Measure, list[tuple[float, int]]] = {}

    def take(measure: Measure, seconds: float, size: int) -> None:
        told.setdefault(measure, []).append((seconds, size))

    found = vaults.upload(uploader=vaults.uploader(meter=Meter(take)))
    sent = sum(size for _, size in told[Measure.UPLOAD])
    assert 0.9 * vaults.sent < sent <= vaults.sent < found.stored_bytes
    assert all(seconds > 0 for seconds, _ in told[Measure.UPLOAD])
    for work in (Measure.HASH, Measure.SEAL):
        assert sum(size for _, size in told[work]) == vaults.manifest.total_bytes
        assert sum(seconds for seconds, _ in told[work]) > 0
    # The envelope, and shards that became that small.
    assert told[Measure.OBJECT]
    assert all(seconds > 0 and size == 0 for seconds, size in told[Measure.OBJECT])


def test_it_lies_below_the_prefix(
    server: Server, tmp_path: Path, issuer: Issuer, store: Store
) -> None:
    vaults = Vaults(tmp_path / "v", issuer, store, prefix="clusters/one")
    found = vaults.upload()
    assert found.key == f"clusters/one/default/{ID}/manifest.json"
    assert all(p.is_relative_to(bucket(server) / "clusters/one") for p in shard_files(server))
    assert vaults.download(found).sha256 == vaults.manifest.sha256


def test_nothing_in_the_store_can_be_read(server: Server, vaults: Vaults) -> None:
    vaults.upload()
    for path in shard_files(server):
        data = path.read_bytes()
        for known in (FILES["app/image/random.img"][100:164], b"abcdefgh" * 8, b"layerlayer"):
            assert known not in data


def test_what_can_be_made_smaller_is(vaults: Vaults) -> None:
    found = vaults.upload()
    assert found.stored_bytes < 0.7 * vaults.manifest.total_bytes


class _Failing:
    """A store that takes *good* objects, as until the end of a daemon, and gives *given* shards."""

    def __init__(self, store: Store, *, good: int = 1000, given: int = 1000) -> None:
        self._store = store
        self._good = good
        self._given = given
        self._lock = threading.Lock()

    def put(self, key: str, body: bytes, **more: Any) -> None:
        with self._lock:
            self._good -= 1
            if self._good < 0:
                raise Rejected("the daemon has ended", reason="Ended")
        self._store.put(key, body, **more)

    def get(self, key: str, **more: Any) -> bytes:
        with self._lock:
            self._given -= not key.endswith("manifest.json")
            if self._given < 0:
                raise Unavailable("the store is away")
        return self._store.get(key, **more)


@pytest.mark.parametrize("good", [0, 1, 3])
def test_another_daemon_goes_on_with_it(
    server: Server, vaults: Vaults, store: Store, good: int
) -> None:
    vaults.store = _Failing(store, good=good)
    with pytest.raises(Rejected, match="has ended"):
        vaults.upload()
    assert len(shard_files(server)) == good
    assert not (bucket(server) / vaults.manifest_key).exists()
    before, vaults.store = vaults.sent, store
    found = vaults.upload()
    assert len(shard_files(server)) == vaults.shards, "none was sent twice"
    assert (vaults.sent > before) and (good == 0 or before > 0)
    assert vaults.download(found).sha256 == vaults.manifest.sha256


def test_notes_that_were_cut_are_good_up_to_there(
    server: Server, vaults: Vaults, store: Store
) -> None:
    vaults.store = _Failing(store, good=3)
    with pytest.raises(Rejected):
        vaults.upload()
    raw = vaults.notes.read_bytes()
    vaults.notes.write_bytes(raw[: len(raw) - 20])
    assert vaults.notes.stat().st_mode & 0o777 == 0o600
    vaults.store = store
    assert vaults.download(vaults.upload()).sha256 == vaults.manifest.sha256


def test_without_notes_it_begins_anew_and_overwrites_nothing(
    server: Server, vaults: Vaults, store: Store
) -> None:
    vaults.store = _Failing(store, good=2)
    with pytest.raises(Rejected):
        vaults.upload()
    vaults.notes.unlink()
    vaults.store = store
    found = vaults.upload()
    assert len(shard_files(server)) == 2 + vaults.shards
    assert vaults.download(found).sha256 == vaults.manifest.sha256


def test_the_commit_is_written_once_whoever_comes_again(server: Server, vaults: Vaults) -> None:
    first = vaults.upload()
    committed = (bucket(server) / first.key).read_bytes()
    again = vaults.upload()  # its answer was lost
    vaults.notes.unlink()
    third = vaults.upload()  # its notes, too
    assert (first.sha256, first.wrapped_key) == (again.sha256, again.wrapped_key)
    assert (first.sha256, first.wrapped_key) == (third.sha256, third.wrapped_key)
    assert (bucket(server) / first.key).read_bytes() == committed
    assert vaults.download(third).sha256 == vaults.manifest.sha256


def test_another_checkpoint_in_its_place_is_left_there(
    server: Server, vaults: Vaults, tmp_path: Path
) -> None:
    first = vaults.upload()
    shutil.rmtree(vaults.source)
    vaults.manifest = fill(vaults.source, checkpoint_id=ID, files={"app/image/more.img": b"x"})
    with pytest.raises(Rejected, match="of another checkpoint") as caught:
        vaults.upload()
    assert caught.value.reason == "Exists"
    assert (bucket(server) / first.key).exists()


def test_one_that_is_not_wanted_any_more_ends(server: Server, vaults: Vaults) -> None:
    asked = itertools.count()
    with pytest.raises(Rejected) as caught:
        vaults.upload(is_wanted=lambda: next(asked) < 2)
    assert caught.value.reason == "Unwanted"
    assert len(shard_files(server)) <= 2
    assert not (bucket(server) / vaults.manifest_key).exists()


def test_one_that_is_not_wanted_any_more_does_not_wait_for_a_store_that_is_away(
    server: Server, vaults: Vaults
) -> None:
    asked = itertools.count()
    with server.away(), pytest.raises(Rejected) as caught:
        vaults.upload(is_wanted=lambda: next(asked) < 3 * vaults.shards, patience_seconds=60)
    assert caught.value.reason == "Unwanted"


def test_what_was_damaged_before_it_was_sent_is_not_committed(
    server: Server, vaults: Vaults
) -> None:
    """As after a power cut: every file has its size."""
    path = vaults.source / "app/image/random.img"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(FormatError, match=r"random\.img is damaged"):
        vaults.upload()
    assert not list(bucket(server).rglob("manifest.json"))


class _Changing:
    """A store before whose put of a number a byte of a file changes."""

    def __init__(self, store: Store, path: Path, *, put: int) -> None:
        self._store = store
        self._path = path
        self._left = put
        self._lock = threading.Lock()

    def put(self, key: str, body: bytes, **more: Any) -> None:
        with self._lock:
            if self._left == 0:
                _flip(self._path)
            self._left -= 1
        self._store.put(key, body, **more)

    def get(self, key: str, **more: Any) -> bytes:
        return self._store.get(key, **more)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("put", range(5))
def test_a_file_that_changes_while_it_is_sent_is_committed_as_it_was_or_not_at_all(
    server: Server, vaults: Vaults, store: Store, name: str, put: int
) -> None:
    vaults.store = _Changing(store, vaults.source / name, put=put)
    try:
        found = vaults.upload()
    except FormatError as error:
        assert name in str(error)
        assert not list(bucket(server).rglob("manifest.json"))
        _flip(vaults.source / name)
        vaults.store = store
        found = vaults.upload()
    assert vaults.download(found).sha256 == vaults.manifest.sha256
    contents.verify(vaults.target, vaults.manifest)


def test_damage_between_two_daemons_is_not_committed(
    server: Server, vaults: Vaults, store: Store
) -> None:
    vaults.store = _Failing(store, good=1)
    with pytest.raises(Rejected, match="has ended"):
        vaults.upload()
    _flip(vaults.source / "app/image/random.img")
    vaults.store = store
    with pytest.raises(FormatError, match=r"random\.img is damaged"):
        vaults.upload()
    assert not list(bucket(server).rglob("manifest.json"))


def test_files_that_go_meanwhile_end_it(server: Server, vaults: Vaults) -> None:
    (vaults.source / "app/image/random.img").unlink()
    with pytest.raises(FileNotFoundError):
        vaults.upload()
    assert not (bucket(server) / vaults.manifest_key).exists()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


@pytest.mark.parametrize("how", ["a bit", "its end", "two swapped", "one missing"])
def test_a_shard_that_was_touched_is_refused(server: Server, vaults: Vaults, how: str) -> None:
    found = vaults.upload()
    files = shard_files(server)
    if how == "a bit":
        _flip(files[-1])
    elif how == "its end":
        files[-1].write_bytes(files[-1].read_bytes()[:-1])
    elif how == "two swapped":
        _swap(files[0], files[1])
    else:
        files[-1].unlink()
    with pytest.raises((FormatError, Rejected)):
        vaults.download(found)
    assert not vaults.target.exists()
    assert list(vaults.target.parent.iterdir()) == []


def test_a_manifest_that_was_touched_is_refused(server: Server, vaults: Vaults) -> None:
    found = vaults.upload()
    _flip(bucket(server) / found.key)
    with pytest.raises(Rejected) as caught:
        vaults.download(found)
    assert caught.value.reason == "WrongCheckpoint"


@pytest.mark.parametrize("namespace", ["default", "shop"])
def test_another_manifest_in_its_place_is_refused(
    server: Server, vaults: Vaults, tmp_path: Path, issuer: Issuer, store: Store, namespace: str
) -> None:
    """Both were signed by a node of this cluster, and are as they were written."""
    other = Vaults(tmp_path / "other", issuer, store, id="uid-other", namespace=namespace)
    mine, his = vaults.upload(), other.upload()
    _swap(bucket(server) / mine.key, bucket(server) / his.key)
    for one, found in ((vaults, mine), (other, his)):
        with pytest.raises(Rejected) as caught:
            one.download(found)
        assert caught.value.reason == "WrongCheckpoint"
    # Nor is it opened by who was told its hash, and has the key of what should be there.
    told = dataclasses.replace(mine, sha256=his.sha256)
    with pytest.raises(FormatError):
        vaults.download(told)
    assert list(vaults.target.parent.iterdir()) == []


def test_the_key_of_another_checkpoint_opens_nothing(server: Server, vaults: Vaults) -> None:
    found = vaults.upload()
    with pytest.raises(FormatError):
        vaults.download(found, data_key=bytes(32))
    assert list(vaults.target.parent.iterdir()) == []


def test_a_store_that_is_away_for_a_moment_costs_only_time(server: Server, vaults: Vaults) -> None:
    failures: list[ArchitectError] = []
    found = vaults.upload()

    def get() -> None:
        try:
            vaults.download(found, patience_seconds=60)
        except ArchitectError as error:
            failures.append(error)

    with server.away():
        thread = threading.Thread(target=get)
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
    thread.join(120)
    assert not failures
    contents.verify(vaults.target, vaults.manifest)


def test_a_store_that_stays_away_is_given_up(server: Server, vaults: Vaults) -> None:
    found = vaults.upload()
    with server.away():
        with pytest.raises(Unavailable):
            vaults.download(found, patience_seconds=0.5)
        vaults.notes.unlink()
        with pytest.raises(Unavailable):
            vaults.upload(patience_seconds=0.5)
    assert list(vaults.target.parent.iterdir()) == []


def partial(vaults: Vaults) -> Path:
    return vaults.target.with_name(f"{ID}.partial")


def arriving(vaults: Vaults) -> Path:
    return partial(vaults) / ".notes"


def noted(notes: Path) -> list[int]:
    """Return the shards that are done, as the next daemon reads it."""
    raw = notes.read_text() if notes.exists() else ""
    whole, _, _ = raw.rpartition("\n")  # one may be half written
    return [json.loads(line)["n"] for line in whole.splitlines()[1:]]


def asked_for(proxy: FaultProxy) -> list[int]:
    """Return the numbers of the shards that were asked for or sent, in order."""
    paths = (line.split()[1].partition("?")[0].rsplit("/", 1)[1] for line in proxy.requests)
    return sorted(int(name) for name in paths if name.isdecimal())


def test_the_daemon_after_one_that_was_killed_gets_what_is_missing(
    server: Server, vaults: Vaults, proxy: FaultProxy
) -> None:
    """Two shards are small, and one is on its way for longer than the daemon lives."""
    found = vaults.upload()
    through = server.with_endpoint(proxy.endpoint)
    proxy.bytes_per_second = 1 << 17
    daemon = vaults.download_elsewhere(found, through)
    until(lambda: len(noted(arriving(vaults))) >= 2 and len(asked_for(proxy)) == vaults.shards)
    daemon.kill()
    daemon.join()
    came = noted(arriving(vaults))
    assert 2 <= len(came) < vaults.shards
    assert not vaults.target.exists()
    proxy.bytes_per_second = 0
    proxy.requests.clear()
    with contextlib.closing(Store(through)) as vaults.store:
        assert vaults.download(found).sha256 == vaults.manifest.sha256
    assert asked_for(proxy) == sorted(set(range(vaults.shards)) - set(came))
    contents.verify(vaults.target, vaults.manifest)
    assert [p.name for p in vaults.target.parent.iterdir()] == [ID]


def test_the_daemon_after_one_that_was_killed_sends_what_is_missing(
    server: Server, vaults: Vaults, proxy: FaultProxy
) -> None:
    """Two shards become small, and others are on their way for longer than the daemon lives."""
    through = server.with_endpoint(proxy.endpoint)
    proxy.bytes_per_second = 1 << 17
    daemon = vaults.upload_elsewhere(through)
    until(lambda: len(noted(vaults.notes)) >= 2 and len(asked_for(proxy)) == vaults.shards)
    daemon.kill()
    daemon.join()
    sent = noted(vaults.notes)
    assert 2 <= len(sent) < vaults.shards
    assert sorted(int(path.name) for path in shard_files(server)) == sorted(sent)
    assert not (bucket(server) / vaults.manifest_key).exists()
    proxy.bytes_per_second = 0
    proxy.requests.clear()
    with contextlib.closing(Store(through)) as vaults.store:
        found = vaults.upload()
        assert asked_for(proxy) == sorted(set(range(vaults.shards)) - set(sent))
        assert vaults.download(found).sha256 == vaults.manifest.sha256
    contents.verify(vaults.target, vaults.manifest)


@pytest.mark.parametrize("given", [0, 1, 3])
def test_a_store_that_was_away_for_too_long_is_asked_for_what_is_missing(
    vaults: Vaults, store: Store, given: int
) -> None:
    found = vaults.upload()
    vaults.store = _Failing(store, given=given)
    with pytest.raises(Unavailable, match="is away"):
        vaults.download(found, patience_seconds=0)
    came = noted(arriving(vaults))
    assert len(came) == given
    vaults.store = _Failing(store, given=vaults.shards - given)
    assert vaults.download(found).sha256 == vaults.manifest.sha256
    contents.verify(vaults.target, vaults.manifest)


def test_what_came_before_the_machine_was_started_anew_is_not_believed(
    vaults: Vaults, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its notes may have reached the disk, and the bytes not."""
    found = vaults.upload()
    vaults.store = _Failing(store, given=3)
    with pytest.raises(Unavailable):
        vaults.download(found, patience_seconds=0)
    for path in (p for p in partial(vaults).rglob("*") if p.is_file() and p.name != ".notes"):
        path.write_bytes(bytes(path.stat().st_size))
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another")
    monkeypatch.setattr(received, "BOOT_ID", boot_id)
    vaults.store = store
    assert vaults.download(found).sha256 == vaults.manifest.sha256
    contents.verify(vaults.target, vaults.manifest)


def test_what_came_of_another_checkpoint_does_not_count(
    vaults: Vaults, store: Store, tmp_path: Path, issuer: Issuer
) -> None:
    found = vaults.upload()
    vaults.store = _Failing(store, given=3)
    with pytest.raises(Unavailable):
        vaults.download(found, patience_seconds=0)
    other = Vaults(tmp_path / "other", issuer, store, prefix="other")
    (other.source / "app/image/random.img").write_bytes(b"other")
    other.manifest = contents.build(other.source, other.manifest.about)
    other.target = vaults.target
    assert other.download(other.upload()).sha256 == other.manifest.sha256
    contents.verify(other.target, other.manifest)


def test_what_fails_for_good_leaves_nothing_of_what_has_come(
    server: Server, vaults: Vaults, store: Store
) -> None:
    found = vaults.upload()
    vaults.store = _Failing(store, given=1)
    with pytest.raises(Unavailable):
        vaults.download(found, patience_seconds=0)
    vaults.store = store
    for path in shard_files(server):
        _flip(path)
    with pytest.raises(FormatError, match="is not what its checkpoint lists"):
        vaults.download(found)
    assert list(vaults.target.parent.iterdir()) == []


def test_a_disk_without_the_room_that_is_to_stay_free_is_named(vaults: Vaults) -> None:
    found = vaults.upload()
    with pytest.raises(NodeError) as caught:
        vaults.download(found, floor_bytes=1 << 60)
    assert caught.value.reason == "DiskFull"
    assert list(vaults.target.parent.iterdir()) == []


@pytest.fixture
def disk(tmp_path: Path, vaults: Vaults) -> Iterator[Path]:
    """A disk on which the checkpoint is to arrive, with room for little besides."""
    with small_disk(tmp_path / "disk", mebibytes=32) as path:
        vaults.target = path / "b" / ID
        vaults.target.parent.mkdir()
        yield path


def test_a_disk_that_has_no_room_is_named_at_once(disk: Path, vaults: Vaults) -> None:
    found = vaults.upload()
    (disk / "other").write_bytes(bytes(16 << 20))
    before = free(disk)
    with pytest.raises(NodeError) as caught:
        vaults.download(found)
    assert caught.value.reason == "DiskFull"
    assert vaults.received == 0
    assert list(vaults.target.parent.iterdir()) == []
    assert free(disk) == before
    (disk / "other").unlink()
    assert vaults.download(found).sha256 == vaults.manifest.sha256


class _Elsewhere:
    """A store, beside which somebody else fills the disk before it gives the first shard."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._path = path
        self._lock = threading.Lock()

    def get(self, key: str, **more: Any) -> bytes:
        with self._lock:
            if not key.endswith("manifest.json") and not self._path.exists():
                fill_up(self._path)
        return self._store.get(key, **more)


def test_a_disk_that_fills_up_while_it_arrives_is_named_and_given_back(
    disk: Path, vaults: Vaults, store: Store
) -> None:
    """The room for its files was taken before. What is missing is that for its manifest."""
    found, before = vaults.upload(), free(disk)
    vaults.store = _Elsewhere(store, disk / "other")
    with pytest.raises(NodeError) as caught:
        vaults.download(found)
    assert caught.value.reason == "DiskFull"
    assert "No space left on device" in str(caught.value)
    assert list(vaults.target.parent.iterdir()) == []
    (disk / "other").unlink()
    assert free(disk) == pytest.approx(before, abs=1 << 16)
    vaults.store = store
    assert vaults.download(found).sha256 == vaults.manifest.sha256
    contents.verify(vaults.target, vaults.manifest)


def test_a_disk_that_fills_up_before_its_room_is_taken_is_named(
    disk: Path, vaults: Vaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer takes the room after it was looked at: between two statements of ours."""
    found, real = vaults.upload(), os.statvfs

    def look(path: Any) -> os.statvfs_result:
        info = real(path)
        (disk / "other").write_bytes(bytes(16 << 20))
        return info

    with monkeypatch.context() as patched, pytest.raises(NodeError) as caught:
        patched.setattr(os, "statvfs", look)
        vaults.download(found)
    assert caught.value.reason == "DiskFull"
    assert "No space left on device" in str(caught.value)
    assert vaults.received == 0
    assert list(vaults.target.parent.iterdir()) == []
    (disk / "other").unlink()
    assert vaults.download(found).sha256 == vaults.manifest.sha256
