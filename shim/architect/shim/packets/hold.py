"""The gate of one pod at work: reads its queue, carries out `gate.decide`, remembers what waits.

Nothing here blocks but for the kernel's immediate answers. The owner polls `fileno`, calls `pump`
when it is readable and `tick` now and then, and looks at `wake`.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from . import gate
from .gate import Action, Decision, Knowledge, Mode, Origin
from .headers import FIN, RST, SYN, Flow, FragmentKey, Kind, Packet, parse
from .holdstate import HoldState
from .keepalive import KeepaliveAnswerer
from .netns import Netns
from .nfqueue import NfQueue, QueuedPacket, read_status
from .sockdiag import SockDiag

#: Packets that one pod may keep waiting. TCP beyond it is dropped, not lost: it is sent again.
MAX_HELD: Final = 8192
#: Payload of those; a local peer's segments have up to 64 KiB each.
MAX_HELD_TCP_BYTES: Final = 64 << 20
#: UDP is not sent again: the oldest goes first, as from a full socket buffer.
MAX_HELD_UDP: Final = 4096
MAX_HELD_UDP_BYTES: Final = 16 << 20
#: A small datagram takes 768 to 2304 bytes of the socket's account (its skb's truesize).
_UDP_BURST: Final = 64
_UDP_BURST_BYTES: Final = 32 << 10
_RELEASE_PAUSE_SECONDS: Final = 0.001
_RELEASE_PATIENCE_SECONDS: Final = 3.0
_MAX_STANDIN_FLOWS: Final = 1024
_MAX_FRAGMENTS: Final = 256
#: The kernel itself gives up a datagram whose fragments do not come (net.ipv4.ipfrag_time).
_FRAGMENT_SECONDS: Final = 30.0
#: In so many steps even a wide range of numbers is gone through within a second.
_UNKNOWN_STEPS: Final = 4096
#: An adopted queue is read to its end, else what is unknown in it could not be counted.
_READ_ALL: Final = 1 << 20

#: A request that nobody answers is given up by its sender after tcp_syn_retries = 6: 127 s
#: (tcp(7)); the widest gap between two attempts is 64 s.
_ABANDONED_SECONDS: Final = 130.0

#: (packet, whether it may have waited for so long that its sender is gone) → who sent it.
FindOrigin = Callable[[Packet, bool], Origin]


@dataclass
class HoldStats:
    """What a gate did since it was made."""

    packets: int = 0
    passed: int = 0
    held: int = 0
    dropped: int = 0
    repeated: int = 0
    """Retransmissions of what is held already."""
    standin: int = 0
    keepalives: int = 0
    abandoned: int = 0
    overflow_tcp: int = 0
    lost_udp: int = 0


class _Segment(NamedTuple):
    """What a TCP packet and its retransmissions have in common."""

    flow: Flow
    sequence: int
    flags: int
    payload_bytes: int


@dataclass
class _Held:
    """A packet that waits, and what is known of it."""

    packet: Packet
    packet_bytes: int
    interface: int
    origin: Origin | None
    seen: float
    wakes: bool = False


class Gate:
    """Holds a pod's packets from the first step of falling asleep to the last of waking."""

    def __init__(
        self,
        queue: NfQueue,
        *,
        netns: Netns,
        knowledge: Knowledge,
        find_origin: FindOrigin,
        mode: Mode = Mode.DRAIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Judge what comes to `queue`; the rules must be HOLDING after this, not before."""
        self._queue = queue
        self._netns = netns
        self._knowledge = knowledge
        self._find_origin = find_origin
        self._mode = mode
        self._clock = clock
        self._held: dict[int, _Held] = {}
        self._segments: dict[_Segment, int] = {}
        self._udp: OrderedDict[int, int] = OrderedDict()
        self._udp_bytes = 0
        self._tcp_bytes = 0
        self._standin_flows: OrderedDict[Flow, None] = OrderedDict()
        self._firsts: OrderedDict[FragmentKey, tuple[Packet, Origin | None]] = OrderedDict()
        self._fragments: dict[FragmentKey, Action] = {}
        self._keepalives = KeepaliveAnswerer(netns)
        self._sockets: SockDiag | None = None
        self._release_until: float | None = None
        self._last_identifier = 0
        #: Packets that an earlier keeper judged; they wait, but what they are is not known.
        self.unknown = 0
        self._unknown_range = 0, 0
        #: (monotonic time, reason) of the first packet that wants the pod awake.
        self.wake: tuple[float, str] | None = None
        self.stats = HoldStats()

    @classmethod
    def adopt(
        cls,
        fd: int,
        *,
        netns: Netns,
        knowledge: Knowledge,
        state: HoldState,
        find_origin: FindOrigin,
        mode: Mode = Mode.ASLEEP,
        clock: Callable[[], float] = time.monotonic,
    ) -> Gate:
        """Go on where another keeper stopped, with a duplicate of its queue's descriptor.

        Packets that the old keeper took from the socket still wait in the kernel, and go out with
        the others at the release. If it may have judged some after `state` was written, the
        pod is woken: one of them may be a request. OSError, NodeError.
        """
        queue = NfQueue.adopt(fd)
        made = cls(
            queue,
            netns=netns,
            knowledge=knowledge,
            find_origin=find_origin,
            mode=mode,
            clock=clock,
        )
        made.wake = state.wake
        made._last_identifier = state.last_identifier
        packets = queue.read(limit=_READ_ALL)
        status = read_status(netns)
        packets += queue.read(limit=_READ_ALL)
        newest = status.last_identifier if status is not None else state.last_identifier
        first = packets[0].identifier if packets else newest + 1
        read = sum(_not_after(packet.identifier, newest) for packet in packets)
        made.unknown = max(0, status.waiting - read) if status is not None else 0
        made._unknown_range = state.first_possible, first
        made._judge_all(packets, late=True)
        judged_by_nobody_known = made.unknown and first != state.last_identifier + 1
        if judged_by_nobody_known and made.wake is None:
            made.wake = clock(), f"{made.unknown} packets came while the keeper was away"
        return made

    @property
    def mode(self) -> Mode:
        """The mode in which packets are judged."""
        return self._mode

    @property
    def held(self) -> int:
        """How many packets wait, those of an earlier keeper included."""
        return len(self._held) + self.unknown

    def fileno(self) -> int:
        """The queue's descriptor, to poll and to leave a duplicate of with somebody."""
        return self._queue.fileno()

    def export(self) -> HoldState:
        """What to write down so that another keeper can `adopt` the queue."""
        oldest = self._unknown_range[0] if self.unknown else next(iter(self._held), 0)
        return HoldState(wake=self.wake, last_identifier=self._last_identifier, oldest=oldest)

    def pump(self, *, late: bool = False, limit: int = 4096) -> int:
        """Judge what has come; gives the number of packets.

        `late` says that the caller did not look for so long (about half a second) that the
        sender of a packet may have given up meanwhile. At most about `limit` packets are read.
        """
        packets = self._queue.read(limit=limit)
        self._judge_all(packets, late=late)
        return len(packets)

    def tick(self) -> None:
        """Let go what nobody waits for any more; call it every few seconds."""
        now = self._clock()
        abandoned = [
            identifier
            for identifier, held in self._held.items()
            if now - held.seen > self._patience_seconds(held.packet)
        ]
        for identifier in abandoned:
            self._forget(identifier)
            self._queue.drop(identifier)
        self.stats.abandoned += len(abandoned)
        self._queue.flush()

    def _patience_seconds(self, packet: Packet) -> float:
        """After how long without a repetition nobody waits any more for what a packet begins."""
        if packet.opening:
            return _ABANDONED_SECONDS
        if packet.kind is Kind.FRAGMENT and packet.fragment not in self._fragments:
            return _FRAGMENT_SECONDS
        return math.inf

    def enter(self, mode: Mode, *, knowledge: Knowledge | None = None) -> None:
        """Change the mode, and what is known, and judge again what waits, in order."""
        self.pump()
        self._mode = mode
        if knowledge is not None:
            self._knowledge = knowledge
        # Fragments that come yet follow their first one even where it has passed already.
        self._fragments = {
            key: self._decide(packet, origin).action
            for key, (packet, origin) in self._firsts.items()
        }
        waiting = list(self._held.items())
        self._held.clear()
        self._segments.clear()
        self._udp.clear()
        self._udp_bytes = self._tcp_bytes = 0
        for identifier, held in waiting:
            self._judge(identifier, held)
        self._queue.flush()

    def release_step(self) -> float | None:
        """Let the next of what waits go; None once all went and new packets pass by themselves.

        Else the seconds after which to call again: hundreds of datagrams at once would overflow
        the socket that they are for (net.core.rmem_default holds about 270 small ones), so they
        go in bursts, as the application reads. One that does not read for
        `_RELEASE_PATIENCE_SECONDS` gets the rest at once. OSError, NodeError.
        """
        self.pump()
        now = self._clock()
        if self._release_until is None:
            self._release_until = now + _RELEASE_PATIENCE_SECONDS
        if len(self._udp) + self.unknown <= _UDP_BURST or now >= self._release_until:
            self.release()
            return None
        if self._unread_datagram_bytes() > _UDP_BURST_BYTES:
            return _RELEASE_PAUSE_SECONDS
        if self.unknown:
            self._release_unknown()
            return _RELEASE_PAUSE_SECONDS
        last = next(itertools.islice(self._udp, _UDP_BURST - 1, None))
        self._queue.accept_through(last)
        # Identifiers are in order of arrival, and so is the dictionary.
        gone = list(itertools.takewhile(lambda identifier: identifier != last, self._held))
        for identifier in (*gone, last):
            self._forget(identifier)
        return _RELEASE_PAUSE_SECONDS

    def _release_unknown(self) -> None:
        """Let some go of what only an earlier keeper knew: by their numbers, which have gaps."""
        low, end = self._unknown_range
        span = (end - low) & 0xFFFFFFFF
        step = max(_UDP_BURST, span // _UNKNOWN_STEPS)
        if span <= step:
            self._queue.accept_through((end - 1) & 0xFFFFFFFF)
            self.unknown = 0
            return
        self._queue.accept_through((low + step - 1) & 0xFFFFFFFF)
        self._unknown_range = (low + step) & 0xFFFFFFFF, end
        status = read_status(self._netns)
        self.unknown = max(0, status.waiting - len(self._held)) if status is not None else 0

    def _unread_datagram_bytes(self) -> int:
        """The fullest receive queue of the ports to which datagrams are held."""
        ports = {self._held[identifier].packet.destination_port for identifier in self._udp}
        if self.unknown:
            ports |= {port for protocol, port in self._knowledge.by_port if protocol == "udp"}
        if self._sockets is None:
            self._sockets = SockDiag.of(self._netns)
        return max(
            (found.receive_queue for found in self._sockets.udp() if found.local_port in ports),
            default=0,
        )

    def release(self) -> int:
        """Let all go at once, in order, and let what comes next pass; gives how many had waited.

        Then bring the rules to AWAKE and `close` (or, to go on watching, take the queue back with
        `detach`).
        """
        self.pump()
        count = self.held
        self._queue.passthrough(self._last_identifier)
        self._held.clear()
        self._segments.clear()
        self._udp.clear()
        self._udp_bytes = self._tcp_bytes = 0
        self.unknown = 0
        # Answers to what was just delivered come in at once; the last batch let them go too.
        self.stats.packets += len(self._queue.read())
        return count

    def detach(self) -> NfQueue:
        """Give the queue back, open; the gate is at its end."""
        self._keepalives.close()
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
        return self._queue

    def close(self) -> None:
        """Close the queue; what still waits in it is dropped if nobody has a duplicate."""
        self.detach().close()

    def _judge_all(self, packets: list[QueuedPacket], *, late: bool) -> None:
        now = self._clock()
        for queued in packets:
            packet = parse(queued.data, packet_bytes=queued.packet_bytes)
            origin = None
            if gate.wants_origin(packet, self._knowledge):
                # Now, whatever the mode: kubelet gives up after a second.
                origin = self._find_origin(packet, late)
            self.stats.packets += 1
            self._last_identifier = queued.identifier
            self._judge(
                queued.identifier,
                _Held(packet, queued.packet_bytes, queued.interface, origin, now),
            )
            self.stats.held += queued.identifier in self._held
        self._queue.flush()

    def _judge(self, identifier: int, held: _Held) -> None:
        packet = held.packet
        decision = self._decide(packet, held.origin)
        self._carry_out(identifier, held, decision)
        if packet.fragment is not None and packet.kind is not Kind.FRAGMENT:
            self._firsts[packet.fragment] = packet, held.origin
            self._settle_fragments(packet.fragment, decision.action)

    def _decide(self, packet: Packet, origin: Origin | None) -> Decision:
        return gate.decide(
            packet,
            mode=self._mode,
            knowledge=self._knowledge,
            origin=origin,
            standin_flows=self._standin_flows,
            fragments=self._fragments,
        )

    def _carry_out(self, identifier: int, held: _Held, decision: Decision) -> None:
        action, packet = decision.action, held.packet
        if action in gate.HOLDING:
            held.wakes = action is Action.HOLD_AND_WAKE
            if held.wakes and self.wake is None:
                self.wake = held.seen, decision.reason
            self._keep(identifier, held)
            return
        if action is Action.DROP:
            self._queue.drop(identifier)
            self.stats.dropped += 1
            return
        if action is Action.ANSWER_KEEPALIVE:
            saved = self._knowledge.connections[packet.flow]
            self._keepalives.answer(packet, saved, interface=held.interface)
            self._queue.drop(identifier)
            self.stats.keepalives += 1
            return
        if action is Action.STANDIN:
            self._standin_flows[packet.flow] = None
            self._standin_flows.move_to_end(packet.flow)
            if len(self._standin_flows) > _MAX_STANDIN_FLOWS:
                self._standin_flows.popitem(last=False)
            self.stats.standin += 1
        elif packet.flags & RST:
            self._standin_flows.pop(packet.flow, None)
        self._queue.accept(identifier)
        self.stats.passed += 1

    def _keep(self, identifier: int, held: _Held) -> None:
        packet = held.packet
        if packet.kind is Kind.TCP:
            segment = _segment(packet)
            earlier = self._segments.get(segment)
            if earlier is not None:
                self.stats.repeated += 1
                if segment.flags or segment.payload_bytes:
                    known = self._held[earlier]
                    known.seen, known.origin = held.seen, held.origin
                    known.wakes = known.wakes or held.wakes
                    self._queue.drop(identifier)
                    return
                # A bare acknowledgement: the newest one has the window that counts.
                self._forget(earlier)
                self._queue.drop(earlier)
            full = self._tcp_bytes + packet.payload_bytes > MAX_HELD_TCP_BYTES
            if len(self._held) >= MAX_HELD or (packet.payload_bytes and full):
                self._queue.drop(identifier)
                self.stats.overflow_tcp += 1
                return
            self._segments[segment] = identifier
            self._tcp_bytes += packet.payload_bytes
        else:
            self._udp[identifier] = held.packet_bytes
            self._udp_bytes += held.packet_bytes
            while len(self._udp) > MAX_HELD_UDP or self._udp_bytes > MAX_HELD_UDP_BYTES:
                oldest = next(iter(self._udp))
                if oldest == identifier:
                    break
                self._forget(oldest)
                self._queue.drop(oldest)
                self.stats.lost_udp += 1
        self._held[identifier] = held

    def _forget(self, identifier: int) -> None:
        held = self._held.pop(identifier)
        if held.packet.kind is Kind.TCP:
            self._segments.pop(_segment(held.packet), None)
            self._tcp_bytes -= held.packet.payload_bytes
        else:
            self._udp_bytes -= self._udp.pop(identifier, 0)

    def _settle_fragments(self, key: FragmentKey, action: Action) -> None:
        """Remember the first fragment's fate, and give it to those that had overtaken it."""
        self._fragments[key] = action
        self._firsts.move_to_end(key)
        if len(self._firsts) > _MAX_FRAGMENTS:
            oldest, _ = self._firsts.popitem(last=False)
            self._fragments.pop(oldest, None)
        if action in gate.HOLDING:
            return
        overtaken = [
            (identifier, held)
            for identifier in self._udp
            if (held := self._held.get(identifier)) is not None
            and held.packet.kind is Kind.FRAGMENT
            and held.packet.fragment == key
        ]
        for identifier, held in overtaken:
            self._forget(identifier)
            self._judge(identifier, held)


def _segment(packet: Packet) -> _Segment:
    return _Segment(
        packet.flow, packet.sequence, packet.flags & (SYN | FIN | RST), packet.payload_bytes
    )


def _not_after(identifier: int, newest: int) -> bool:
    """Whether an identifier was given out no later than another; they wrap at 32 bits."""
    return (newest - identifier) & 0xFFFFFFFF < 1 << 31
