"""What is committed is what the manifest says, whatever happens to the files meanwhile.

Segments and shards are a few bytes long here, so that a checkpoint of a kilobyte has many.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from architect.checkpoint import digests, envelope, keys
from architect.checkpoint import manifest as manifests
from architect.checkpoint.envelope import Shard
from architect.checkpoint.manifest import Manifest
from architect.core.errors import FormatError, Rejected
from architect.daemon.checkpoint import contents
from architect.daemon.vault import progress, shards, stream
from architect.daemon.vault.meter import Meter
from architect.daemon.vault.progress import Begun
from architect.daemon.vault.sending import Sending
from architect.daemon.vault.shards import ShardName
from architect.daemon.vault.streams import Streams
from architect.daemon.vault.transfer import Patience
from support import checkpointdirs

SHARD = 16
SEGMENT = 56
KEY = bytes(range(keys.DATA_KEY_BYTES))
ATTEMPT = "0" * 16


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "SHARD_BYTES", SHARD)
        patch.setattr(manifests, "SEGMENT_BYTES", SEGMENT)
        patch.setattr(contents, "SEGMENT_BYTES", SEGMENT)
        yield


@dataclass
class Store:
    """What was put, by key; *before* is called with the number of each put as it begins."""

    before: Callable[[int], None] = lambda _: None
    objects: dict[str, bytes] = field(default_factory=dict)
    puts: Iterator[int] = field(default_factory=itertools.count)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, key: str, body: bytes | bytearray, **_: object) -> None:
        with self.lock:
            self.before(next(self.puts))
            self.objects[key] = bytes(body)

    def get(self, key: str, **_: object) -> bytes:
        raise AssertionError("nothing is got from the store")


class Upload:
    """A checkpoint of files of these sizes, sent by one daemon after the other."""

    def __init__(self, directory: Path, sizes: list[int]) -> None:
        self.directory = directory / "checkpoint"
        for number, size in enumerate(sizes):
            path = self.directory / f"app/image/{number:02}.img"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes((7 * number + n) % 256 for n in range(size)))
            path.chmod(0o600)
        (self.directory / "app/layer.tar").write_bytes(b"")
        self.manifest: Manifest = contents.build(self.directory, checkpointdirs.about())
        self.paths = [self.directory / p.name for p in self.manifest.pieces if p.size]
        self.plain = b"".join(path.read_bytes() for path in self.paths)
        self.notes = directory / "notes.json"
        self.store = Store()

    def send(self, *, streams: int = 2) -> dict[int, Shard]:
        """Do what an upload does before it commits; return what the envelope would list."""
        sha256 = self.manifest.sha256
        noted = progress.resume(self.notes, manifest_sha256=sha256) or progress.begin(
            self.notes,
            Begun(
                manifest_sha256=sha256,
                attempt=ATTEMPT,
                data_key=KEY,
                key_id="k",
                wrapped_key=b"w",
            ),
        )
        Sending(
            self.store,
            self.directory,
            self.manifest,
            noted,
            streams=Streams(streams),
            prefix="",
            patience=Patience(0),
            is_wanted=lambda: True,
            sent=lambda _: None,
            meter=Meter(lambda *_: None),
        ).run()
        return noted.shards

    def noted(self) -> set[int]:
        found = progress.resume(self.notes, manifest_sha256=self.manifest.sha256)
        return set() if found is None else set(found.shards)

    def stored(self, listed: dict[int, Shard]) -> bytes:
        """Return what whoever downloads it would get."""
        opened = []
        for number in range(envelope.shards_of(len(self.plain))):
            key = envelope.shard_key("default", self.manifest.id, ATTEMPT, number)
            about = ShardName(id=self.manifest.id, attempt=ATTEMPT, number=number)
            length = envelope.shard_length(len(self.plain), number)
            assert listed[number].hash == digests.of(self.store.objects[key])
            opened.append(
                shards.open_shard(
                    self.store.objects[key],
                    key=KEY,
                    about=about,
                    codec=listed[number].codec,
                    length=length,
                )
            )
        return b"".join(opened)

    def flip(self, position: int) -> None:
        """Change the byte at *position* of all that is sent, or change it back."""
        for path in self.paths:
            data = bytearray(path.read_bytes())
            if position < len(data):
                data[position] ^= 1
                path.write_bytes(data)
                return
            position -= len(data)


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    return Upload(tmp_path, [5, 0, 300, SEGMENT, SHARD, 1, 130])


def ended(number: int) -> Callable[[int], None]:
    """Return what fails a store from the put of that number on, as a daemon's end does."""

    def before(put: int) -> None:
        if put >= number:
            raise Rejected("the daemon has ended", reason="Ended")

    return before


def test_all_is_listed_and_is_what_it_was(upload: Upload) -> None:
    listed = upload.send()
    assert set(listed) == set(range(envelope.shards_of(len(upload.plain))))
    assert upload.noted() == set(listed)
    assert upload.stored(listed) == upload.plain


def test_nothing_is_read_twice(upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(*arguments: Any, length: int, **more: Any) -> bytearray:
        sizes.append(length)
        return stream.read(*arguments, length=length, **more)

    monkeypatch.setattr("architect.daemon.vault.sending.read", counted)
    monkeypatch.setattr("architect.daemon.vault.proof.read", counted)
    upload.send()
    assert sum(sizes) == len(upload.plain)


@pytest.mark.parametrize("position", [0, 4, 5, 60, 304, 305, 360, 361, 376, 377, 378, 505, 507])
def test_a_file_that_is_not_what_it_was_is_found(upload: Upload, position: int) -> None:
    assert len(upload.plain) == 508
    upload.flip(position)
    with pytest.raises(FormatError, match=r"/checkpoint: app/image/\d\d.img is damaged within"):
        upload.send()


def test_what_changes_once_it_was_read_changes_nothing(upload: Upload) -> None:
    last = envelope.shards_of(len(upload.plain)) - 1

    def change(put: int) -> None:
        if put == last:
            for position in range(0, len(upload.plain), 3):
                upload.flip(position)

    upload.store.before = change
    listed = upload.send(streams=1)
    assert upload.stored(listed) == upload.plain


def test_only_what_is_proved_is_noted(upload: Upload) -> None:
    """The file of 300 bytes has segments up to 61, 117, 173, …, and shards up to 64, 80, 96, …"""
    upload.store.before = ended(5)
    with pytest.raises(Rejected, match="has ended"):
        upload.send(streams=1)
    assert len(upload.store.objects) == 5
    assert upload.noted() == {0, 1, 2}


def test_damage_to_what_was_sent_but_not_proved_is_found_by_the_next_daemon(
    upload: Upload,
) -> None:
    upload.flip(116)  # in a segment of which the first daemon sends the beginning only
    upload.store.before = ended(6)
    with pytest.raises(Rejected):
        upload.send(streams=1)
    assert len(upload.store.objects) == 6
    upload.store.before = lambda _: None
    with pytest.raises(FormatError, match="damaged"):
        upload.send()
    upload.flip(116)
    assert upload.stored(upload.send()) == upload.plain


def test_what_was_proved_is_not_read_again(upload: Upload) -> None:
    upload.store.before = ended(20)
    with pytest.raises(Rejected):
        upload.send(streams=1)
    assert max(upload.noted()) >= 10
    upload.store.before = lambda _: None
    upload.flip(70)  # long sent, and what lies in the store is right
    sent = len(upload.store.objects)
    assert upload.stored(upload.send()) == upload.plain
    assert sent == 20


def test_what_shares_a_segment_with_what_is_sent_now_is_read_again(upload: Upload) -> None:
    listed = upload.send()
    notes = upload.notes.read_bytes().splitlines(keepends=True)

    def sent_again() -> dict[int, Shard]:
        # Shards 8 and 9 are 128 to 159, in the middle of a segment of 117 to 172.
        kept = (line for line in notes if b'"n":8,' not in line and b'"n":9,' not in line)
        upload.notes.write_bytes(b"".join(kept))
        assert upload.noted() == set(listed) - {8, 9}
        return upload.send()

    for position in (120, 128, 150, 165):
        upload.flip(position)
        with pytest.raises(FormatError, match="damaged"):
            sent_again()
        upload.flip(position)
    upload.flip(100)
    upload.flip(180)
    assert upload.stored(sent_again()) == upload.plain


@pytest.mark.parametrize("version", [b"1", b"2"])
def test_notes_of_an_earlier_version_are_not_believed(upload: Upload, version: bytes) -> None:
    upload.store.before = ended(20)
    with pytest.raises(Rejected):
        upload.send(streams=1)
    assert upload.noted()
    old = upload.notes.read_bytes().replace(b'"version":3', b'"version":' + version, 1)
    upload.notes.write_bytes(old)
    assert upload.noted() == set()


Change = tuple[int, int]
"""Before which put, and of which byte."""


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    streams=st.sampled_from([1, 2, 4, 9]),
    changes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 600)), max_size=4),
    ends=st.lists(st.integers(0, 30), max_size=2),
)
def test_a_file_that_changes_at_any_moment_is_never_committed_as_it_is_not(
    sizes, streams, changes, ends
):
    """Changed, changed back, by threads that come in any order, over several daemons."""
    with tempfile.TemporaryDirectory() as directory:
        upload = Upload(Path(directory), sizes)
        put = itertools.count()
        for end in [*ends, None]:

            def before(number: int, *, end: int | None = end) -> None:
                now = next(put)
                for when, position in changes:
                    if when == now:
                        upload.flip(position)
                if end is not None and number >= end:
                    raise Rejected("the daemon has ended", reason="Ended")

            upload.store.before, upload.store.puts = before, itertools.count()
            try:
                listed = upload.send(streams=streams)
            except FormatError:
                assert changes, "nothing was damaged"
            except Rejected:
                assert end is not None
            else:
                assert upload.stored(listed) == upload.plain
