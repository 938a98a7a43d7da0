"""When a container may be frozen: nothing of a conversation may be in its hands."""

from __future__ import annotations

import pytest

from architect.shim.packets import sockdiag
from architect.shim.packets.quiescence import busy, has_half_open
from architect.shim.packets.sockdiag import Socket, TcpAges

OURS = frozenset({10, 11, 12})


def listener(*, backlog: int = 0, inode: int = 10, port: int = 80) -> Socket:
    return Socket("tcp", 4, sockdiag.LISTEN, "0.0.0.0", port, "0.0.0.0", 0, backlog, 128, inode)


def connection(
    *,
    state: int = sockdiag.ESTABLISHED,
    port: int = 80,
    unread: int = 0,
    unsent: int = 0,
    inode: int = 11,
    sent: float = 60.0,
    received: float = 60.0,
    segments: tuple[int, int] = (1, 1),
) -> Socket:
    return Socket(
        "tcp", 4, state, "10.0.0.2", port, "10.0.0.9", 5000, unread, unsent, inode,
        ages=TcpAges(sent, received, *segments),
    )  # fmt: skip


def datagrams(*, unread: int, inode: int = 12) -> Socket:
    return Socket("udp", 4, sockdiag.CLOSE, "0.0.0.0", 53, "0.0.0.0", 0, unread, 0, inode)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([listener()], None),
        ([listener(backlog=2)], "2 connections to port 80 not accepted yet"),
        ([listener(backlog=2, inode=99)], None),
        (
            [listener(), connection(state=sockdiag.SYN_RECV, inode=0)],
            "half-open connection from 10.0.0.9:5000 to port 80",
        ),
        ([listener(port=81), connection(state=sockdiag.SYN_RECV, inode=0)], None),
        ([listener(), connection()], None),
        ([listener(), connection(unread=5)], "unread bytes from 10.0.0.9:5000 on port 80"),
        ([listener(), connection(unread=5, inode=99)], None),
        ([listener(), connection(unsent=1)], "unacknowledged bytes to 10.0.0.9:5000 on port 80"),
        # The peer's FIN stands as one unread byte.
        ([listener(), connection(state=sockdiag.CLOSE_WAIT, unread=1)], None),
        (
            [listener(), connection(state=sockdiag.CLOSE_WAIT, unread=2)],
            "unread bytes from 10.0.0.9:5000 on port 80",
        ),
        # A request at work, one answered, one right behind its answer, one never answered.
        (
            [listener(), connection(received=1, sent=2)],
            "request of 10.0.0.9:5000 on port 80 not answered yet",
        ),
        ([listener(), connection(received=2, sent=1)], None),
        (
            [listener(), connection(received=0.01, sent=0.01)],
            "request of 10.0.0.9:5000 on port 80 not answered yet",
        ),
        ([listener(), connection(received=31, sent=40)], None),
        (
            [listener(), connection(received=1, sent=1, segments=(1, 0))],
            "request of 10.0.0.9:5000 on port 80 not answered yet",
        ),
        # Opened, and nothing asked yet.
        ([listener(), connection(received=0, sent=0, segments=(0, 0))], None),
        # The application's own questions.
        ([connection(port=40000, sent=1, received=5)], "waiting for an answer of 10.0.0.9:5000"),
        ([connection(port=40000, sent=3, received=5)], None),
        ([connection(port=40000, sent=5, received=1)], None),
        ([connection(port=40000, state=sockdiag.SYN_SENT)], "connecting to 10.0.0.9:5000"),
        ([datagrams(unread=0)], None),
        ([datagrams(unread=768)], "unread datagrams on port 53"),
        ([datagrams(unread=768, inode=99)], None),
    ],
)
def test_what_is_busy_and_why(rows: list[Socket], reason: str | None) -> None:
    assert busy(rows, inodes=OURS) == reason


@pytest.mark.parametrize(
    ("row", "is_in_the_way"),
    [
        (connection(received=1, sent=2), False),
        (connection(unread=5), False),
        (connection(unsent=1), False),
        (connection(state=sockdiag.SYN_RECV, inode=0), True),
        (connection(port=40000, state=sockdiag.SYN_SENT), True),
        (datagrams(unread=768), True),
        (listener(backlog=1, port=81), True),
    ],
)
def test_for_a_moment_only_what_has_no_image_is_in_the_way(
    row: Socket, is_in_the_way: bool
) -> None:
    rows = [listener(), row]
    assert busy(rows, inodes=OURS)
    assert bool(busy(rows, inodes=OURS, is_brief=True)) is is_in_the_way


def test_an_ipv6_peer_is_named_in_brackets() -> None:
    row = connection(unsent=1)._replace(version=6, remote="fd00::9")
    assert busy([listener(), row], inodes=OURS) == (
        "unacknowledged bytes to [fd00::9]:5000 on port 80"
    )


def test_a_begun_handshake_is_seen_on_the_ports_that_matter() -> None:
    rows = [listener(), connection(state=sockdiag.NEW_SYN_RECV, inode=0)]
    assert has_half_open(rows, ports={80})
    assert not has_half_open(rows, ports={81})
    assert not has_half_open([listener(), connection()], ports={80})
