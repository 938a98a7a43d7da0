"""The gate through sleeps and wakes, against a model of the kernel's queue.

The queue knows no modes: a packet waits in it until it has a verdict, and each gets one. What the
model knows of the gate is what a client would notice: what may be dropped, and in which order what
waited arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from architect.shim.packets.gate import Knowledge, Listener, Mode, Origin, SavedConnection
from architect.shim.packets.headers import ACK, FIN, PSH, RST, SYN, Flow, Kind, Packet, parse
from architect.shim.packets.hold import Gate
from architect.shim.packets.keepalive import KeepaliveAnswerer
from architect.shim.packets.netns import Netns
from architect.shim.packets.nfqueue import NfQueue, QueuedPacket
from support.tiers import IS_LONG
from unit.shim.packets.test_hold import datagram, segment

GIVES_UP_SECONDS = 127.0
"""After so long without an answer a client gives up: tcp_syn_retries of 6 (tcp(7))."""

FLOW = Flow("10.0.0.9", 5000, "10.0.0.2", 80)
NEXT = 7
"""The sequence number that the sleeping connection waits for."""


@dataclass
class Sent:
    """A packet that somebody sent, and what became of it."""

    data: bytes
    at: float
    verdict: str = ""

    @property
    def packet(self) -> Packet:
        return parse(self.data)


class Kernel:
    """An nfnetlink queue: packets in, one verdict for each."""

    def __init__(self) -> None:
        self.sent: dict[int, Sent] = {}
        self.unread: list[int] = []
        self.delivered: list[int] = []
        self.is_anybody_there = True
        """Whether the application runs, so that what arrives is received."""

    def put(self, data: bytes, *, at: float) -> None:
        identifier = len(self.sent) + 1
        self.sent[identifier] = Sent(data, at)
        self.unread.append(identifier)

    def read(self, *, limit: int = 4096) -> list[QueuedPacket]:
        unread, self.unread = self.unread, []
        return [QueuedPacket(i, self.sent[i].data, len(self.sent[i].data), 2) for i in unread]

    def accept(self, identifier: int) -> None:
        self._verdict(identifier, "accepted")
        packet = self.sent[identifier].packet
        is_for_it = (packet.kind, packet.destination_port) == (Kind.UDP, 53)
        assert self.is_anybody_there or not is_for_it, f"{packet} reaches nobody"
        self.delivered.append(identifier)

    def drop(self, identifier: int) -> None:
        self._verdict(identifier, "dropped")

    def _verdict(self, identifier: int, verdict: str) -> None:
        sent = self.sent[identifier]
        assert not sent.verdict, f"packet {identifier} was {sent.verdict}, and is {verdict}"
        sent.verdict = verdict

    @property
    def waiting(self) -> list[int]:
        return [i for i, sent in self.sent.items() if not sent.verdict]

    def accept_through(self, identifier: int) -> None:
        for each in [i for i in self.waiting if i <= identifier]:
            self.accept(each)

    def passthrough(self, last: int) -> None:
        self.accept_through(len(self.sent))

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Mute:
    """Answers keepalives to nobody."""

    def answer(self, packet: Packet, saved: SavedConnection, *, interface: int) -> bool:
        return True

    def close(self) -> None: ...


class GateMachine(RuleBasedStateMachine):
    @initialize(shadow=st.booleans(), has_connection=st.booleans(), probes=st.booleans())
    def a_pod_falls_asleep(self, shadow: bool, has_connection: bool, probes: bool) -> None:
        self.now = 1000.0
        self.kernel = Kernel()
        self.netns = Netns.own()
        self.knowledge = Knowledge(
            listeners=(
                Listener(protocol="tcp", address="0.0.0.0", port=80),
                Listener(protocol="tcp", address="0.0.0.0", port=90, wakes=not shadow),
                Listener(protocol="udp", address="0.0.0.0", port=53),
            ),
            connections={FLOW: SavedConnection(receive_next=NEXT, window=1)}
            if has_connection
            else {},
            probe_ports=frozenset({80} if probes else ()),
        )
        self.gate = self.new_gate()
        self.held_at_once: list[int] = []

    def new_gate(self) -> Gate:
        gate = Gate(
            cast(NfQueue, self.kernel),
            netns=self.netns,
            knowledge=self.knowledge,
            find_origin=lambda packet, late: self.origin,
            clock=lambda: self.now,
        )
        gate._keepalives = cast(KeepaliveAnswerer, Mute())
        return gate

    origin = Origin.REMOTE

    def teardown(self) -> None:
        if not hasattr(self, "gate"):
            return
        try:
            self.it_wakes()
            assert not self.kernel.waiting
        finally:
            self.netns.close()

    # Packets

    def come(self, data: bytes, origin: Origin = Origin.REMOTE) -> None:
        self.origin = origin
        self.kernel.put(data, at=self.now)
        self.gate.pump()

    @rule(
        port=st.sampled_from([80, 80, 90, 81]),
        source=st.integers(5000, 5003),
        origin=st.sampled_from([*Origin]),
    )
    def a_connection_is_opened(self, port: int, source: int, origin: Origin) -> None:
        self.come(segment(port, source_port=source), origin)

    @rule(
        flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN, RST, SYN | ACK]),
        sequence=st.sampled_from([NEXT - 1, NEXT, NEXT + 5]),
        data=st.sampled_from([b"", b"x", b"hello"]),
    )
    def a_conversation_goes_on(self, flags: int, sequence: int, data: bytes) -> None:
        self.come(segment(80, flags=flags, sequence=sequence, data=data))

    @rule(port=st.sampled_from([53, 54]), size=st.sampled_from([0, 8, 500]))
    def a_datagram_comes(self, port: int, size: int) -> None:
        self.come(datagram(port, size=size))

    @rule(seconds=st.sampled_from([0.01, 1.0, 60.0, 64.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.gate.tick()

    # The pod

    @rule(mode=st.sampled_from(Mode))
    def the_mode_changes(self, mode: Mode) -> None:
        # Its answer is still the application's as long as it drains.
        self.gate.enter(mode)
        self.kernel.is_anybody_there = mode is Mode.DRAIN

    @rule()
    def it_wakes(self) -> None:
        """And falls asleep again at once."""
        self.kernel.is_anybody_there = True
        waited = self.kernel.waiting
        before = len(self.kernel.delivered)
        while self.gate.release_step() is not None:
            pass
        assert self.gate.held == 0
        assert self.kernel.delivered[before:] == waited, "they arrive in another order"
        self.gate = self.new_gate()

    # What must hold

    @invariant()
    def what_waits_is_known(self) -> None:
        if hasattr(self, "gate"):
            assert self.gate.held == len(self.kernel.waiting)

    @invariant()
    def nothing_is_thrown_away_that_is_missed(self) -> None:
        if not hasattr(self, "gate"):
            return
        for identifier, sent in self.kernel.sent.items():
            if sent.verdict == "dropped":
                assert self.is_no_loss(identifier), f"{sent.packet} is lost"

    def is_no_loss(self, identifier: int) -> bool:
        """Whether a sender does not miss a packet: it is there twice, answered, or given up."""
        sent = self.kernel.sent[identifier]
        packet = sent.packet
        if packet.kind is not Kind.TCP:
            return False
        twins = [
            i
            for i, other in self.kernel.sent.items()
            if i != identifier
            and (other.packet.flow, other.packet.sequence) == (packet.flow, packet.sequence)
            and other.packet.payload_bytes == packet.payload_bytes
            and other.verdict != "dropped"
        ]
        is_keepalive = (
            packet.flow in self.knowledge.connections
            and packet.sequence == NEXT - 1
            and packet.payload_bytes <= 1
        )
        is_given_up = packet.opening and self.now - sent.at > GIVES_UP_SECONDS
        return bool(twins) or is_keepalive or is_given_up

    @invariant()
    @precondition(lambda self: hasattr(self, "gate") and self.gate.mode is Mode.ASLEEP)
    def who_asks_is_heard(self) -> None:
        """A request of somebody who is not a probe waits, and wakes the pod."""
        for identifier in self.kernel.waiting:
            packet = self.kernel.sent[identifier].packet
            if packet.kind is Kind.UDP:
                assert self.gate.wake is not None


def test_packets_wait_in_their_order_and_none_is_lost() -> None:
    run_state_machine_as_test(
        GateMachine,
        settings=settings(
            max_examples=2000 if IS_LONG else 200, stateful_step_count=40, deadline=None
        ),
    )
