"""Checkpoints from one daemon to another: real gRPC over the loopback, real certificates."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from architect.core.errors import (
    ArchitectError,
    ConfigError,
    FormatError,
    NodeError,
    Rejected,
    Retryable,
    Unavailable,
)
from architect.daemon.checkpoint import contents, manifest
from architect.daemon.checkpoint.manifest import SEGMENT_BYTES, Manifest
from architect.daemon.peer import protocol
from architect.daemon.peer.client import Fetcher
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.server import MAX_CALLS_OF_A_NODE, PeerServer
from architect.daemon.peer.source import Source as Lane
from architect.pki import certificates, node_identity
from support import peerserver
from support.checkpointdirs import fill
from support.issuer import Issuer
from support.relay import Relay

ID = "web-1234"
Eventually = Callable[..., None]


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="session")
def foreign() -> Issuer:
    return Issuer()


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
        self._servers: list[PeerServer] = []

    def may_read(self, node: str, checkpoint_id: str) -> bool:
        self.asked.append((node, checkpoint_id))
        if self.undecided:
            raise self.undecided.pop()
        return node in self.readers

    def serve(self, kind: type[PeerServer] = PeerServer) -> PeerServer:
        def count(size: int) -> None:
            self.sent += size

        server = kind(
            credentials=lambda: self.credentials,
            locate=self.locate,
            may_read=self.may_read,
            sent=count,
        )
        server.start("127.0.0.1:0")
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


@pytest.fixture
def source(tmp_path: Path, issuer: Issuer) -> Iterator[Source]:
    made = Source(tmp_path, issuer)
    yield made
    made.stop()


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


# What it is for


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_checkpoint_arrives_as_it_was(source: Source, is_durable: bool) -> None:
    source.serve()
    assert source.fetch(is_durable=is_durable) == source.manifest
    contents.verify(source.target, source.manifest)
    assert contents.read(source.target) == source.manifest
    assert source.sent == source.manifest.total_bytes
    assert set(source.asked) == {("node-b", ID)}


def test_large_pieces_come_in_segments(source: Source) -> None:
    size = large(source)
    source.serve()
    source.fetch()
    contents.verify(source.target, source.manifest)
    assert source.sent == source.manifest.total_bytes > size


def test_twenty_at_once_arrive(source: Source, tmp_path: Path, issuer: Issuer) -> None:
    wanted = {}
    for number in range(20):
        name = f"web-{number}"
        wanted[name] = fill(
            source.checkpoints / name,
            checkpoint_id=name,
            files={"app/image/pages-1.img": os.urandom(1 << 20)},
        )
    source.serve()
    fetcher = source.fetcher()

    def get(name: str) -> Manifest:
        # Programs are started meanwhile, as the daemon does: grpc and fork must not meet.
        assert subprocess.run(["true"], check=False).returncode == 0
        return fetcher.fetch("node-a", name, tmp_path / "b" / name, is_durable=False).manifest

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        for got in pool.map(get, wanted):
            contents.verify(tmp_path / "b" / got.id, wanted[got.id])


def test_a_manifest_is_judged_before_anything_is_sent(source: Source) -> None:
    source.serve()

    def accept(found: Manifest) -> None:
        assert found == source.manifest
        raise ConfigError("another architecture")

    refused(lambda: source.fetch(accept=accept), ConfigError)
    assert source.sent == 0
    assert source.nothing_arrived()


def test_a_swapped_manifest_is_noticed_by_its_id(source: Source) -> None:
    other = contents.build(
        source.checkpoints / ID, fill(source.checkpoints / "x", checkpoint_id="web-5").about
    )
    contents.write(source.checkpoints / ID, other)
    source.serve()
    error = refused(source.fetch, FormatError)
    assert "the manifest of web-5" in str(error)


# Who may


def test_a_node_that_may_not_read_learns_nothing(source: Source) -> None:
    source.serve()
    source.readers.clear()
    assert refused(source.fetch, Rejected).reason == "NotAllowed"
    fetcher = source.fetcher()
    for name in ("not-there", ID):
        error = refused(
            lambda name=name: fetcher.fetch("node-a", name, source.target),  # type: ignore[misc]
            Rejected,
        )
        assert error.reason == "NotAllowed"
    assert source.sent == 0
    assert source.nothing_arrived()


def test_every_call_is_decided_anew(source: Source) -> None:
    source.serve()
    error = refused(lambda: source.fetch(accept=lambda _: source.readers.clear()), Rejected)
    assert error.reason == "NotAllowed"
    assert source.sent == 0


def test_a_decision_that_cannot_be_made_is_waited_for(source: Source) -> None:
    source.undecided.append(Unavailable("the API is away"))
    source.serve()
    assert source.fetch() == source.manifest
    assert source.undecided == []


def test_what_is_not_there_is_said_to_who_may_ask(source: Source) -> None:
    source.serve()
    error = refused(lambda: source.fetcher().fetch("node-a", "other", source.target), Rejected)
    assert error.reason == "UnknownCheckpoint"


def test_an_id_that_is_a_path_is_not_even_looked_up(source: Source) -> None:
    source.serve()
    for name in ("../a/" + ID, "/etc", ".", "a\0b", "x" * 200, ""):
        error = refused(
            lambda name=name: source.fetcher().fetch("node-a", name, source.target),  # type: ignore[misc]
            Rejected,
        )
        assert error.reason == "BadRequest"
    assert source.asked == []


# Certificates


def test_a_server_of_another_authority_is_not_believed(source: Source, foreign: Issuer) -> None:
    source.credentials = foreign.credentials("node-a")
    source.serve()
    assert refused(source.fetch, Rejected).reason == "Untrusted"
    assert source.suspicions
    assert source.asked == []


def test_a_server_that_is_another_node_is_not_believed(source: Source, issuer: Issuer) -> None:
    source.credentials = issuer.credentials("node-c")
    source.serve()
    assert refused(source.fetch, Rejected).reason == "Untrusted"
    assert source.asked == []


def test_a_node_whose_name_begins_like_anothers_is_another(source: Source, issuer: Issuer) -> None:
    for node in ("node", "node-a.evil", "evil.node-a", "node-a1"):
        source.credentials = issuer.credentials(node)
        source.serve()
        assert refused(source.fetch, Rejected).reason == "Untrusted"


def test_a_servers_certificate_that_has_ended_is_not_believed(
    source: Source, issuer: Issuer
) -> None:
    source.credentials = issuer.expired("node-a")
    source.serve()
    assert refused(source.fetch, Rejected).reason == "Untrusted"


def unwelcome(source: Source, credentials: Credentials) -> None:
    """Try a fetch that the server's TLS does not let in."""
    source.serve()
    source.mine = credentials
    refused(lambda: source.fetch(patience_seconds=1.0), Unavailable)
    assert source.asked == []
    assert source.suspicions
    assert source.nothing_arrived()


def test_a_client_of_another_authority_is_not_let_in(
    source: Source, issuer: Issuer, foreign: Issuer
) -> None:
    mine, theirs = issuer.credentials("node-b"), foreign.credentials("node-b")
    unwelcome(
        source,
        Credentials(
            key=theirs.key,
            certificate=theirs.certificate,
            authorities=mine.authorities,
            due_at=mine.due_at,
            ends_at=mine.ends_at,
        ),
    )


def test_a_client_whose_certificate_has_ended_is_not_let_in(source: Source, issuer: Issuer) -> None:
    unwelcome(source, issuer.expired("node-b"))


def leaf_of(
    issuer: Issuer, *, names: list[str], usages: list[Any], life: timedelta = timedelta(hours=1)
) -> Credentials:
    """Return a certificate that no operator would issue, though its authority did."""
    key, current = certificates.make_key(), issuer.authorities.current
    now = datetime.now(UTC)
    leaf = certificates.issue(
        current.certificate, current.key, key.public_key(), common_name="x", dns_names=names,
        usages=usages, now=now, life=life,
    )  # fmt: skip
    return Credentials(
        key=certificates.key_to_pem(key),
        certificate=certificates.to_pem(leaf),
        authorities=certificates.to_pem(current.certificate),
        due_at=now + life,
        ends_at=now + life,
    )


def test_a_servers_certificate_is_no_clients(source: Source, issuer: Issuer) -> None:
    name = node_identity.dns_name_of("node-b")
    unwelcome(source, leaf_of(issuer, names=[name], usages=[ExtendedKeyUsageOID.SERVER_AUTH]))


@pytest.mark.parametrize(
    "names",
    [["node-b"], ["node-b.node.architect.example"], ["*.node.architect.internal"],
     ["node-b.node.architect.internal", "node-c.node.architect.internal"]],
)  # fmt: skip
def test_a_certificate_that_names_no_node_is_no_daemons(
    source: Source, issuer: Issuer, names: list[str]
) -> None:
    source.serve()
    source.mine = leaf_of(issuer, names=names, usages=list(node_identity.USAGES))
    error = refused(source.fetch, Rejected)
    assert error.reason == "NotAllowed"
    assert "not a daemon's certificate" in str(error)
    assert source.asked == []


def test_without_a_certificate_nobody_gets_in(source: Source) -> None:
    source.serve()
    secured = grpc.ssl_channel_credentials(root_certificates=source.mine.authorities)
    name = ("grpc.ssl_target_name_override", node_identity.dns_name_of("node-a"))
    with grpc.secure_channel(f"ipv4:{source.address}", secured, options=[name]) as channel:
        error = describe(channel)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"ipv4:{source.address}") as channel:
        error = describe(channel)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert source.asked == []


def describe(channel: Any, *, timeout: float | None = 20.0, raw: bytes = b"{}") -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(protocol.method(protocol.DESCRIBE))(raw, timeout=timeout)
    return caught.value


def test_a_certificate_that_ends_while_the_connection_lives_is_noticed(source: Source) -> None:
    server = source.serve()
    with channel_of(source) as channel:
        ask = channel.unary_unary(protocol.method(protocol.DESCRIBE))
        raw = protocol.DescribeRequest(id=ID).to_bytes()
        assert ask(raw, timeout=20)
        server._clock = lambda: datetime.now(UTC) + timedelta(days=2)
        with pytest.raises(grpc.RpcError) as caught:
            ask(raw, timeout=20)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_renewed_certificate_is_served_without_a_restart(
    source: Source, issuer: Issuer, foreign: Issuer
) -> None:
    source.serve()
    source.credentials = foreign.credentials("node-a")
    assert refused(source.fetch, Rejected).reason == "Untrusted"
    source.credentials = issuer.credentials("node-a")
    assert source.fetch() == source.manifest


def test_a_server_whose_own_certificate_ended_still_listens(source: Source) -> None:
    server = source.serve()

    def ended() -> Credentials:
        raise Unavailable("ended")

    server._credentials = ended
    assert source.fetch() == source.manifest


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


# What breaks


def test_a_server_that_is_killed_is_gone_on_with_at_its_offset(
    source: Source, issuer: Issuer
) -> None:
    size = large(source)
    running = [peerserver.start(source.credentials, source.checkpoints, reader="node-b")]
    got = 0
    lock = threading.Lock()

    def received(count: int) -> None:
        nonlocal got
        with lock:
            before, got = got, got + count
            if before < size // 3 <= got:
                running[-1].kill()
                running.append(
                    peerserver.start(source.credentials, source.checkpoints, reader="node-b")
                )

    fetcher = source.fetcher(
        address_of=lambda _: f"127.0.0.1:{running[-1].port}", received=received
    )
    try:
        fetched = fetcher.fetch("node-a", ID, source.target, is_durable=False)
    finally:
        running[-1].kill()
    assert len(running) == 2
    assert fetched.breaks >= 1
    assert got == source.manifest.total_bytes
    contents.verify(source.target, source.manifest)


def test_a_connection_that_breaks_again_and_again_is_gone_on_with(source: Source) -> None:
    large(source)
    server = source.serve()
    with Relay(server.port) as relay:
        relay.cut_after = 30 << 20
        source.address = relay.address
        source.fetch()
        assert relay.cuts >= 3
    contents.verify(source.target, source.manifest)


def test_a_connection_that_another_thread_closed_is_made_again(source: Source) -> None:
    """Between the moment it was taken and the call on it."""
    source.serve()
    real = Lane._connected
    closed: list[Any] = []

    def connected(self: Lane) -> Any:
        channel = real(self)
        if not closed and source.asked:
            closed.append(channel)
            self._drop(channel)
        return channel

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Lane, "_connected", connected)
        fetched = source.fetcher().fetch("node-a", ID, source.target, is_durable=False)
    assert closed
    assert fetched.breaks == 1
    contents.verify(source.target, source.manifest)


def test_a_source_that_is_away_is_given_up_and_leaves_nothing(source: Source) -> None:
    server = source.serve()
    server.stop(grace_seconds=0)
    error = refused(lambda: source.fetch(patience_seconds=0.5), Unavailable)
    assert "node-a" in str(error)
    assert source.nothing_arrived()


def test_a_source_that_goes_away_for_good_is_given_up(source: Source) -> None:
    large(source)
    server = source.serve()
    with Relay(server.port) as relay:
        relay.cut_after = 1 << 20
        source.address = relay.address

        def accept(_: Manifest) -> None:
            relay.port_behind = 1  # nobody listens there

        error = refused(lambda: source.fetch(patience_seconds=1.0, accept=accept), Unavailable)
    assert "node-a" in str(error)
    assert source.nothing_arrived()


def test_a_machine_that_lost_its_power_is_noticed(source: Source) -> None:
    """No byte and no reset comes from it: only pings tell."""
    large(source)
    server = source.serve()
    with Relay(server.port) as relay:
        source.address = relay.address

        def accept(_: Manifest) -> None:
            relay.is_silent = True

        refused(lambda: source.fetch(patience_seconds=2.0, accept=accept), Unavailable)
    assert source.nothing_arrived()


def test_a_source_that_says_nothing_is_given_up(source: Source) -> None:
    """It answers pings: the machine lives, its disk does not."""
    blocked = threading.Event()

    class Stuck(PeerServer):
        def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
            blocked.wait(60)
            yield from super()._read(raw, context)

    source.serve(Stuck)
    try:
        error = refused(lambda: source.fetch(patience_seconds=1.0), Unavailable)
    finally:
        blocked.set()
    assert "node-a" in str(error)
    assert source.nothing_arrived()


def test_a_transfer_has_an_end(source: Source) -> None:
    large(source)
    source.serve()
    refused(lambda: source.fetch(timeout_seconds=0.0), Unavailable)
    assert source.nothing_arrived()


# What is damaged


def test_a_byte_that_was_changed_is_noticed(source: Source) -> None:
    path = source.checkpoints / ID / "app/image/pages-1.img"
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"!")
    source.serve()
    error = refused(source.fetch, FormatError)
    assert "app/image/pages-1.img" in str(error)
    assert "another SHA-256" in str(error)
    assert source.nothing_arrived()


def test_a_piece_that_is_too_short_on_its_node_is_named(source: Source) -> None:
    os.truncate(source.checkpoints / ID / "app/image/pages-1.img", 1000)
    source.serve()
    error = refused(source.fetch, FormatError)
    assert "ends at 1000 instead of" in str(error)
    assert source.nothing_arrived()


def test_a_piece_that_is_gone_on_its_node_is_named(source: Source) -> None:
    (source.checkpoints / ID / "app/layer.tar").unlink()
    (source.checkpoints / ID / "app/layer.tar").symlink_to("/etc/passwd")
    source.serve()
    assert "app/layer.tar" in str(refused(source.fetch, FormatError))


class Cutting(PeerServer):
    """Ends each piece early and says that all is well."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        for data in super()._read(raw, context):
            yield data[:-1]


class Adding(PeerServer):
    """Sends more than was asked for."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        yield from super()._read(raw, context)
        yield b"more"


class Empty(PeerServer):
    """Says that all is well, and sends nothing."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        return iter(())


class Endless(PeerServer):
    """Sends as long as one listens."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        while True:
            yield bytes(protocol.CHUNK_BYTES)


class Lumps(PeerServer):
    """Sends chunks larger than agreed."""

    def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
        yield b"".join(super()._read(raw, context))


class Lying(PeerServer):
    """Sends a manifest larger than any."""

    def _describe(self, raw: bytes, context: Any) -> bytes:
        return bytes(manifest.MAX_BYTES + 1)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Cutting, "instead of"),
        (Adding, "more than was asked for"),
        (Empty, "instead of"),
        (Endless, "more than was asked for"),
        (Lumps, "more than was asked for"),
        (Lying, "bytes"),
    ],
)
def test_a_server_that_lies_is_caught(source: Source, kind: type[PeerServer], said: str) -> None:
    source.serve(kind)
    assert said in str(refused(source.fetch, FormatError))
    assert source.nothing_arrived()


def test_a_disk_that_is_too_small_is_named_before_anything_is_sent(source: Source) -> None:
    source.serve()
    error = refused(lambda: source.fetch(floor_bytes=1 << 60), NodeError)
    assert error.reason == "DiskFull"
    assert source.sent == 0
    assert source.nothing_arrived()


# What one caller can do to others


def test_requests_that_no_client_of_ours_makes_are_refused(source: Source) -> None:
    source.serve()
    size = max(p.size for p in source.manifest.pieces)
    number = next(n for n, p in enumerate(source.manifest.pieces) if p.size == size)
    good = {"id": ID, "piece": number, "offset": 0, "length": 1}
    with channel_of(source) as channel:
        read = channel.unary_stream(protocol.method(protocol.READ))

        def code(value: Any, *, timeout: float | None = 20.0) -> Any:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            with pytest.raises(grpc.RpcError) as caught:
                list(read(raw, timeout=timeout))
            error: Any = caught.value
            return error.code()

        invalid, outside = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE
        for value in (
            b"", b"[]", b"\xff", b"[" * 4000, {}, {**good, "path": "/etc/passwd"},
            {**good, "id": "../x"}, {**good, "id": 1}, {**good, "piece": -1},
            {**good, "piece": True}, {**good, "piece": "0"}, {**good, "offset": -1},
            {**good, "offset": 1.0}, {**good, "length": 0}, {**good, "length": 1 << 40},
        ):  # fmt: skip
            assert code(value) is invalid, value
        for value in (
            {**good, "piece": 1000}, {**good, "offset": size}, {**good, "length": size + 1},
            {**good, "offset": 1, "length": size},
        ):  # fmt: skip
            assert code(value) is outside, value
        assert code(b"x" * 5000) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code(good, timeout=None) is invalid
        assert code(good, timeout=86400) is invalid
        unknown = channel.unary_unary("/architect.peer.v2.Checkpoints/Describe")
        with pytest.raises(grpc.RpcError) as caught:
            unknown(b"{}", timeout=20)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert source.sent == 0


def test_one_node_cannot_take_all_calls(
    source: Source, issuer: Issuer, eventually: Eventually
) -> None:
    """Calls that nobody reads from stay open; those of another node are answered meanwhile."""
    large(source)
    server = source.serve()
    raw = protocol.ReadRequest(
        id=ID,
        piece=next(n for n, p in enumerate(source.manifest.pieces) if p.size > SEGMENT_BYTES),
        offset=0,
        length=SEGMENT_BYTES,
    ).to_bytes()
    with channel_of(source) as one, channel_of(source) as two:
        calls = [
            channel.unary_stream(protocol.method(protocol.READ))(raw, timeout=60)
            for channel in (one, two)
            for _ in range(MAX_CALLS_OF_A_NODE)
        ]
        eventually(lambda: server._calls["node-b"] == MAX_CALLS_OF_A_NODE)
        source.mine = issuer.credentials("node-c")
        source.readers.add("node-c")
        assert source.fetch() == source.manifest
        for call in calls:
            call.cancel()
        eventually(lambda: not server._calls)


def test_who_is_turned_away_comes_again(source: Source, eventually: Eventually) -> None:
    server = source.serve()
    server._calls["node-b"] = MAX_CALLS_OF_A_NODE
    release = threading.Timer(0.5, server._calls.clear)
    release.start()
    assert source.fetch() == source.manifest
    release.join()


def test_who_is_turned_away_keeps_the_connection(source: Source) -> None:
    """Or each call that comes too soon would end those that are under way."""

    class Busy(PeerServer):
        turned_away = 0

        def _read(self, raw: bytes, context: Any) -> Iterator[bytes]:
            if Busy.turned_away < 5:
                Busy.turned_away += 1
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
            return super()._read(raw, context)

    source.serve(Busy)
    dialled = 0

    def address_of(_: str) -> str:
        nonlocal dialled
        dialled += 1
        return source.address

    fetched = source.fetcher(address_of=address_of).fetch(
        "node-a", ID, source.target, is_durable=False
    )
    assert (fetched.breaks, dialled) == (5, 1)


def test_a_port_that_is_taken_is_named(source: Source) -> None:
    source.serve()
    second = PeerServer(
        credentials=lambda: source.credentials, locate=source.locate, may_read=source.may_read
    )
    with pytest.raises(NodeError) as caught:
        second.start(source.address)
    assert caught.value.reason == "CannotListen"
    second.stop()


def test_no_certificate_no_server(source: Source) -> None:
    def none() -> Credentials:
        raise Unavailable("no certificate yet")

    with pytest.raises(Retryable):
        PeerServer(credentials=none, locate=source.locate, may_read=source.may_read).start(
            "127.0.0.1:0"
        )
