"""Two nodes, one checkpoint: real gRPC over the loopback, real certificates."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from architect.checkpoint.manifest import SEGMENT_BYTES, Manifest
from architect.core.errors import (
    ArchitectError,
)
from architect.daemon.checkpoint import contents
from architect.daemon.peer import protocol
from architect.daemon.peer.client import Fetcher
from architect.daemon.peer.outlet import Outlet
from architect.daemon.peer.server import PeerServer
from architect.pki import node_identity
from support.checkpointdirs import fill
from support.issuer import Issuer

ID = "web-1234"
Eventually = Callable[..., None]


class Source:
    """node-a with its checkpoints, and node-b, which may read them."""

    def __init__(self, directory: Path, issuer: Issuer) -> None:
        self.checkpoints = directory / "a"
        self.target = directory / "b" / ID
        self.target.parent.mkdir()
        self.manifest = fill(self.checkpoints / ID)
        self.credentials = issuer.credentials("node-a")
        self.mine = issuer.credentials("node-b")
        self.readers = {"node-b"}
        self.asked: list[tuple[str, str]] = []
        self.undecided: list[ArchitectError] = []
        self.sent = 0
        self.suspicions = 0
        self.address = ""
        self._lock = threading.Lock()
        self._servers: list[PeerServer] = []

    def may_read(self, node: str, checkpoint_id: str) -> bool:
        self.asked.append((node, checkpoint_id))
        if self.undecided:
            raise self.undecided.pop()
        return node in self.readers

    def serve(
        self, kind: type[PeerServer] = PeerServer, *, outlet: type[Outlet] = Outlet
    ) -> PeerServer:
        def count(size: int) -> None:
            with self._lock:
                self.sent += size

        server = kind(
            credentials=lambda: self.credentials,
            locate=self.locate,
            may_read=self.may_read,
            sent=count,
        )
        server._outlet = outlet(sent=count)
        server.start("127.0.0.1:0", data_address="127.0.0.1:0")
        self.address = f"127.0.0.1:{server.port}"
        self._servers.append(server)
        return server

    def locate(self, name: str) -> Path | None:
        path = self.checkpoints / name
        return path if path.is_dir() else None

    def fetcher(self, **arguments: Any) -> Fetcher:
        def suspect() -> None:
            self.suspicions += 1

        given: dict[str, Any] = {
            "credentials": lambda: self.mine,
            "address_of": lambda _: self.address,
            "suspect": suspect,
            "patience_seconds": 30.0,
            **arguments,
        }
        return Fetcher(**given)

    def fetch(self, *, patience_seconds: float = 30.0, **arguments: Any) -> Manifest:
        fetcher = self.fetcher(patience_seconds=patience_seconds)
        return fetcher.fetch(
            "node-a", ID, self.target, **{"is_durable": False, **arguments}
        ).manifest

    def stop(self) -> None:
        for server in self._servers:
            server.stop(grace_seconds=0)

    def nothing_arrived(self) -> bool:
        return list(self.target.parent.iterdir()) == []


def refused(call: Callable[[], object], kind: type[ArchitectError]) -> Any:
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def large(source: Source, *, segments: int = 2) -> int:
    """Give the checkpoint a piece of several segments, and return its size."""
    path = source.checkpoints / ID / "app/image/pages-9.img"
    size = segments * SEGMENT_BYTES + 12345
    with open(path, "wb") as file:
        # Mostly holes: every byte goes over the wire, and few come from the disk.
        for start in range(0, size, 1 << 22):
            file.seek(start)
            file.write(os.urandom(4096))
        file.truncate(size)
    path.chmod(0o600)
    source.manifest = contents.build(source.checkpoints / ID, source.manifest.about)
    contents.write(source.checkpoints / ID, source.manifest)
    return size


@contextlib.contextmanager
def channel_of(source: Source) -> Iterator[Any]:
    """A channel of node-b, for requests that the client does not make."""
    secured = grpc.ssl_channel_credentials(
        root_certificates=source.mine.authorities,
        private_key=source.mine.key,
        certificate_chain=source.mine.certificate,
    )
    name = ("grpc.ssl_target_name_override", node_identity.dns_name_of("node-a"))
    with grpc.secure_channel(f"ipv4:{source.address}", secured, options=[name]) as channel:
        yield channel


def describe(channel: Any, *, timeout: float | None = 20.0, raw: bytes = b"{}") -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(protocol.method(protocol.DESCRIBE))(raw, timeout=timeout)
    return caught.value
