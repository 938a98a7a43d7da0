"""Tell kubelet's probes from other connections while the pod is awake.

The rules queue connection requests from node addresses (Plan.watch). While a request waits here,
its sender's socket is in SYN_SENT, so who it belongs to is known for certain; the request then
goes on its way. Without a reader the rules let it pass unseen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .gate import Origin
from .headers import Packet, parse
from .hold import FindOrigin
from .nfqueue import NfQueue
from .ruleset import Ruleset


@dataclass(frozen=True)
class RealRequest:
    """A connection from a node address that is not kubelet's."""

    monotonic: float
    source: str
    source_port: int
    port: int


class Watch:
    """Looks at the connection requests of one awake pod."""

    def __init__(
        self,
        queue: NfQueue,
        *,
        ruleset: Ruleset,
        find_origin: FindOrigin,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read `queue`, which must be fail-open: a full one must not stop anybody."""
        self._queue = queue
        self._ruleset = ruleset
        self._find_origin = find_origin
        self._clock = clock
        #: The newest real request, for "who keeps this pod awake".
        self.last_real: RealRequest | None = None
        self.real = 0
        self.probes = 0

    def fileno(self) -> int:
        """The queue's descriptor."""
        return self._queue.fileno()

    def pump(self, *, late: bool = False) -> int:
        """Look at what came and let it pass; gives the number of packets. OSError, NodeError."""
        packets = self._queue.read()
        try:
            for queued in packets:
                packet = parse(queued.data, packet_bytes=queued.packet_bytes)
                if packet.opening:
                    self._look(packet, late)
        finally:
            # Whatever was wrong with the look, nobody's connection may hang on it.
            for queued in packets:
                self._queue.accept(queued.identifier)
            self._queue.flush()
        return len(packets)

    def _look(self, packet: Packet, late: bool) -> None:
        if self._find_origin(packet, late) is Origin.KUBELET:
            # Before the request goes on, so that its conversation is counted as a probe's.
            self._ruleset.note_probe(packet.source, packet.source_port)
            self.probes += 1
            return
        self.real += 1
        self.last_real = RealRequest(
            self._clock(), packet.source, packet.source_port, packet.destination_port
        )

    def detach(self) -> NfQueue:
        """Give the queue back, open."""
        return self._queue
