"""What happens to each queued packet: pure decisions.

In every mode but AWAKE (not known here: then nothing is queued) each TCP and UDP packet that
reaches the pod is judged once, when it arrives, and again when the mode changes while it is held.

========  =========================================================================
DRAIN     the application runs and may finish: new requests wait, the rest passes
DUMP      it is frozen: everything waits; real requests are noted
ASLEEP    its sockets are gone: what is for it waits, what is not passes
RESTORE   its sockets come back one by one: as ASLEEP, and probes wait too
========  =========================================================================

What is *for it* are the ports on which managed containers listen and the connections in their
images. The rest (other containers' ports, closed ports, old connections in TIME_WAIT) is the
kernel's business at all times and must not see a difference.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from .headers import ACK, FIN, RST, SYN, Flow, FragmentKey, Kind, Packet


class Mode(enum.Enum):
    """Where the pod is between awake and awake."""

    DRAIN = "drain"
    DUMP = "dump"
    ASLEEP = "asleep"
    RESTORE = "restore"


class Origin(enum.Enum):
    """Who asked for a connection."""

    KUBELET = "kubelet"
    """The socket at the other end belongs to kubelet."""
    NODE = "node"
    """From a node address, not kubelet's: a host process, or masqueraded traffic."""
    GONE = "gone"
    """From a node address, seen too late to tell whose it was."""
    REMOTE = "remote"
    """From anywhere else, the pod itself included."""


class Action(enum.Enum):
    """What to do with a packet."""

    PASS = "pass"
    HOLD = "hold"
    HOLD_AND_WAKE = "hold-and-wake"
    DROP = "drop"
    STANDIN = "stand-in"
    """Let it reach the stand-in; the rest of its conversation passes too."""
    ANSWER_KEEPALIVE = "answer-keepalive"
    """Send the acknowledgement that the sleeping socket would have sent, then drop."""


class Decision(NamedTuple):
    """An action and why; the reason of a wake ends in an event that a user reads."""

    action: Action
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A port on which a managed container takes requests."""

    #: "tcp" or "udp".
    protocol: str
    #: The bound address; "0.0.0.0" and "::" are wildcards.
    address: str
    port: int
    #: A "::" that does not take IPv4 (IPV6_V6ONLY).
    v6only: bool = False
    #: False for shadow ports and containers that only exec wakes.
    wakes: bool = True
    #: Address and port to which a UDP socket is connected; nobody else's datagrams reach it.
    peer: tuple[str, int] | None = None

    @property
    def connected(self) -> bool:
        """Whether what comes are answers to the application's own questions."""
        return self.peer is not None

    def takes(self, packet: Packet) -> bool:
        """Whether the packet would reach this socket."""
        if packet.destination_port != self.port:
            return False
        if self.peer is not None and self.peer != (packet.source, packet.source_port):
            return False
        if self.address == "0.0.0.0":
            return packet.version == 4
        if self.address == "::":
            return packet.version == 6 or not self.v6only
        return packet.destination == self.address


@dataclass(frozen=True, kw_only=True)
class SavedConnection:
    """A TCP connection in an image."""

    #: The next sequence number that the socket expects.
    receive_next: int
    #: The window that it last offered, as it stands in a header (scaled).
    window: int
    #: False if data on it only waits.
    wakes: bool = True
    #: The next sequence number that the socket would have sent.
    send_next: int = 0


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What the decisions are based on."""

    listeners: tuple[Listener, ...] = ()
    #: Connections in the images, named as their packets into the pod name them.
    connections: Mapping[Flow, SavedConnection] = field(
        default_factory=lambda: MappingProxyType({})
    )
    #: TCP ports on which the stand-in answers kubelet.
    probe_ports: frozenset[int] = frozenset()
    #: TCP ports on which the stand-in answers everybody (health ports of their own).
    answered_ports: frozenset[int] = frozenset()
    by_port: Mapping[tuple[str, int], tuple[Listener, ...]] = field(
        init=False, repr=False, compare=False, default_factory=lambda: MappingProxyType({})
    )

    def __post_init__(self) -> None:
        index: dict[tuple[str, int], tuple[Listener, ...]] = {}
        for listener in self.listeners:
            key = listener.protocol, listener.port
            index[key] = (*index.get(key, ()), listener)
        object.__setattr__(self, "by_port", MappingProxyType(index))

    def listener(self, packet: Packet) -> Listener | None:
        """The managed socket that takes a new request, one that wakes before one that does not."""
        found = None
        for listener in self.by_port.get((packet.kind.value, packet.destination_port), ()):
            if listener.takes(packet):
                if listener.wakes:
                    return listener
                found = listener
        return found


_PASS: Final = Decision(Action.PASS)
_HOLD: Final = Decision(Action.HOLD)


def wants_origin(packet: Packet, knowledge: Knowledge) -> bool:
    """Whether the decision depends on who asked; finding out costs, and has to be done at once."""
    return packet.opening and knowledge.listener(packet) is not None


def decide(
    packet: Packet,
    *,
    mode: Mode,
    knowledge: Knowledge,
    origin: Origin | None = None,
    standin_flows: Collection[Flow] = (),
    fragments: Mapping[FragmentKey, Action] | None = None,
) -> Decision:
    """Judge one packet.

    `origin` must be given where `wants_origin` says so; without it a request counts as REMOTE.
    `fragments` holds what was decided for the first fragments of datagrams.
    """
    if packet.kind is Kind.MALFORMED or packet.kind is Kind.OTHER:
        # No socket gets it; the kernel discards it or counts it.
        return _PASS
    if packet.kind is Kind.FRAGMENT or packet.kind is Kind.OPAQUE:
        return _decide_portless(packet, mode, fragments or {})
    if packet.kind is Kind.UDP:
        return _decide_udp(packet, mode, knowledge)
    if packet.opening:
        return _decide_opening(packet, mode, knowledge, origin or Origin.REMOTE)
    if packet.flow in standin_flows:
        return _PASS
    if mode is Mode.DRAIN:
        return _PASS
    if mode is Mode.DUMP:
        return _HOLD
    return _decide_established(packet, knowledge)


def _decide_portless(
    packet: Packet, mode: Mode, fragments: Mapping[FragmentKey, Action]
) -> Decision:
    """Later fragments follow the first; what cannot be read waits and wakes nobody."""
    first = fragments.get(packet.fragment) if packet.fragment is not None else None
    if first is not None:
        held = first in (Action.HOLD, Action.HOLD_AND_WAKE)
        return _HOLD if held else Decision(Action.DROP if first is Action.DROP else Action.PASS)
    if mode is Mode.DRAIN and packet.kind is Kind.OPAQUE:
        return _PASS
    return _HOLD


def _decide_udp(packet: Packet, mode: Mode, knowledge: Knowledge) -> Decision:
    listener = knowledge.listener(packet)
    if listener is None:
        return _HOLD if mode is Mode.DUMP else _PASS
    if mode is Mode.DRAIN and listener.connected:
        return _PASS
    if not listener.wakes:
        return _HOLD
    # Held in DRAIN too: nothing tells when a datagram's answer is still being worked on.
    return _wake(f"udp packet from {_endpoint(packet)} to port {packet.destination_port}")


def _decide_opening(packet: Packet, mode: Mode, knowledge: Knowledge, origin: Origin) -> Decision:
    listener = knowledge.listener(packet)
    if listener is None:
        # The kernel refuses it, or another container takes it; frozen, ours may yet come. To a
        # sleeping connection it is a stray, which the connection itself answers.
        stray = mode is not Mode.DRAIN and packet.flow in knowledge.connections
        return _HOLD if mode is Mode.DUMP or stray else _PASS
    port = packet.destination_port
    if port in knowledge.answered_ports and mode is Mode.ASLEEP:
        return Decision(Action.STANDIN, f"answered on port {port}")
    if origin is Origin.KUBELET and port in knowledge.probe_ports:
        if mode is Mode.DRAIN:
            # It still runs, and a probe that waits through a long dump would fail.
            return _PASS
        if mode is Mode.ASLEEP:
            return Decision(Action.STANDIN, f"probe on port {port}")
        return _HOLD
    if not listener.wakes or origin is Origin.GONE:
        return _HOLD
    who = f"kubelet ({packet.source})" if origin is Origin.KUBELET else _endpoint(packet)
    return _wake(f"connection from {who} to port {port}")


def _decide_established(packet: Packet, knowledge: Knowledge) -> Decision:
    """A TCP packet of a conversation that is older than the sleep."""
    saved = knowledge.connections.get(packet.flow)
    if saved is None:
        return _PASS
    if (
        packet.flags & (SYN | FIN | RST) == 0
        and packet.flags & ACK
        and packet.payload_bytes <= 1
        and packet.sequence == (saved.receive_next - 1) & 0xFFFFFFFF
    ):
        return Decision(Action.ANSWER_KEEPALIVE)
    if packet.payload_bytes > 0 and not packet.flags & RST and saved.wakes:
        return _wake(f"data from {_endpoint(packet)} on port {packet.destination_port}")
    # FIN and RST: the application learns it when it wakes. A bare ACK may open its window.
    return _HOLD


def _wake(reason: str) -> Decision:
    return Decision(Action.HOLD_AND_WAKE, reason)


def _endpoint(packet: Packet) -> str:
    address = f"[{packet.source}]" if packet.version == 6 else packet.source
    return f"{address}:{packet.source_port}"


#: Decisions that leave the packet in the queue.
HOLDING: Final = frozenset({Action.HOLD, Action.HOLD_AND_WAKE})
