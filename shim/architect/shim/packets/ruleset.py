"""Our nf_tables rules in a pod's network namespace: what is counted and what is queued.

Two tables, `ip architect` and `ip6 architect`, that nobody else's tool touches (`iptables -F`
flushes its own tables only). Their chain stands at prerouting, priority mangle: before any NAT of
the pod's own, after defragmentation where the pod uses it, and on loopback too.

`apply` writes the whole rule set in one transaction and converges from whatever is there; the
counters keep their values. See docs/packet-hold.md for the rules as `nft` prints them.
"""

from __future__ import annotations

import enum
import socket
import struct
from dataclasses import dataclass
from typing import Final

from architect.core.errors import NodeError

from . import headers, netlink, nftables, talkers
from .netns import Netns
from .nftables import (
    NETWORK_HEADER,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    REGISTER,
    TRANSPORT_HEADER,
    Batch,
)
from .talkers import Talker

TABLE: Final = "architect"
_TRIAL_TABLE: Final = "architect-try"

#: Number of the queue. Each network namespace has its own numbers; this one is far from the
#: small numbers that firewalls inside a pod use.
QUEUE_NUMBER: Final = 41077

#: NF_IP_PRI_MANGLE (linux/netfilter_ipv4.h): where the routing decision is still to be made.
_PRIORITY: Final = -150

_CHAIN: Final = "prerouting"
_COUNTED: Final = "counted"
_NODE: Final = "node"
_HELD: Final = "held"

_SHADOW: Final = "shadow"
_LISTENING: Final = "listening"
_NODES: Final = "nodes"
_PROBES: Final = "probes"

_COUNTERS: Final = ("remote", "local", "node", "probe", "shadow", "other", "held")

#: A probe's connection lives for the probe's time-out (1 s by default, rarely more than 30 s).
_PROBE_SECONDS: Final = 120

_SO_SNDBUFFORCE: Final = 32
#: A transaction must fit into the send buffer: 40 bytes an element, thousands of addresses.
_TRANSACTION_BYTES: Final = 4 << 20

_ARPHRD_LOOPBACK: Final = 772
_SYN_ONLY: Final = bytes([headers.SYN])
_SYN_MASK: Final = bytes([headers.SYN | headers.ACK | headers.RST | headers.FIN])


class State(enum.Enum):
    """What the rules do with TCP and UDP."""

    AWAKE = "awake"
    """Count; queue nothing, except watched SYNs, and those only while somebody reads."""
    HOLDING = "holding"
    """Queue everything; without a reader it is dropped, so that TCP sends it again."""


class Mechanism(enum.Enum):
    """How the kernel can be told to queue, best first."""

    NATIVE = "queue"
    XTABLES = "NFQUEUE"
    DROP = "drop"
    """No queue: held packets are dropped and counted. TCP comes again, UDP is lost."""


@dataclass(frozen=True)
class Support:
    """What this kernel's nf_tables can do."""

    mechanism: Mechanism
    families: tuple[int, ...]
    #: Whether rules can note who speaks; without it packets are counted and nobody is named.
    names_talkers: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The rules that a pod should have."""

    state: State
    #: Queue SYNs from node addresses while awake, so that kubelet's probes can be told apart.
    watch: bool = False
    #: Traffic to these ports is counted apart.
    shadow_ports: frozenset[int] = frozenset()
    #: Traffic from these addresses is counted apart.
    node_addresses: frozenset[str] = frozenset()
    #: (protocol, port) pairs that count; what is for others (answers to the pod's own requests)
    #: is counted apart. None: every port counts.
    listening: frozenset[tuple[int, int]] | None = None


@dataclass(frozen=True)
class Count:
    """What a counter saw."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.packets + other.packets, self.bytes + other.bytes)


@dataclass(frozen=True)
class Counters:
    """TCP and UDP that came in, IPv4 and IPv6 together, since the rules were first made."""

    #: To a port that counts, from elsewhere.
    remote: Count = Count()
    #: The same over the pod's own loopback.
    local: Count = Count()
    #: The same from a node address, kubelet's recognised probes excepted.
    node: Count = Count()
    #: Packets of connections that `note_probe` named.
    probe: Count = Count()
    #: To shadow ports.
    shadow: Count = Count()
    #: To ports on which nobody of ours listens.
    other: Count = Count()
    #: What came while holding, to whatever port.
    held: Count = Count()


def detect(netns: Netns) -> Support:
    """Find out by trying, in transactions that leave nothing behind.

    Never try where packets are held: whenever a chain with a hook is removed, the kernel drops all
    that waits in the queues of that namespace (nf_queue_nf_hook_drop).

    NodeError if the kernel has no nf_tables for IPv4; without it for IPv6, IPv6 is left alone.
    """
    with netns.netlink(netlink.NETLINK_NETFILTER) as sock:

        def works(family: int, *expressions: bytes, noting: bool = False) -> NodeError | None:
            batch = Batch()
            batch.add_table(family, _TRIAL_TABLE)
            batch.add_prerouting(family, _TRIAL_TABLE, _CHAIN, priority=_PRIORITY)
            if noting:
                talkers.add_set(batch, family, _TRIAL_TABLE)
            if expressions:
                batch.add_rule(family, _TRIAL_TABLE, _CHAIN, *expressions)
            batch.delete_table(family, _TRIAL_TABLE)
            try:
                batch.commit(sock)
            except NodeError as error:
                return error
            return None

        refused = works(NFPROTO_IPV4)
        if refused is not None:
            raise NodeError(
                f"packets cannot be held on this node: {refused.message}",
                reason="Netfilter",
                errno=refused.errno,
                hint="the kernel needs nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)",
            )
        families: tuple[int, ...] = (NFPROTO_IPV4,)
        if works(NFPROTO_IPV6) is None:
            families = (NFPROTO_IPV4, NFPROTO_IPV6)
        names_talkers = all(works(f, *_note(f), noting=True) is None for f in families)
        for mechanism in (Mechanism.NATIVE, Mechanism.XTABLES):
            if works(NFPROTO_IPV4, _queue(mechanism, bypass=False)) is None:
                return Support(mechanism, families, names_talkers)
        return Support(Mechanism.DROP, families, names_talkers)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _source(family: int) -> tuple[bytes, int]:
    """Load the source address; the register that is free behind it."""
    offset, length = (12, 4) if family == NFPROTO_IPV4 else (8, 16)
    return nftables.payload(NETWORK_HEADER, offset=offset, length=length), REGISTER + length // 4


def _note(family: int) -> tuple[bytes, ...]:
    """Note who speaks and to which port.

    Each step may end its rule (a later fragment has no ports, a full set takes nobody): what has
    to happen stands before.
    """
    source, behind = _source(family)
    port = nftables.payload(TRANSPORT_HEADER, offset=2, length=2, register=behind)
    return source, port, nftables.update(talkers.SET)


def _queue(mechanism: Mechanism, *, bypass: bool) -> bytes:
    if mechanism is Mechanism.NATIVE:
        return nftables.queue_native(QUEUE_NUMBER, bypass=bypass)
    if mechanism is Mechanism.XTABLES:
        return nftables.queue_xtables(QUEUE_NUMBER, bypass=bypass)
    return nftables.verdict(nftables.ACCEPT if bypass else nftables.DROP)


def transaction(plan: Plan, support: Support, *, before: Plan | None = None) -> Batch:
    """The transaction that makes the rules be as planned, whatever they were.

    `before` is what they are known to be: then as little as possible is written. That is not for
    the bytes: a new xtables target waits until the kernel has destroyed those that were removed
    lately (nft_compat), 10 to 40 ms in which nothing else of ours runs.
    """
    batch = Batch()
    for family in support.families:
        writer = _Writer(batch, family, plan, support)
        if before is None or _shape(before) != _shape(plan):
            writer.write_all()
        else:
            writer.write_state()
    return batch


def _shape(plan: Plan) -> tuple[bool, bool]:
    """What decides which rules there are; all else is in sets and in one chain."""
    return plan.watch, plan.listening is None


class _Writer:
    """Writes the messages for one address family."""

    def __init__(self, batch: Batch, family: int, plan: Plan, support: Support) -> None:
        self._batch = batch
        self._family = family
        self._plan = plan
        self._mechanism = support.mechanism
        self._names_talkers = support.names_talkers
        version4 = family == NFPROTO_IPV4
        self._address_type = nftables.TYPE_IPV4 if version4 else nftables.TYPE_IPV6
        self._address_length = 4 if version4 else 16

    def write_all(self) -> None:
        self._skeleton()
        self._count_by_origin()
        self._rule(_HELD, nftables.count("held"), _queue(self._mechanism, bypass=False))
        self.write_state()

    def write_state(self) -> None:
        """Fill the sets, and lead packets to where the state wants them."""
        self._fill()
        self._batch.flush_chain(self._family, TABLE, _CHAIN)
        for protocol in (headers.TCP, headers.UDP):
            chain = _COUNTED if self._plan.state is State.AWAKE else _HELD
            self._rule(
                _CHAIN,
                nftables.meta(nftables.META_L4PROTO),
                nftables.equals(bytes([protocol])),
                nftables.goto(chain),
            )

    def _rule(self, chain: str, *expressions: bytes) -> None:
        self._batch.add_rule(self._family, TABLE, chain, *expressions)

    def _skeleton(self) -> None:
        """Table, chains, counters and sets: made where missing, emptied of rules."""
        batch, family = self._batch, self._family
        batch.add_table(family, TABLE)
        batch.add_prerouting(family, TABLE, _CHAIN, priority=_PRIORITY)
        for chain in (_COUNTED, _NODE, _HELD):
            batch.add_chain(family, TABLE, chain)
        for chain in (_CHAIN, _COUNTED, _NODE, _HELD):
            batch.flush_chain(family, TABLE, chain)
        for counter in _COUNTERS:
            batch.add_counter(family, TABLE, counter)
        address, size = self._address_type, self._address_length
        service = nftables.TYPE_SERVICE
        batch.add_set(family, TABLE, _SHADOW, types=(service,), length=2)
        batch.add_set(family, TABLE, _LISTENING, types=(nftables.TYPE_PROTOCOL, service), length=8)
        batch.add_set(family, TABLE, _NODES, types=(address,), length=size)
        batch.add_set(
            family,
            TABLE,
            _PROBES,
            types=(address, service),
            length=size + 4,
            timeout_seconds=_PROBE_SECONDS,
        )
        if self._names_talkers:
            talkers.add_set(batch, family, TABLE)

    def _fill(self) -> None:
        batch, family, plan = self._batch, self._family, self._plan
        for set_name in (_SHADOW, _LISTENING, _NODES):
            batch.flush_set(family, TABLE, set_name)
        batch.add_elements(
            family, TABLE, _SHADOW, (struct.pack("!H", port) for port in sorted(plan.shadow_ports))
        )
        batch.add_elements(
            family,
            TABLE,
            _LISTENING,
            (struct.pack("!BxxxHxx", *pair) for pair in sorted(plan.listening or ())),
        )
        packed = (_packed(text) for text in sorted(plan.node_addresses))
        batch.add_elements(
            family, TABLE, _NODES, (key for key in packed if len(key) == self._address_length)
        )

    def _count_by_origin(self) -> None:
        port = nftables.payload(TRANSPORT_HEADER, offset=2, length=2)
        accept = nftables.verdict(nftables.ACCEPT)
        self._rule(_COUNTED, port, nftables.lookup(_SHADOW), nftables.count("shadow"), accept)
        if self._plan.listening is not None:
            self._rule(
                _COUNTED,
                nftables.meta(nftables.META_L4PROTO),
                nftables.payload(TRANSPORT_HEADER, offset=2, length=2, register=REGISTER + 1),
                nftables.lookup(_LISTENING, absent=True),
                nftables.count("other"),
                accept,
            )
        self._rule(
            _COUNTED,
            nftables.meta(nftables.META_IIFTYPE),
            nftables.equals(struct.pack("=H", _ARPHRD_LOOPBACK)),
            nftables.count("local"),
            accept,
        )
        source, behind = _source(self._family)
        self._rule(_COUNTED, source, nftables.lookup(_NODES), nftables.goto(_NODE))
        noted = _note(self._family) if self._names_talkers else ()
        self._rule(_COUNTED, nftables.count("remote"), *noted)
        self._rule(
            _NODE,
            source,
            nftables.payload(TRANSPORT_HEADER, offset=0, length=2, register=behind),
            nftables.lookup(_PROBES),
            nftables.count("probe"),
            accept,
        )
        if self._plan.watch:
            # Not counted: whether it counts is what the reader of the queue finds out.
            self._rule(
                _NODE,
                nftables.meta(nftables.META_L4PROTO),
                nftables.equals(bytes([headers.TCP])),
                nftables.payload(TRANSPORT_HEADER, offset=13, length=1),
                nftables.mask(_SYN_MASK),
                nftables.equals(_SYN_ONLY),
                _queue(self._mechanism, bypass=True),
            )
        self._rule(_NODE, nftables.count("node"))


class Ruleset:
    """The rules in one pod's network namespace."""

    def __init__(self, netns: Netns, *, support: Support) -> None:
        """Open a socket in the namespace; `close` gives it back, the rules stay."""
        self._support = support
        self._applied: Plan | None = None
        self._sock = netns.netlink(netlink.NETLINK_NETFILTER)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _TRANSACTION_BYTES)

    @property
    def support(self) -> Support:
        """What the kernel was found to be able to do."""
        return self._support

    def apply(self, plan: Plan) -> None:
        """Make the rules be as planned, atomically; the counters go on. NodeError."""
        before, self._applied = self._applied, None
        try:
            transaction(plan, self._support, before=before).commit(self._sock)
        except NodeError:
            if before is None:
                raise
            # Somebody took our rules away (`nft flush ruleset`): make all of them.
            transaction(plan, self._support).commit(self._sock)
        self._applied = plan

    def note_probe(self, source: str, source_port: int) -> None:
        """Count what follows from this address and port as a probe, for two minutes."""
        address = _packed(source)
        family = NFPROTO_IPV4 if len(address) == 4 else NFPROTO_IPV6
        if family not in self._support.families:
            return
        batch = Batch()
        key = address + struct.pack("!Hxx", source_port)
        batch.add_elements(family, TABLE, _PROBES, [key])
        batch.commit(self._sock)

    def counters(self) -> Counters:
        """What was counted; zeros if there are no rules. OSError."""
        sums = dict.fromkeys(_COUNTERS, Count())
        for (_, name), (packets, size) in nftables.read_counters(self._sock, TABLE).items():
            if name in sums:
                sums[name] += Count(packets, size)
        return Counters(**sums)

    def last_talker(self) -> Talker | None:
        """Who sent the last packet that `remote` counted; None if not known. OSError, NodeError."""
        if not self._support.names_talkers:
            return None
        return talkers.read(self._sock, TABLE, self._support.families)

    def remove(self) -> None:
        """Remove all that `apply` made; nothing there is fine."""
        self._applied = None
        batch = Batch()
        for family in self._support.families:
            # Added first, so that removing what is not there is no error.
            batch.add_table(family, TABLE)
            batch.delete_table(family, TABLE)
        batch.commit(self._sock)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
