"""Checkpoints from one daemon to another: what arrives, for whom, and what breaks on the way."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from architect.checkpoint.manifest import Manifest
from architect.core.errors import (
    ConfigError,
    FormatError,
    Rejected,
    Unavailable,
)
from architect.daemon.checkpoint import contents
from architect.daemon.peer.server import PeerServer
from architect.daemon.peer.source import Link
from architect.daemon.peer.source import Source as Lane
from support import peerserver
from support.checkpointdirs import fill
from support.issuer import Issuer
from support.relay import Relay
from support.transfers import ID, Eventually, Source, large, refused


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_checkpoint_arrives_as_it_was(
    source: Source, is_durable: bool, eventually: Eventually
) -> None:
    source.serve()
    assert source.fetch(is_durable=is_durable) == source.manifest
    contents.verify(source.target, source.manifest)
    assert contents.read(source.target) == source.manifest
    # It is counted once it is sent: the last of it may have arrived before.
    eventually(lambda: source.sent == source.manifest.total_bytes)
    assert set(source.asked) == {("node-b", ID)}


def test_large_pieces_come_in_segments(source: Source, eventually: Eventually) -> None:
    size = large(source)
    source.serve()
    source.fetch()
    contents.verify(source.target, source.manifest)
    eventually(lambda: source.sent == source.manifest.total_bytes)
    assert source.sent > size


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
    with Relay(server.outlet.port) as relay:
        relay.cut_after = 30 << 20
        server.outlet.told_port = relay.port
        source.fetch()
        assert relay.cuts >= 3
    contents.verify(source.target, source.manifest)


def test_a_connection_that_another_thread_closed_is_made_again(source: Source) -> None:
    """Between the moment it was taken and the call on it."""
    source.serve()
    real = Lane._connected
    closed: list[Link] = []

    def connected(self: Lane) -> Link:
        link = real(self)
        if not closed and source.asked:
            closed.append(link)
            self._drop(link)
        return link

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
    with Relay(server.outlet.port) as relay:
        relay.cut_after = 1 << 20
        server.outlet.told_port = relay.port

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


def test_a_port_for_bytes_that_is_not_let_through_is_named(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    server = source.serve()
    server.outlet.told_port = 1  # nobody listens there
    caplog.set_level(logging.INFO)
    error = refused(lambda: source.fetch(patience_seconds=1.0), Unavailable)
    assert "node-a" in str(error)
    assert "cannot reach 127.0.0.1 port 1, where node node-a gives what it grants" in caplog.text
    assert source.nothing_arrived()


def test_bytes_that_come_no_more_are_noticed(source: Source) -> None:
    """The daemon answers calls, and its bytes get lost."""
    large(source)
    server = source.serve()
    with Relay(server.outlet.port) as relay:
        server.outlet.told_port = relay.port
        relay.is_silent = True
        error = refused(lambda: source.fetch(patience_seconds=1.0), Unavailable)
    assert "gave nothing for 1 s" in str(error)
    assert source.nothing_arrived()


def test_what_goes_over_the_wire_is_not_what_is_read(source: Source) -> None:
    text = b"a secret of the application, many times " * 1000
    path = source.checkpoints / ID / "app/image/pages-1.img"
    path.write_bytes(text)
    source.manifest = contents.build(source.checkpoints / ID, source.manifest.about)
    contents.write(source.checkpoints / ID, source.manifest)
    server = source.serve()
    with Relay(server.outlet.port) as relay, Relay(server.port) as calls:
        server.outlet.told_port = relay.port
        source.address = calls.address
        for one in (relay, calls):
            one.is_recorded = True
        source.fetch()
        heard = b"".join(bytes(x) for one in (relay, calls) for x in one.recorded)
    assert (source.target / "app/image/pages-1.img").read_bytes() == text
    assert len(heard) > len(text)
    for secret in (b"a secret of the", b"pages-1.img", ID.encode(), b'"key"'):
        assert secret not in heard


def test_a_source_that_says_nothing_is_given_up(source: Source) -> None:
    """It answers pings: the machine lives, its disk does not."""
    blocked = threading.Event()

    class Stuck(PeerServer):
        def _read(self, raw: bytes, context: Any) -> bytes:
            blocked.wait(60)
            return super()._read(raw, context)

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
