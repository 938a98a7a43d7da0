"""Every kind of packet in every mode: what the gate decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.shim.packets.gate import (
    HOLDING,
    Action,
    Knowledge,
    Listener,
    Mode,
    Origin,
    SavedConnection,
    decide,
    wants_origin,
)
from architect.shim.packets.headers import ACK, FIN, PSH, RST, SYN, Flow, FragmentKey, Kind, Packet

APP, SHADOW, HEALTH, DNS, QUIET_UDP, CLOSED = 80, 9090, 8081, 53, 54, 4444
POD, PEER = "10.0.0.2", "10.0.0.9"
FLOW = Flow(PEER, 5000, POD, APP)
QUIET_FLOW = Flow(PEER, 5001, POD, SHADOW)
OWN_FLOW = Flow(PEER, 5432, POD, 40000)
NEXT = 0x00000000  # so that the keepalive's sequence number wraps

KNOWLEDGE = Knowledge(
    listeners=(
        Listener(protocol="tcp", address="0.0.0.0", port=APP),
        Listener(protocol="tcp", address="0.0.0.0", port=SHADOW, wakes=False),
        Listener(protocol="tcp", address="0.0.0.0", port=HEALTH),
        Listener(protocol="udp", address="0.0.0.0", port=DNS),
        Listener(protocol="udp", address="0.0.0.0", port=QUIET_UDP, wakes=False),
        Listener(protocol="udp", address=POD, port=33333, peer=(PEER, 53)),
    ),
    connections={
        FLOW: SavedConnection(receive_next=NEXT, window=100),
        OWN_FLOW: SavedConnection(receive_next=NEXT, window=100),
        QUIET_FLOW: SavedConnection(receive_next=NEXT, window=100, wakes=False),
    },
    probe_ports=frozenset({APP}),
    answered_ports=frozenset({HEALTH}),
)
ASLEEP, DRAIN, DUMP, RESTORE = Mode.ASLEEP, Mode.DRAIN, Mode.DUMP, Mode.RESTORE


def syn(port: int, *, version: int = 4, to: str = POD) -> Packet:
    return Packet(Kind.TCP, version, PEER, 7000, to, port, SYN)


def segment(flow: Flow, *, flags: int = ACK, size: int = 0, sequence: int = NEXT) -> Packet:
    return Packet(Kind.TCP, 4, *flow, flags, sequence, 1, size)


def datagram(port: int, *, source_port: int = 7000) -> Packet:
    return Packet(Kind.UDP, 4, PEER, source_port, POD, port)


def act(packet: Packet, mode: Mode, origin: Origin | None = None) -> Action:
    return decide(packet, mode=mode, knowledge=KNOWLEDGE, origin=origin).action


@pytest.mark.parametrize(
    ("packet", "drain", "dump", "asleep", "restore"),
    [
        # A request that wakes, one that does not, one to nobody.
        (syn(APP), "hold-and-wake", "hold-and-wake", "hold-and-wake", "hold-and-wake"),
        (syn(SHADOW), "hold", "hold", "hold", "hold"),
        (syn(CLOSED), "pass", "hold", "pass", "pass"),
        (syn(HEALTH), "hold-and-wake", "hold-and-wake", "stand-in", "hold-and-wake"),
        # Datagrams: requests, quiet ones, answers to the application's own questions.
        (datagram(DNS), "hold-and-wake", "hold-and-wake", "hold-and-wake", "hold-and-wake"),
        (datagram(QUIET_UDP), "hold", "hold", "hold", "hold"),
        (datagram(33333, source_port=53), "pass", "hold-and-wake", "hold-and-wake",
         "hold-and-wake"),
        # A stranger's, which the kernel refuses for a connected socket.
        (datagram(33333), "pass", "hold", "pass", "pass"),
        (datagram(CLOSED), "pass", "hold", "pass", "pass"),
        # Conversations that sleep.
        (segment(FLOW, flags=ACK | PSH, size=9), "pass", "hold", "hold-and-wake", "hold-and-wake"),
        (segment(FLOW, flags=FIN | ACK), "pass", "hold", "hold", "hold"),
        (segment(FLOW, flags=FIN | ACK, size=3), "pass", "hold", "hold-and-wake", "hold-and-wake"),
        (segment(FLOW, flags=RST), "pass", "hold", "hold", "hold"),
        (segment(FLOW), "pass", "hold", "hold", "hold"),
        (segment(QUIET_FLOW, size=9), "pass", "hold", "hold", "hold"),
        # A keepalive: one before what is expected, nothing or one byte.
        (segment(FLOW, sequence=0xFFFFFFFF), "pass", "hold", "answer-keepalive",
         "answer-keepalive"),
        (segment(FLOW, sequence=0xFFFFFFFF, size=1), "pass", "hold", "answer-keepalive",
         "answer-keepalive"),
        (segment(FLOW, sequence=0xFFFFFFFF, size=2), "pass", "hold", "hold-and-wake",
         "hold-and-wake"),
        # A request with the ends of a sleeping connection of the application's own.
        (Packet(Kind.TCP, 4, *OWN_FLOW, SYN), "pass", "hold", "hold", "hold"),
        (segment(OWN_FLOW, size=9), "pass", "hold", "hold-and-wake", "hold-and-wake"),
        # Conversations of nobody's, or of others.
        (segment(Flow(PEER, 1, POD, APP), size=5), "pass", "hold", "pass", "pass"),
        (Packet(Kind.MALFORMED), "pass", "pass", "pass", "pass"),
        (Packet(Kind.OPAQUE, 6), "pass", "hold", "hold", "hold"),
    ],
)  # fmt: skip
def test_decisions_by_mode(
    packet: Packet, drain: str, dump: str, asleep: str, restore: str
) -> None:
    found = [act(packet, mode).value for mode in (DRAIN, DUMP, ASLEEP, RESTORE)]
    assert found == [drain, dump, asleep, restore]


@pytest.mark.parametrize(
    ("origin", "drain", "dump", "asleep", "restore"),
    [
        (Origin.KUBELET, "pass", "hold", "stand-in", "hold"),
        (Origin.GONE, "hold", "hold", "hold", "hold"),
        (Origin.NODE, "hold-and-wake", "hold-and-wake", "hold-and-wake", "hold-and-wake"),
    ],
)
def test_requests_by_origin(
    origin: Origin, drain: str, dump: str, asleep: str, restore: str
) -> None:
    found = [act(syn(APP), mode, origin).value for mode in (DRAIN, DUMP, ASLEEP, RESTORE)]
    assert found == [drain, dump, asleep, restore]


def test_kubelet_on_a_port_without_a_probe_is_real() -> None:
    knowledge = Knowledge(listeners=KNOWLEDGE.listeners)
    decision = decide(syn(APP), mode=ASLEEP, knowledge=knowledge, origin=Origin.KUBELET)
    assert decision.action is Action.HOLD_AND_WAKE
    assert decision.reason == f"connection from kubelet ({PEER}) to port {APP}"


def test_the_conversation_of_a_stand_in_passes_in_every_mode() -> None:
    packet = segment(Flow(PEER, 1, POD, APP), size=5)
    for mode in Mode:
        decision = decide(packet, mode=mode, knowledge=KNOWLEDGE, standin_flows={packet.flow})
        assert decision.action is Action.PASS


@pytest.mark.parametrize(
    ("address", "v6only", "version", "to", "taken"),
    [
        ("0.0.0.0", False, 4, POD, True),
        ("0.0.0.0", False, 6, "fd00::2", False),
        ("::", False, 4, POD, True),
        ("::", False, 6, "fd00::2", True),
        ("::", True, 4, POD, False),
        (POD, False, 4, POD, True),
        ("127.0.0.1", False, 4, POD, False),
        ("127.0.0.1", False, 4, "127.0.0.1", True),
        ("fd00::2", False, 6, "fd00::2", True),
    ],
)
def test_a_listener_takes_what_its_address_takes(
    address: str, v6only: bool, version: int, to: str, taken: bool
) -> None:
    listener = Listener(protocol="tcp", address=address, port=APP, v6only=v6only)
    packet = syn(APP, version=version, to=to)
    assert (Knowledge(listeners=(listener,)).listener(packet) is not None) is taken


def test_of_two_sockets_on_a_port_the_one_that_wakes_decides() -> None:
    quiet = Listener(protocol="tcp", address="0.0.0.0", port=APP, wakes=False)
    waking = Listener(protocol="tcp", address=POD, port=APP)
    for listeners in ((quiet, waking), (waking, quiet)):
        assert Knowledge(listeners=listeners).listener(syn(APP)) is waking


def test_origin_is_asked_for_requests_to_listening_ports_only() -> None:
    assert wants_origin(syn(APP), KNOWLEDGE)
    assert not wants_origin(syn(CLOSED), KNOWLEDGE)
    assert not wants_origin(segment(FLOW, flags=SYN | ACK), KNOWLEDGE)
    assert not wants_origin(datagram(DNS), KNOWLEDGE)


@pytest.mark.parametrize("first", list(Action))
def test_later_fragments_share_the_fate_of_the_first(first: Action) -> None:
    key = FragmentKey(PEER, POD, 17, 1)
    packet = Packet(Kind.FRAGMENT, 4, PEER, 0, POD, fragment=key)
    decision = decide(packet, mode=ASLEEP, knowledge=KNOWLEDGE, fragments={key: first})
    assert (decision.action in HOLDING) is (first in HOLDING)
    unknown = decide(packet, mode=ASLEEP, knowledge=KNOWLEDGE)
    assert unknown.action is Action.HOLD


packets = st.builds(
    Packet,
    st.sampled_from(Kind),
    st.sampled_from([4, 6]),
    st.sampled_from([PEER, "fd00::9"]),
    st.sampled_from([5000, 5001, 7000]),
    st.sampled_from([POD, "fd00::2"]),
    st.sampled_from([APP, SHADOW, HEALTH, DNS, QUIET_UDP, CLOSED]),
    st.integers(0, 63),
    st.sampled_from([0, 1, 0xFFFFFFFF]),
    st.just(0),
    st.integers(0, 3),
)


@given(packet=packets, mode=st.sampled_from(Mode), origin=st.sampled_from([None, *Origin]))
def test_nothing_is_ever_dropped_unanswered_and_every_wake_has_a_reason(
    packet: Packet, mode: Mode, origin: Origin | None
) -> None:
    decision = decide(packet, mode=mode, knowledge=KNOWLEDGE, origin=origin)
    assert decision.action is not Action.DROP
    assert (decision.action is Action.HOLD_AND_WAKE) <= bool(decision.reason)


@given(packet=packets, origin=st.sampled_from(Origin))
def test_while_it_is_dumped_nothing_reaches_the_application(packet: Packet, origin: Origin) -> None:
    decision = decide(packet, mode=Mode.DUMP, knowledge=KNOWLEDGE, origin=origin)
    if packet.kind in (Kind.TCP, Kind.UDP):
        assert decision.action in HOLDING
