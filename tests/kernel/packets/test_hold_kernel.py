"""The whole hold in real network namespaces: nothing answered, nothing reset, nothing lost."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from architect.core.errors import NodeError
from architect.shim.packets.gate import Knowledge, Listener, Mode, Origin, SavedConnection
from architect.shim.packets.headers import Flow, Packet
from architect.shim.packets.hold import MAX_HELD, Gate
from architect.shim.packets.nfqueue import NfQueue, read_status
from architect.shim.packets.ruleset import Plan, Ruleset, State
from kernel.packets.topology import (
    CLIENT,
    HOST,
    POD,
    Topology,
    accepted,
    connected,
    received,
    until,
)

PORT = 8080
UDP_PORT = 5353
VERSIONS = (4, 6)


def everything(version: int) -> Knowledge:
    return Knowledge(
        listeners=(
            Listener(protocol="tcp", address=POD[version], port=PORT),
            Listener(protocol="udp", address=POD[version], port=UDP_PORT),
        )
    )


def remote(packet: Packet, late: bool) -> Origin:
    return Origin.REMOTE


class Holder:
    """What a keeper does with one pod, step by step."""

    def __init__(self, topology: Topology, ruleset: Ruleset) -> None:
        self.topology, self.ruleset = topology, ruleset
        self.gate: Gate | None = None

    def hold(
        self,
        knowledge: Knowledge,
        *,
        mode: Mode = Mode.ASLEEP,
        origin: Callable[[Packet, bool], Origin] = remote,
    ) -> Gate:
        queue = NfQueue.bind(self.topology.pod)
        self.ruleset.apply(Plan(state=State.HOLDING))
        self.gate = Gate(
            queue, netns=self.topology.pod, knowledge=knowledge, find_origin=origin, mode=mode
        )
        return self.gate

    def release(self) -> int:
        assert self.gate is not None
        count = self.gate.release()
        self.ruleset.apply(Plan(state=State.AWAKE))
        self.gate.close()
        self.gate = None
        return count

    def pump_until(self, condition: Callable[[], object], *, what: str) -> None:
        gate = self.gate
        assert gate is not None
        until(lambda: (gate.pump() and False) or condition(), what=what)


@pytest.fixture
def holder(topology: Topology, ruleset: Ruleset) -> Iterator[Holder]:
    made = Holder(topology, ruleset)
    yield made
    if made.gate is not None:
        made.gate.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_awake_rules_let_everything_pass(
    topology: Topology, ruleset: Ruleset, version: int
) -> None:
    ruleset.apply(Plan(state=State.AWAKE, watch=True, node_addresses=frozenset(HOST.values())))
    server = topology.listen(version, port=PORT)
    for source in (topology.client, topology.host):
        client = topology.connect(version, port=PORT, source=source)
        until(partial(connected, client), what="a connection through awake rules")
        topology.keep(accepted(server))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_connection_waits_and_then_is_served(holder: Holder, version: int) -> None:
    topology = holder.topology
    gate = holder.hold(everything(version))
    server = topology.listen(version, port=PORT)
    client = topology.connect(version, port=PORT)
    # TCP repeats it each second: there are more of it where we have no processor for so long.
    holder.pump_until(lambda: gate.held >= 1, what="the request is held")
    assert gate.wake is not None and f"to port {PORT}" in gate.wake[1]
    assert not connected(client)
    assert holder.release() >= 1
    until(lambda: connected(client), what="the held request is answered")
    peer = topology.keep(accepted(server))
    client.send(b"hello")
    until(lambda: received(peer) == b"hello", what="data after the release")


@pytest.mark.parametrize("version", VERSIONS)
def test_datagrams_come_out_in_order(holder: Holder, ruleset: Ruleset, version: int) -> None:
    topology = holder.topology
    server = topology.udp_server(version, port=UDP_PORT)
    gate = holder.hold(everything(version))
    client = topology.udp(version)
    for number in range(300):
        client.sendto(struct.pack("!I", number), (POD[version], UDP_PORT))
        if not number:
            # Until the neighbour is found only so many wait for it.
            holder.pump_until(lambda: gate.held == 1, what="the first datagram is held")
    holder.pump_until(lambda: gate.held == 300, what="all datagrams are held")
    assert received(server) is None
    # More arrive unread by anybody, and while the release goes on.
    for number in range(300, 400):
        client.sendto(struct.pack("!I", number), (POD[version], UDP_PORT))
    numbers: list[int] = []

    def take() -> bool:
        # 410 at once would not fit into the server's socket.
        while (data := received(server)) is not None:
            numbers.append(*struct.unpack("!I", data))
        return len(numbers) == 410

    def step() -> bool:
        done = gate.release_step() is None
        take()
        return done

    until(step, what="the release")
    assert gate.stats.lost_udp == 0
    ruleset.apply(Plan(state=State.AWAKE))
    for number in range(400, 410):
        client.sendto(struct.pack("!I", number), (POD[version], UDP_PORT))

    until(take, what="all datagrams arrive")
    assert numbers == list(range(410))


@pytest.mark.parametrize("version", VERSIONS)
def test_data_on_an_established_connection_waits(holder: Holder, version: int) -> None:
    topology = holder.topology
    server = topology.listen(version, port=PORT)
    client = topology.connect(version, port=PORT)
    until(lambda: connected(client), what="the connection")
    peer = topology.keep(accepted(server))
    flow = Flow(*client.getsockname()[:2], *client.getpeername()[:2])
    saved = SavedConnection(receive_next=0, window=501)
    gate = holder.hold(replace(everything(version), connections={flow: saved}))
    client.send(b"request")
    holder.pump_until(lambda: gate.held, what="the data is held")
    assert gate.wake is not None and "data from" in gate.wake[1]
    assert received(peer) is None
    holder.release()
    until(lambda: received(peer) == b"request", what="the data arrives")


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_reader_requests_are_dropped_and_not_refused(
    topology: Topology, ruleset: Ruleset, version: int
) -> None:
    ruleset.apply(Plan(state=State.HOLDING))
    server = topology.listen(version, port=PORT)
    client = topology.connect(version, port=PORT)
    until(lambda: ruleset.counters().held.packets >= 1, what="the request reaches the rules")
    assert not connected(client)
    ruleset.apply(Plan(state=State.AWAKE))
    until(lambda: connected(client), what="TCP sends the request again")
    topology.keep(accepted(server))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_killed_keeper_held_is_delivered_by_the_next(
    topology: Topology, ruleset: Ruleset, version: int
) -> None:
    server = topology.udp_server(version, port=UDP_PORT)
    listener = topology.listen(version, port=PORT)
    queue = NfQueue.bind(topology.pod)
    warden = os.dup(queue.fileno())
    ruleset.apply(Plan(state=State.HOLDING))
    client = topology.udp(version)
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        # The first keeper: reads some packets, says so, and is killed.
        gate = Gate(
            queue,
            netns=topology.pod,
            knowledge=everything(version),
            find_origin=remote,
            mode=Mode.ASLEEP,
        )
        while gate.held < 50:
            gate.pump()
        os.write(write_fd, b"x")
        signal_forever = os.pipe()[0]
        os.read(signal_forever, 1)
        os._exit(0)
    state = Gate(
        queue,
        netns=topology.pod,
        knowledge=everything(version),
        find_origin=remote,
        mode=Mode.ASLEEP,
    ).export()
    queue.close()
    for number in range(50):
        client.sendto(struct.pack("!I", number), (POD[version], UDP_PORT))
    os.read(read_fd, 1)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(read_fd)
    os.close(write_fd)
    # Nobody reads now; what comes waits in the kernel.
    for number in range(50, 80):
        client.sendto(struct.pack("!I", number), (POD[version], UDP_PORT))
    request = topology.connect(version, port=PORT)
    # And what is repeated of it, if that takes longer than a second.
    until(
        lambda: (status := read_status(topology.pod)) is not None and status.waiting >= 81,
        what="all of it waits",
    )
    gate = Gate.adopt(
        warden,
        netns=topology.pod,
        knowledge=everything(version),
        state=state,
        find_origin=remote,
    )
    assert gate.unknown == 50
    assert gate.held >= 81
    assert gate.wake is not None
    assert received(server) is None
    assert gate.release() >= 81
    ruleset.apply(Plan(state=State.AWAKE))
    gate.close()
    numbers: list[int] = []

    def take() -> bool:
        while (data := received(server)) is not None:
            numbers.append(*struct.unpack("!I", data))
        return len(numbers) == 80

    until(take, what="all datagrams arrive")
    assert numbers == list(range(80))
    until(lambda: connected(request), what="the held request is answered")
    topology.keep(accepted(listener))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_queue_that_was_unread_since_the_state_was_written_wakes_nobody(
    topology: Topology, ruleset: Ruleset, version: int
) -> None:
    knowledge = Knowledge(
        listeners=(Listener(protocol="tcp", address=POD[version], port=PORT, wakes=False),)
    )
    gate = Gate(
        NfQueue.bind(topology.pod),
        netns=topology.pod,
        knowledge=knowledge,
        find_origin=remote,
        mode=Mode.ASLEEP,
    )
    ruleset.apply(Plan(state=State.HOLDING))
    topology.connect(version, port=PORT)
    until(lambda: gate.pump() or gate.held, what="the quiet request is held")
    state = gate.export()
    fd = os.dup(gate.fileno())
    gate.close()
    with contextlib.closing(
        Gate.adopt(fd, netns=topology.pod, knowledge=knowledge, state=state, find_origin=remote)
    ) as heir:
        assert heir.held >= 1
        assert heir.wake is None


@pytest.mark.parametrize("version", VERSIONS)
def test_closed_ports_refuse_as_ever_while_asleep(holder: Holder, version: int) -> None:
    holder.hold(everything(version))
    client = holder.topology.connect(version, port=PORT + 1)

    def refused() -> bool:
        try:
            connected(client)
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
        return False

    holder.pump_until(refused, what="the refusal of a port on which nobody listens")
    assert holder.gate is not None and holder.gate.wake is None


@pytest.mark.parametrize("version", VERSIONS)
def test_draining_lets_conversations_go_on_and_new_ones_wait(holder: Holder, version: int) -> None:
    topology = holder.topology
    server = topology.listen(version, port=PORT)
    client = topology.connect(version, port=PORT)
    until(lambda: connected(client), what="the connection")
    peer = topology.keep(accepted(server))
    gate = holder.hold(everything(version), mode=Mode.DRAIN)
    client.send(b"question")
    holder.pump_until(lambda: received(peer) == b"question", what="the question passes")
    peer.send(b"answer")
    holder.pump_until(lambda: received(client) == b"answer", what="the answer passes")
    late = topology.connect(version, port=PORT)
    holder.pump_until(lambda: gate.held >= 1, what="the new request waits")
    gate.enter(Mode.DUMP)
    client.send(b"second")
    holder.pump_until(lambda: gate.held >= 2, what="everything waits")
    assert not connected(late) and received(peer) is None
    holder.release()
    until(lambda: connected(late), what="the waiting request is served")
    until(lambda: received(peer) == b"second", what="the waiting data arrives")


@pytest.mark.parametrize("version", VERSIONS)
def test_traffic_inside_the_pod_is_held_too(holder: Holder, version: int) -> None:
    topology = holder.topology
    loopback = "127.0.0.1" if version == 4 else "::1"
    server = topology.listen(version, port=PORT, address=loopback)
    listener = Listener(protocol="tcp", address=loopback, port=PORT)
    gate = holder.hold(Knowledge(listeners=(listener,)))
    client = topology.connect(version, port=PORT, source=topology.pod, to=loopback)
    holder.pump_until(lambda: gate.held >= 1, what="the request over loopback is held")
    assert not connected(client)
    holder.release()
    until(lambda: connected(client), what="the request over loopback is served")
    topology.keep(accepted(server))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fragmented_datagram_arrives_whole(holder: Holder, version: int) -> None:
    topology = holder.topology
    server = topology.udp_server(version, port=UDP_PORT)
    other = topology.udp_server(version, port=UDP_PORT + 1)
    gate = holder.hold(everything(version))
    client = topology.udp(version)
    data = os.urandom(5000)
    client.sendto(data, (POD[version], UDP_PORT))
    holder.pump_until(lambda: gate.held == 4, what="four fragments are held")
    assert gate.wake is not None
    # Fragments for somebody else pass, all of them.
    client.sendto(data, (POD[version], UDP_PORT + 1))
    holder.pump_until(lambda: received(other) == data, what="fragments for another port pass")
    assert gate.held == 4
    assert received(server) is None
    holder.release()
    until(lambda: received(server) == data, what="the held datagram arrives")


@pytest.mark.parametrize("version", VERSIONS)
def test_kubelet_reaches_the_stand_in_and_nobody_else_does(holder: Holder, version: int) -> None:
    topology = holder.topology
    standin = topology.listen(version, port=PORT)

    def by_address(packet: Packet, late: bool) -> Origin:
        return Origin.KUBELET if packet.source == HOST[version] else Origin.REMOTE

    gate = holder.hold(
        replace(everything(version), probe_ports=frozenset({PORT})), origin=by_address
    )
    probe = topology.connect(version, port=PORT, source=topology.host)
    holder.pump_until(lambda: connected(probe), what="the probe reaches the stand-in")
    peers: list[socket.socket] = []

    def take() -> bool:
        with contextlib.suppress(BlockingIOError):
            peers.append(topology.keep(standin.accept()[0]))
        return bool(peers)

    holder.pump_until(take, what="the stand-in accepts")
    peer = peers[0]
    peer.setblocking(False)
    probe.send(b"GET /healthz")
    holder.pump_until(lambda: received(peer) == b"GET /healthz", what="its bytes pass")
    assert gate.wake is None and gate.held == 0
    client = topology.connect(version, port=PORT)
    holder.pump_until(lambda: gate.held >= 1, what="the client's request is held")
    assert gate.wake is not None and not connected(client)


TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
TCP_RECV_QUEUE = 1


def vanish(sock: socket.socket) -> int:
    """Take a connection out of the kernel as CRIU does, unseen by its peer; its rcv_nxt."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE)
    sequence = sock.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) & 0xFFFFFFFF
    sock.close()
    return sequence


def unanswered(sock: socket.socket) -> int:
    """Return how many keepalives in a row had no answer: ``tcpi_probes`` of <linux/tcp.h>."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[3]


@pytest.mark.parametrize("version", VERSIONS)
def test_keepalives_of_sleeping_connections_are_answered(holder: Holder, version: int) -> None:
    topology = holder.topology
    server = topology.listen(version, port=PORT)
    client = topology.connect(version, port=PORT)
    until(lambda: connected(client), what="the connection")
    peer = accepted(server)
    client.send(b"x")
    until(lambda: received(peer) == b"x", what="the first byte")
    peer.send(b"y")
    until(lambda: received(client) == b"y", what="its answer")
    flow = Flow(*client.getsockname()[:2], *client.getpeername()[:2])
    gate = holder.hold(everything(version), mode=Mode.DUMP)
    saved = SavedConnection(receive_next=vanish(peer), window=501)
    server.close()
    gate.enter(Mode.ASLEEP, knowledge=replace(everything(version), connections={flow: saved}))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 100)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    holder.pump_until(lambda: gate.stats.keepalives >= 4, what="four keepalives are answered")
    holder.pump_until(lambda: not unanswered(client), what="the client takes the answers for such")
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert gate.wake is None and gate.held == 0
    client.send(b"data")
    holder.pump_until(lambda: gate.wake, what="data wakes")
    assert gate.wake is not None and "data from" in gate.wake[1]


def test_a_second_reader_is_told_that_the_queue_is_taken(topology: Topology) -> None:
    with (
        contextlib.closing(NfQueue.bind(topology.pod)),
        pytest.raises(NodeError, match="another process reads the queue"),
    ):
        NfQueue.bind(topology.pod)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_two_killed_keepers_held_is_delivered_as_it_is_read(
    topology: Topology, ruleset: Ruleset, version: int
) -> None:
    """More than the application's socket takes at once, and all of it read before by others."""
    server = topology.udp_server(version, port=UDP_PORT)
    client = topology.udp(version)
    queue = NfQueue.bind(topology.pod)
    ruleset.apply(Plan(state=State.HOLDING))
    gate = Gate(
        queue,
        netns=topology.pod,
        knowledge=everything(version),
        find_origin=remote,
        mode=Mode.ASLEEP,
    )
    other = topology.udp_server(version, port=UDP_PORT + 1)
    for number in range(1000):
        client.sendto(struct.pack("!I", number), (POD[version], UDP_PORT))
        # What passes leaves gaps between the numbers of what waits.
        client.sendto(b"x", (POD[version], UDP_PORT + 1))
        if number % 50 == 0:
            until(lambda: gate.pump() or gate.held, what="the neighbour is found")
            received(other)
        if number == 300:
            state = gate.export()
            assert state.oldest == 1
    until(lambda: gate.pump() == 0 and gate.held == 1000, what="all wait")
    for _ in range(2):
        warden = os.dup(gate.fileno())
        gate.close()
        gate = Gate.adopt(
            warden,
            netns=topology.pod,
            knowledge=everything(version),
            state=state,
            find_origin=remote,
        )
        assert (gate.unknown, gate.held) == (1000, 1000)
        state = gate.export()
    numbers: list[int] = []

    def step() -> bool:
        done = gate.release_step() is None
        while (data := received(server)) is not None:
            numbers.append(*struct.unpack("!I", data))
        return done

    until(step, what="the release")
    ruleset.apply(Plan(state=State.AWAKE))
    gate.close()
    assert numbers == list(range(1000))


def opening(source_port: int, port: int) -> bytes:
    """A TCP header that asks for a connection, from the client to the pod."""
    header = struct.pack("!HHIIBBHHH", source_port, port, 7, 0, 5 << 4, 2, 1024, 0, 0)
    pseudo = socket.inet_aton(CLIENT[4]) + socket.inet_aton(POD[4]) + struct.pack("!HH", 6, 20)
    total = sum(struct.unpack("!16H", pseudo + header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[18:]


def test_a_flood_of_requests_leaves_room_to_notice_a_real_one(holder: Holder) -> None:
    """More than is held, all to a port that wakes nobody; the real one is dropped and repeated."""
    topology = holder.topology
    knowledge = Knowledge(
        listeners=(
            Listener(protocol="tcp", address=POD[4], port=PORT),
            Listener(protocol="tcp", address=POD[4], port=PORT + 1, wakes=False),
        )
    )
    gate = holder.hold(knowledge)
    server = topology.listen(4, port=PORT)
    flood = topology.keep(topology.client.open_socket(socket.AF_INET, socket.SOCK_RAW, 6))
    flood.connect((POD[4], 0))
    for number in range(MAX_HELD + 500):
        flood.send(opening(1024 + number, PORT + 1))
        if number % 256 == 0:
            holder.pump_until(lambda: gate.held, what="the neighbour is found")
    holder.pump_until(lambda: gate.stats.overflow_tcp == 500, what="the flood is judged")
    assert gate.held == MAX_HELD and gate.wake is None
    client = topology.connect(4, port=PORT)
    holder.pump_until(lambda: gate.wake, what="the real request is noticed")
    assert gate.held == MAX_HELD, "and dropped, for TCP to repeat"
    holder.release()
    until(lambda: connected(client), what="its repetition is served")
    topology.keep(accepted(server))
