"""Two nodes with one object store: a checkpoint goes there and comes back."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from architect.checkpoint import envelope, keys
from architect.checkpoint.envelope import SHARD_BYTES, Envelope
from architect.checkpoint.keys import PrivateKey, PublicKey
from architect.checkpoint.manifest import Manifest
from architect.daemon.checkpoint import contents
from architect.daemon.peer.credentials import Credentials
from architect.daemon.vault.download import Downloader
from architect.daemon.vault.store import Store
from architect.daemon.vault.upload import Recipient, Uploaded, Uploader
from architect.objectstore.settings import StoreSettings
from architect.pki import certificates
from support.checkpointdirs import fill
from support.issuer import Issuer
from support.patience import patient

ID = "uid-web"

FILES = {
    "app/image/pages-2.img": b"abcdefgh" * (SHARD_BYTES // 4),
    "app/image/random.img": hashlib.shake_256(b"seed").digest(SHARD_BYTES + 12345),
}
"""Four shards and a part: some are made smaller, some cannot be, some hold several files."""


class Vaults:
    """node-a, which has the checkpoint, and node-b, which gets it."""

    def __init__(
        self,
        directory: Path,
        issuer: Issuer,
        store: Any,
        *,
        prefix: str = "",
        id: str = ID,
        namespace: str = "default",
        files: Mapping[str, bytes] = FILES,
    ) -> None:
        self.issuer = issuer
        self.store = store
        self.prefix = prefix
        self.id = id
        self.namespace = namespace
        self.source = directory / "a" / id
        self.target = directory / "b" / id
        self.target.parent.mkdir(parents=True)
        self.notes = directory / "a" / "uploads" / f"{id}.json"
        self.manifest = fill(self.source, checkpoint_id=id, namespace=namespace, files=dict(files))
        self.cluster_key: PrivateKey = keys.make_key()
        self.sent = 0
        self.received = 0

    @property
    def shards(self) -> int:
        return envelope.shards_of(self.manifest.total_bytes)

    @property
    def manifest_key(self) -> str:
        return envelope.manifest_key(self.namespace, self.id, below=self.prefix)

    def upload(self, *, uploader: Uploader | None = None, **more: Any) -> Uploaded:
        """Send it, as a daemon that has just been started would."""
        made = uploader or self.uploader(patience_seconds=more.pop("patience_seconds", 10))
        return made.upload(self.source, self.manifest, notes=self.notes, **more)

    def uploader(self, **more: Any) -> Uploader:
        """Return the part of node-a's daemon that sends."""

        def count(size: int) -> None:
            self.sent += size

        return _uploader(
            self.store,
            self.issuer.credentials("node-a"),
            self.cluster_key.public_key(),
            prefix=self.prefix,
            sent=count,
            **more,
        )

    def upload_elsewhere(self, settings: StoreSettings) -> BaseProcess:
        """Have another process send it, which may be killed."""
        made = multiprocessing.get_context("spawn").Process(
            target=_upload,
            args=(
                settings,
                self.issuer.credentials("node-a"),
                keys.public_to_text(self.cluster_key.public_key()),
                self.source,
                self.notes,
            ),
            kwargs={"prefix": self.prefix},
        )
        made.start()
        return made

    def download(self, found: Uploaded, **more: Any) -> Manifest:
        """Get it, as who was given the key would."""

        def count(size: int) -> None:
            self.received += size

        downloader = Downloader(
            self.store,
            prefix=self.prefix,
            verify=self.verify,
            received=count,
            patience_seconds=more.pop("patience_seconds", 10),
        )
        described = downloader.describe(found.key, sha256=found.sha256)
        data_key = more.pop("data_key", None) or self.data_key(found)
        more.setdefault("timeout_seconds", 120)
        return downloader.download(described, data_key, self.target, **more).manifest

    def download_elsewhere(self, found: Uploaded, settings: StoreSettings) -> BaseProcess:
        """Have another process get it, which may be killed."""
        authorities = self.issuer.credentials("node-b").authorities
        made = multiprocessing.get_context("spawn").Process(
            target=_download,
            args=(settings, authorities, found.key, found.sha256, self.data_key(found)),
            kwargs={"prefix": self.prefix, "target": self.target},
        )
        made.start()
        return made

    def data_key(self, found: Uploaded) -> bytes:
        """Do what the operator does."""
        binding = envelope.binding_of(self.manifest)
        return keys.unwrap(found.wrapped_key, self.cluster_key, binding)

    def verify(self, raw: bytes) -> Envelope:
        return _verified(raw, self.issuer.credentials("node-b").authorities)


def until(is_so: Callable[[], bool], *, seconds: float = 60) -> None:
    """Return once it is so."""
    deadline = time.monotonic() + patient(seconds)
    while not is_so():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.01)


def _download(
    settings: StoreSettings,
    authorities: bytes,
    key: str,
    sha256: str,
    data_key: bytes,
    *,
    prefix: str,
    target: Path,
) -> None:
    downloader = Downloader(
        Store(settings), prefix=prefix, verify=lambda raw: _verified(raw, authorities)
    )
    described = downloader.describe(key, sha256=sha256)
    downloader.download(described, data_key, target, timeout_seconds=600)


def _upload(
    settings: StoreSettings,
    mine: Credentials,
    cluster_key: str,
    source: Path,
    notes: Path,
    *,
    prefix: str,
) -> None:
    public = keys.public_from_text(cluster_key)
    uploader = _uploader(Store(settings), mine, public, prefix=prefix)
    uploader.upload(source, contents.read(source), notes=notes)


def _uploader(
    store: Any, mine: Credentials, cluster_key: PublicKey, *, prefix: str, **more: Any
) -> Uploader:
    def sign(value: Envelope) -> bytes:
        (leaf,) = certificates.read_certificates(mine.certificate)
        return envelope.seal(value, key=certificates.read_key(mine.key), certificate=leaf)

    return Uploader(
        store,
        prefix=prefix,
        recipient=lambda: Recipient(public_key=cluster_key),
        sign=sign,
        verify=lambda raw: _verified(raw, mine.authorities),
        **more,
    )


def _verified(raw: bytes, authorities: bytes) -> Envelope:
    return envelope.from_bytes(raw, authorities=certificates.read_certificates(authorities))
