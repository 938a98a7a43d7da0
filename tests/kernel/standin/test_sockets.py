"""The stand-in's sockets, in a real network namespace, driven one turn at a time."""

from __future__ import annotations

import contextlib
import functools
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from architect.shim.standin import server
from architect.shim.standin.dialogue import Health
from architect.shim.standin.http2 import PREFACE, SETTINGS, frame
from architect.shim.standin.ports import Listener
from architect.shim.standin.server import StandIn
from support.standin import DEADLINE_SECONDS, Namespace

pytestmark = pytest.mark.kernel

ASLEEP = Health(healthy=True, reason="asleep")
BROKEN = Health(healthy=False, reason="the restore failed")
PORT = 8080
ANY_V4 = Listener(family=socket.AF_INET, address="0.0.0.0", port=PORT)
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def standin(netns: Namespace, clock: Clock) -> Iterator[Callable[..., StandIn]]:
    with contextlib.ExitStack() as made:

        def make(*listeners: Listener, health: Health = ASLEEP) -> StandIn:
            one = StandIn(
                listeners or [ANY_V4],
                enter_netns=netns.entered,
                health=health,
                certificate=None,
                clock=clock,
            )
            made.callback(one.close)
            return one

        yield make


@pytest.fixture
def connect(netns: Namespace) -> Iterator[Callable[..., socket.socket]]:
    with contextlib.ExitStack() as made:

        def dial(host: str = "127.0.0.1", port: int = PORT) -> socket.socket:
            with netns.entered():
                client = socket.create_connection((host, port), timeout=DEADLINE_SECONDS)
            return made.enter_context(client)

        yield dial


def serve(standin: StandIn, condition: Callable[[], object], *, what: str) -> None:
    """Run turns until the condition holds."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what}: {standin.counters}"
        if select.select([standin], [], [], 1.0)[0]:
            standin.ready()


def waits(standin: StandIn) -> None:
    """See that something waits for its turn: the kernel is later than who has connected."""
    assert select.select([standin], [], [], DEADLINE_SECONDS)[0]


def readable(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


def read_all(standin: StandIn, client: socket.socket) -> bytes:
    """Read to the end, the stand-in taking its turns."""
    client.setblocking(False)
    found = b""
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        standin.ready()
        standin.tick()
        if select.select([client], [], [], 0.01)[0]:
            piece = client.recv(65536)
            if not piece:
                return found
            found += piece
    raise AssertionError(f"no end of the answer after {found!r}")


def test_the_ports_are_those_of_the_namespace(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    standin()
    connect()
    with socket.socket() as outside, pytest.raises(ConnectionRefusedError):
        outside.connect(("127.0.0.1", PORT))


def test_an_address_bound_listener_takes_only_that_address(
    netns: Namespace, standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    netns.run("ip", "address", "add", "10.9.8.7/32", "dev", "lo")
    standin(Listener(family=socket.AF_INET, address="10.9.8.7", port=PORT))
    connect("10.9.8.7")
    with pytest.raises(ConnectionRefusedError):
        connect("127.0.0.1")


def test_a_v6_only_wildcard_takes_no_ipv4_and_a_dual_one_does(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    standin(
        Listener(family=socket.AF_INET6, address="::", port=PORT, v6only=True),
        Listener(family=socket.AF_INET6, address="::", port=PORT + 1),
    )
    connect("::1")
    connect("::1", PORT + 1)
    connect("127.0.0.1", PORT + 1)
    with pytest.raises(ConnectionRefusedError):
        connect("127.0.0.1")


def test_ports_that_cannot_be_taken_are_skipped_and_named(
    netns: Namespace, standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    with netns.entered():
        other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    other.bind(("0.0.0.0", PORT))
    other.listen()
    with other:
        foreign = Listener(family=socket.AF_INET, address="10.1.2.3", port=PORT + 1)
        fine = Listener(family=socket.AF_INET, address="0.0.0.0", port=PORT + 2)
        made = standin(ANY_V4, foreign, fine)
        assert made.listening == (fine,)
        assert {each.listener: each.reason for each in made.skipped} == {
            ANY_V4: "cannot listen on 0.0.0.0:8080: Address already in use",
            foreign: "cannot listen on 10.1.2.3:8081: Cannot assign requested address",
        }


def test_the_application_can_listen_again_while_a_conversation_goes_on(
    netns: Namespace, standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    made = standin()
    early, queued = connect(), connect()
    serve(made, lambda: made.conversations == 2, what="both are taken in")
    early.sendall(REQUEST[:5])
    late = connect()
    waits(made)  # complete, but not taken in yet
    made.close_listeners()
    assert made.listening == ()
    with netns.entered():
        application = socket.socket()
    with application:
        application.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        application.bind(("0.0.0.0", PORT))
        application.listen()
        connect()
        accepted, _ = application.accept()
        accepted.close()
        for client, words in ((early, REQUEST[5:]), (queued, REQUEST), (late, REQUEST)):
            client.sendall(words)
            serve(
                made,
                functools.partial(readable, client),
                what="a conversation under way is answered",
            )
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_ports_can_be_taken_again_after_a_failed_restore(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    made = standin()
    made.close_listeners()
    made.set_health(ASLEEP)
    assert not made.listening
    made.open_listeners()
    assert made.listening == (ANY_V4,)
    connect()


def test_a_connection_that_says_nothing_is_closed_after_the_bound(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket], clock: Clock
) -> None:
    made = standin()
    client = connect()
    serve(made, lambda: made.conversations == 1, what="it is taken in")
    assert made.next_deadline() == clock.now + server.SILENCE_SECONDS
    clock.now += server.SILENCE_SECONDS - 0.001
    made.tick()
    assert made.conversations == 1
    clock.now += 0.001
    assert read_all(made, client) == b""
    assert made.counters == {"silent": 1}
    assert made.next_deadline() is None


def test_a_connection_that_drips_is_closed_after_its_lifetime(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket], clock: Clock
) -> None:
    made = standin()
    client = connect()
    client.sendall(b"GET /")
    serve(made, lambda: made.conversations == 1, what="it is taken in")
    end = clock.now + server.LIFETIME_SECONDS
    while clock.now + 4 < end:
        clock.now += 4
        client.sendall(b"x")
        assert select.select([made], [], [], DEADLINE_SECONDS)[0]
        made.ready()
        made.tick()
        assert made.conversations == 1
    clock.now = end
    made.tick()
    assert made.conversations == 0
    assert made.counters == {"unknown": 1}


def test_connecting_and_closing_is_a_tcp_probe_however_it_is_closed(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    made = standin()
    connect().close()
    reset = connect()
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    serve(made, lambda: made.counters["tcp"] == 2, what="both are counted")
    assert made.conversations == 0


def test_words_that_are_no_probe_are_counted_as_unknown(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    made = standin()
    garbage, half = connect(), connect()
    garbage.sendall(b"\0garbage")
    half.sendall(b"GET /")
    half.close()
    serve(made, lambda: made.counters["unknown"] == 2, what="both are counted")
    assert made.conversations == 0


def test_a_peer_that_never_reads_is_hung_up_on(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    made = standin()
    client = connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that it is full soon
    client.setblocking(False)
    client.send(PREFACE + frame(SETTINGS, 0, 0))
    serve(made, lambda: made.conversations == 1, what="it is taken in")
    end = time.monotonic() + DEADLINE_SECONDS
    with contextlib.suppress(ConnectionError):
        while made.conversations:
            assert time.monotonic() < end
            with contextlib.suppress(BlockingIOError):
                client.send(frame(SETTINGS, 0, 0) * 1000)
            made.ready()
    serve(made, lambda: made.conversations == 0, what="it is hung up on")


def test_more_connections_than_the_limit_wait_for_their_turn(
    standin: Callable[..., StandIn],
    connect: Callable[..., socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CONVERSATIONS", 3)
    made = standin()
    clients = [connect() for _ in range(5)]
    serve(made, lambda: made.conversations == 3, what="the limit is reached")
    assert not select.select([made], [], [], 0)[0]
    clients[0].close()
    clients[1].close()
    serve(made, lambda: made.counters["tcp"] == 2, what="two have ended")
    clients[4].sendall(REQUEST)
    serve(made, lambda: made.counters["http"] == 1, what="one that waited is answered")


def test_want_of_descriptors_rests_instead_of_spinning(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket], clock: Clock
) -> None:
    made = standin()
    client = connect()
    client.sendall(REQUEST)
    waits(made)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        made.ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert made.counters == {"accept_failed": 1}
    assert not select.select([made], [], [], 0)[0]
    assert made.next_deadline() == clock.now + server.ACCEPT_PAUSE_SECONDS
    clock.now += server.ACCEPT_PAUSE_SECONDS
    made.tick()
    serve(made, lambda: made.counters["http"] == 1, what="it is answered after the rest")


def test_becoming_unhealthy_refuses_new_connections_and_tells_those_under_way(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    made = standin()
    client = connect()
    client.sendall(REQUEST[:5])
    serve(made, lambda: made.conversations == 1, what="it is taken in")
    made.set_health(BROKEN)
    with pytest.raises(ConnectionRefusedError):
        connect()
    client.sendall(REQUEST[5:])
    serve(made, lambda: made.counters["http"] == 1, what="it is answered")
    assert client.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_closing_twice_does_nothing_and_leaves_no_descriptor(
    standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    made = standin()
    client = connect()
    serve(made, lambda: made.conversations == 1, what="it is taken in")
    made.close()
    made.close()
    assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect()


def test_an_answer_that_the_peer_has_read_leaves_no_time_wait_on_the_port(
    netns: Namespace, standin: Callable[..., StandIn], connect: Callable[..., socket.socket]
) -> None:
    made = standin()
    client = connect()
    client.sendall(REQUEST)
    serve(made, lambda: made.counters["http"] == 1, what="it is answered")
    client.recv(65536)
    client.close()
    serve(made, lambda: made.conversations == 0, what="it has ended")
    listing = netns.run("ss", "--tcp", "--all", "--numeric", f"sport = :{PORT}")
    assert "TIME-WAIT" not in listing
