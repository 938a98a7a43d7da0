"""The gate's bookkeeping, over a queue that only remembers verdicts."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import cast

import pytest

from architect.core.errors import FormatError
from architect.shim.packets import hold
from architect.shim.packets.gate import Knowledge, Listener, Mode, Origin, SavedConnection
from architect.shim.packets.headers import ACK, FIN, SYN, Flow, Packet
from architect.shim.packets.hold import Gate
from architect.shim.packets.holdstate import HoldState
from architect.shim.packets.netns import Netns
from architect.shim.packets.nfqueue import NfQueue, QueuedPacket

KNOWLEDGE = Knowledge(
    listeners=(
        Listener(protocol="tcp", address="0.0.0.0", port=80),
        Listener(protocol="tcp", address="0.0.0.0", port=90, wakes=False),
        Listener(protocol="udp", address="0.0.0.0", port=53),
    )
)


def packet(protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet from the client to the pod."""
    return (
        struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol)
        + bytes(2)
        + socket.inet_aton("10.0.0.9")
        + socket.inet_aton("10.0.0.2")
        + payload
    )


def segment(
    port: int,
    *,
    flags: int = SYN,
    sequence: int = 1,
    source_port: int = 5000,
    data: bytes = b"",
) -> bytes:
    header = struct.pack("!HHIIBBHHH", source_port, port, sequence, 1, 5 << 4, flags, 9, 0, 0)
    return packet(6, header + data)


def datagram(port: int, *, size: int = 8) -> bytes:
    return packet(17, struct.pack("!HHHH", 5000, port, 8 + size, 0) + bytes(size))


class Verdicts:
    """Stands for the kernel's queue: packets go in, verdicts come out."""

    def __init__(self) -> None:
        self.arrived: list[QueuedPacket] = []
        self.log: list[tuple[str, int]] = []
        self._next = 1

    def put(self, data: bytes) -> int:
        self.arrived.append(QueuedPacket(self._next, data, len(data), 2))
        self._next += 1
        return self._next - 1

    def read(self, *, limit: int = 4096) -> list[QueuedPacket]:
        packets, self.arrived = self.arrived, []
        return packets

    def accept(self, identifier: int) -> None:
        self.log.append(("accept", identifier))

    def drop(self, identifier: int) -> None:
        self.log.append(("drop", identifier))

    def passthrough(self, last: int) -> None:
        self.log.append(("all", last))

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Bench:
    """A gate with its queue and its clock."""

    def __init__(self) -> None:
        self.queue = Verdicts()
        self.now = 1000.0
        self.origin = Origin.REMOTE
        self.netns = Netns.own()
        self.gate = Gate(
            cast(NfQueue, self.queue),
            netns=self.netns,
            knowledge=KNOWLEDGE,
            find_origin=self.find_origin,
            mode=Mode.ASLEEP,
            clock=lambda: self.now,
        )

    def find_origin(self, packet: Packet, late: bool) -> Origin:
        return self.origin

    def come(self, *packets: bytes) -> list[tuple[str, int]]:
        """Packets arrive and are judged; the verdicts that were given."""
        for data in packets:
            self.queue.put(data)
        before = len(self.queue.log)
        self.gate.pump()
        return self.queue.log[before:]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.netns.close()


def test_retransmissions_of_what_is_held_are_dropped(bench: Bench) -> None:
    assert bench.come(segment(80), segment(80), segment(80)) == [("drop", 2), ("drop", 3)]
    assert bench.gate.held == 1
    assert bench.gate.stats.repeated == 2


def test_the_newest_of_bare_acknowledgements_is_held(bench: Bench) -> None:
    flow = Flow("10.0.0.9", 5000, "10.0.0.2", 80)
    saved = SavedConnection(receive_next=7, window=1)
    bench.gate.enter(
        Mode.ASLEEP, knowledge=Knowledge(listeners=KNOWLEDGE.listeners, connections={flow: saved})
    )
    ack = segment(80, flags=ACK, sequence=7)
    assert bench.come(ack, ack) == [("drop", 1)]
    fin = segment(80, flags=ACK | FIN, sequence=7)
    assert bench.come(fin, fin) == [("drop", 4)]
    assert bench.gate.held == 2
    assert bench.gate.wake is None


def test_a_request_seen_too_late_wakes_when_it_comes_again(bench: Bench) -> None:
    bench.origin = Origin.GONE
    bench.come(segment(80))
    assert bench.gate.wake is None
    bench.origin = Origin.NODE
    bench.now += 1
    assert bench.come(segment(80)) == [("drop", 2)]
    assert bench.gate.wake == (1001.0, "connection from 10.0.0.9:5000 to port 80")
    assert bench.gate.held == 1


def test_the_first_reason_to_wake_stays(bench: Bench) -> None:
    bench.come(datagram(53))
    bench.come(segment(80))
    assert bench.gate.wake is not None and "udp packet" in bench.gate.wake[1]


def test_a_mode_change_judges_again_in_order(bench: Bench) -> None:
    bench.gate.enter(Mode.DUMP)
    assert bench.come(segment(81), segment(80), segment(82, flags=ACK), datagram(53)) == []
    assert bench.gate.held == 4
    bench.gate.enter(Mode.ASLEEP)
    assert bench.queue.log == [("accept", 1), ("accept", 3)]
    assert bench.gate.held == 2
    assert bench.gate.stats.held == 4


def test_of_too_many_datagrams_the_oldest_are_lost_and_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "MAX_HELD_UDP", 3)
    verdicts = bench.come(*(datagram(53) for _ in range(5)))
    assert verdicts == [("drop", 1), ("drop", 2)]
    assert bench.gate.held == 3
    assert bench.gate.stats.lost_udp == 2


def test_datagrams_are_bounded_by_their_bytes_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "MAX_HELD_UDP_BYTES", 2000)
    bench.come(datagram(53, size=1000), datagram(53, size=1000))
    assert bench.gate.held == 1
    assert bench.come(datagram(53, size=9000)) == [("drop", 2)]
    assert bench.gate.held == 1, "the newest stays, whatever its size"


def test_too_many_segments_are_dropped_for_tcp_to_send_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "MAX_HELD", 2)
    verdicts = bench.come(*(segment(80, source_port=port) for port in range(1, 5)))
    assert verdicts == [("drop", 3), ("drop", 4)]
    assert bench.gate.stats.overflow_tcp == 2


def test_payload_that_waits_is_bounded_and_requests_are_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "MAX_HELD_TCP_BYTES", 1000)
    flow = Flow("10.0.0.9", 5000, "10.0.0.2", 80)
    saved = SavedConnection(receive_next=1, window=1)
    bench.gate.enter(
        Mode.ASLEEP, knowledge=Knowledge(listeners=KNOWLEDGE.listeners, connections={flow: saved})
    )
    data = [segment(80, flags=ACK, sequence=1 + 600 * n, data=bytes(600)) for n in range(2)]
    assert bench.come(*data, segment(80, source_port=9)) == [("drop", 2)]
    assert bench.gate.held == 2
    # Judged again they are counted anew.
    bench.gate.enter(Mode.RESTORE)
    assert bench.gate.held == 2
    bench.gate.release()
    assert bench.come(data[1]) == []


def test_requests_go_when_nobody_repeats_them(bench: Bench) -> None:
    bench.come(segment(90, source_port=1), segment(90, source_port=2), segment(80), datagram(53))
    bench.now += 100
    bench.come(segment(90, source_port=2))
    bench.now += 100
    bench.gate.tick()
    assert bench.queue.log == [("drop", 5), ("drop", 1), ("drop", 3)]
    assert bench.gate.held == 2


def fragment(number: int, *, port: int = 0) -> bytes:
    """A piece of a datagram: the first one with its *port*, or a later one."""
    whole = bytearray(datagram(port) if port else packet(17, bytes(16)))
    struct.pack_into("!HH", whole, 4, number, 0x2000 if port else 0x0002)
    return bytes(whole)


def test_fragments_without_a_first_one_go_when_the_kernel_would_drop_them(bench: Bench) -> None:
    bench.come(fragment(1), fragment(2, port=53), fragment(2))
    assert bench.gate.held == 3
    bench.now += 31
    bench.gate.tick()
    assert bench.queue.log == [("drop", 1)]


def test_a_fragment_follows_its_first_one_across_a_change_of_mode(bench: Bench) -> None:
    assert bench.come(fragment(1, port=81)) == [("accept", 1)]
    bench.gate.enter(Mode.DUMP)
    assert bench.come(fragment(1)) == [], "everything waits"
    bench.gate.enter(Mode.ASLEEP)
    assert bench.queue.log[-1] == ("accept", 2)
    assert bench.gate.held == 0


def test_a_first_fragment_that_had_passed_never_lets_another_reach_what_sleeps(
    bench: Bench,
) -> None:
    bench.origin = Origin.KUBELET
    bench.gate.enter(Mode.DRAIN)
    flow = Flow("10.0.0.9", 5000, "10.0.0.2", 80)
    first = bytearray(segment(80, flags=ACK, sequence=7, data=bytes(8)))
    struct.pack_into("!HH", first, 4, 3, 0x2000)
    assert bench.come(bytes(first)) == [("accept", 1)]
    later = bytearray(packet(6, bytes(16)))
    struct.pack_into("!HH", later, 4, 3, 0x0004)
    bench.gate.enter(Mode.DUMP)
    assert bench.come(bytes(later)) == []
    saved = SavedConnection(receive_next=7, window=1)
    bench.gate.enter(
        Mode.ASLEEP, knowledge=Knowledge(listeners=KNOWLEDGE.listeners, connections={flow: saved})
    )
    assert bench.gate.held == 1


def test_release_lets_all_go_and_forgets_them(bench: Bench) -> None:
    bench.come(segment(80), datagram(53))
    assert bench.gate.release() == 2
    assert bench.queue.log == [("all", 2)]
    assert bench.gate.held == 0
    assert bench.gate.release_step() is None


def test_a_conversation_with_the_stand_in_passes_until_it_ends(bench: Bench) -> None:
    bench.origin = Origin.KUBELET
    bench.gate.enter(
        Mode.ASLEEP,
        knowledge=Knowledge(listeners=KNOWLEDGE.listeners, probe_ports=frozenset({80})),
    )
    assert bench.come(segment(80), segment(80, flags=ACK, data=b"GET")) == [
        ("accept", 1),
        ("accept", 2),
    ]
    bench.gate.enter(Mode.DUMP)
    assert bench.come(segment(80, flags=ACK | FIN)) == [("accept", 3)]
    assert bench.come(segment(80, flags=SYN)) == [], "another probe waits"


def test_the_state_survives_json(bench: Bench) -> None:
    bench.come(segment(80))
    state = bench.gate.export()
    assert state.last_identifier == 1 and state.wake is not None
    assert HoldState.from_dict(state.to_dict()) == state


@pytest.mark.parametrize("value", [None, {}, [], {"version": 1}, {"version": 2, "wake": 5}])
def test_a_state_that_cannot_be_read_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        HoldState.from_dict(value)
