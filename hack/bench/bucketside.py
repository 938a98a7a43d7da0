"""A checkpoint to the object store and back, by us and by nothing but the client we use.

A program of its own, since it is run in a node's network and its memory is looked at::

    python -m bench.bucketside DIRECTORY ENDPOINT REGION BUCKET MEBIBYTES RUNS

Lines of JSON: the most memory that ours took in a first run, then for each run, ours and plainly by
turns, seconds of six transfers of the same bytes. *Plainly* is what awscrt makes of one file:
parts of 8 MiB, as many at once as it likes, read and written by its own threads; no compression,
encryption or hash of content. A store may put parts together slowly, which says nothing about us:
so the same bytes are also put and got plainly in as many files and objects as ours are.

Store and node have one memory. What a transfer has written, here and there, is removed before the
next one, and ours and the plain ones take turns in who is first: so each writes into memory that
was in use a moment ago, and none into what a virtual machine has yet to get from its host.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from architect.checkpoint import envelope, keys
from architect.checkpoint.envelope import Envelope
from architect.checkpoint.manifest import About, Container, Manifest
from architect.daemon.checkpoint import contents
from architect.daemon.heap import Heap
from architect.daemon.vault.download import Downloader
from architect.daemon.vault.store import CONCURRENCY, Store
from architect.daemon.vault.streams import Streams
from architect.daemon.vault.upload import Recipient, Uploader
from architect.kube.checkpoints import FORMAT_VERSION, Requirements
from architect.objectstore.control import Control
from architect.objectstore.settings import StoreSettings
from architect.pki import certificates, node_identity
from bench.errors import BenchError

BLOCK_BYTES: Final = 1 << 20
LIMIT_SECONDS: Final = 300.0
NODE: Final = "node"
PAGES: Final = "containers/app/image/pages-1.img"


def main(words: list[str]) -> None:
    """Carry out the command line above."""
    directory, endpoint, region, bucket, mebibytes, runs = words
    settings = StoreSettings(bucket=bucket, endpoint=endpoint, region=region, prefix="bench")
    work = Path(directory)
    source = work / "source"
    manifest = make(source, int(mebibytes))
    before = _peak_bytes()
    heap = Heap()
    heap.prepare()
    ours = Ours(settings)

    def transfer(number: int) -> dict[str, float]:
        with heap.busy():
            seconds = {
                "up": _timed(lambda: ours.up(source, manifest, work, number)),
                "down": _timed(lambda: ours.down(work / "target")),
            }
        contents.verify(work / "target", manifest)
        shutil.rmtree(work / "target")
        return seconds

    # Not counted, as it is the first: but for its memory, before there is any that is not ours.
    transfer(0)
    print(json.dumps({"before_bytes": before, "peak_bytes": _peak_bytes()}), flush=True)
    control, plain = Control(settings), Plain(settings)
    cuts = cut(source / PAGES, work / "cuts")

    def transfer_plainly() -> dict[str, float]:
        with heap.busy():
            seconds = {
                "plain_up": _timed(lambda: plain.up(source / PAGES)),
                "plain_down": _timed(lambda: plain.down(work / "plain")),
            }
            shutil.rmtree(work / "plain")
            remove(control, settings)
            seconds |= {
                "plain_up_objects": _timed(lambda: plain.up(*cuts, name="cut")),
                "plain_down_objects": _timed(
                    lambda: plain.down(work / "plain", name="cut", count=len(cuts))
                ),
            }
        shutil.rmtree(work / "plain")
        return seconds

    remove(control, settings)
    transfer_plainly()
    for number in range(1, int(runs) + 1):
        both: list[Callable[[], dict[str, float]]] = [partial(transfer, number), transfer_plainly]
        seconds: dict[str, float] = {}
        for one in both if number % 2 else reversed(both):
            remove(control, settings)
            seconds |= one()
        print(json.dumps(seconds), flush=True)
    ours.store.close()


class Ours:
    """Both directions, with keys and certificates made here."""

    def __init__(self, settings: StoreSettings, *, requests: int = CONCURRENCY) -> None:
        self.store = Store(settings, requests=lambda: requests, most_requests=requests)
        now = datetime.datetime.now(UTC)
        self._authority = certificates.make_authority("bench", now=now, life=timedelta(days=1))
        self._key = certificates.make_key()
        self._certificate = certificates.issue(
            *self._authority,
            self._key.public_key(),
            common_name=node_identity.COMMON_NAME,
            dns_names=[node_identity.dns_name_of(NODE)],
            usages=node_identity.USAGES,
            now=now,
            life=timedelta(days=1),
        )
        self._cluster = keys.make_key()
        # What an earlier run left there was signed by an authority that is gone.
        self._prefix = f"{settings.prefix}/{uuid.uuid4()}"
        self._found: Any = None

    def uploader(self, number: int, *, streams: Streams | None = None) -> Uploader:
        """Return what sends, in a run of that number."""
        return Uploader(
            self.store,
            prefix=f"{self._prefix}/{number}",
            recipient=lambda: Recipient(public_key=self._cluster.public_key()),
            sign=lambda value: envelope.seal(value, key=self._key, certificate=self._certificate),
            verify=self._verify,
            streams=streams,
        )

    def up(self, source: Path, manifest: Manifest, work: Path, number: int) -> None:
        """Send it."""
        uploader = self.uploader(number)
        self._prefix_now = f"{self._prefix}/{number}"
        self._found = uploader.upload(source, manifest, notes=work / f"notes-{number}.json")
        self._data_key = keys.unwrap(
            self._found.wrapped_key, self._cluster, envelope.binding_of(manifest)
        )

    def down(self, target: Path) -> None:
        """Get what was sent last."""
        downloader = Downloader(self.store, prefix=self._prefix_now, verify=self._verify)
        described = downloader.describe(self._found.key, sha256=self._found.sha256)
        downloader.download(
            described, self._data_key, target, is_durable=False, timeout_seconds=LIMIT_SECONDS
        )

    def _verify(self, raw: bytes) -> Envelope:
        return envelope.from_bytes(raw, authorities=[self._authority[0]])


class Plain:
    """Each file as one object, by awscrt alone."""

    def __init__(self, settings: StoreSettings) -> None:
        from awscrt import auth, http, io, s3

        self._settings, self._http, self._s3 = settings, http, s3
        threads = io.EventLoopGroup()
        bootstrap = io.ClientBootstrap(threads, io.DefaultHostResolver(threads))
        self._client = s3.S3Client(
            bootstrap=bootstrap,
            region=settings.region,
            tls_mode=s3.S3RequestTlsMode.DISABLED,
            signing_config=s3.create_default_s3_signing_config(
                region=settings.region,
                credential_provider=auth.AwsCredentialsProvider.new_default_chain(bootstrap),
            ),
            part_size=8 << 20,
            throughput_target_gbps=10.0,
        )

    def up(self, *paths: Path, name: str = "plain") -> None:
        """Put all of them, at once, under that name and a number."""
        kind = self._s3.S3RequestType.PUT_OBJECT
        made = []
        for number, path in enumerate(paths):
            length = ("Content-Length", str(path.stat().st_size))
            key = f"{name}-{number}"
            made.append(self._begin("PUT", key, kind, [length], send_filepath=str(path)))
        for one in made:
            one.finished_future.result(LIMIT_SECONDS)

    def down(self, into: Path, *, name: str = "plain", count: int = 1) -> None:
        """Get the first *count* of what :meth:`up` has put, at once, as files in a new folder."""
        into.mkdir()
        kind = self._s3.S3RequestType.GET_OBJECT
        made = [
            self._begin("GET", f"{name}-{number}", kind, [], recv_filepath=str(into / str(number)))
            for number in range(count)
        ]
        for one in made:
            one.finished_future.result(LIMIT_SECONDS)

    def _begin(
        self, method: str, name: str, kind: Any, headers: list[tuple[str, str]], **more: Any
    ) -> Any:
        request = self._http.HttpRequest(
            method,
            self._settings.path_of(self._settings.key_of(name)),
            self._http.HttpHeaders([("Host", self._settings.host), *headers]),
        )
        return self._client.make_request(type=kind, request=request, **more)


def remove(control: Control, settings: StoreSettings) -> None:
    """Remove all that lies in the store below the prefix. Raises BenchError if something stays."""
    if left := control.delete(listed.key for listed in control.list(f"{settings.prefix}/")):
        raise BenchError(f"{left[0].key} stays in the store: {left[0].error}")


def cut(path: Path, into: Path) -> list[Path]:
    """Cut a file as an upload of ours is, into files; return them in order."""
    into.mkdir()
    found: list[Path] = []
    with open(path, "rb") as file:
        while piece := file.read(envelope.SHARD_BYTES):
            found.append(into / str(len(found)))
            found[-1].write_bytes(piece)
    return found


def make(directory: Path, mebibytes: int, *, id: str = "bench") -> Manifest:
    """Make a checkpoint of random bytes."""
    path = directory / PAGES
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(BLOCK_BYTES))
        # Else the disk is busy with it just as it is copied.
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o600)
    about = About(
        id=id,
        namespace="bench",
        pod_name="bench",
        pod_uid="bench",
        node=NODE,
        created=datetime.datetime.now(UTC).replace(microsecond=0),
        template_hash="0" * 64,
        owner=None,
        containers={
            "app": Container(
                image_digest="",
                init_sha256="0" * 64,
                tree="containers/app/image",
                layer=None,
            )
        },
        requirements=Requirements(architecture="amd64"),
        format_version=FORMAT_VERSION,
    )
    return contents.build(directory, about)


def _timed(work: Callable[[], None]) -> float:
    # The disk is the store's, too, which has just written what is fetched next.
    os.sync()
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
