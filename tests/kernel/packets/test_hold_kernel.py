"""The whole hold in real network namespaces: nothing answered, nothing reset, nothing lost."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from architect.shim.packets.gate import Knowledge, Listener, Mode, Origin, SavedConnection
from architect.shim.packets.headers import Flow, Packet
from architect.shim.packets.hold import Gate
from architect.shim.packets.nfqueue import NfQueue, read_status
from architect.shim.packets.ruleset import Plan, Ruleset, State
from kernel.packets.topology import (
    CLIENT,
    FAMILY,
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
        until(lambda client=client: connected(client), what="a connection through awake rules")
        topology.keep(accepted(server))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_connection_waits_and_then_is_served(holder: Holder, version: int) -> None:
    topology = holder.topology
    gate = holder.hold(everything(version))
    server = topology.listen(version, port=PORT)
    client = topology.connect(version, port=PORT)
    holder.pump_until(lambda: gate.held == 1, what="the request is held")
    assert gate.wake is not None and f"to port {PORT}" in gate.wake[1]
    assert not connected(client)
    assert holder.release() == 1
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
    status = read_status(topology.pod)
    assert status is not None and status.waiting == 81
    gate = Gate.adopt(warden, netns=topology.pod, state=state, find_origin=remote)
    assert gate.unknown == 50
    assert gate.held == 81
    assert gate.wake is not None
    assert received(server) is None
    assert gate.release() == 81
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
    assert CLIENT[version] == request.getsockname()[0]
    assert FAMILY[version] in (socket.AF_INET, socket.AF_INET6)
