"""The hold of one pod's packets, from the first step of falling asleep to the last of waking."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Final

from architect.core.errors import FormatError
from architect.shim.keeper.loop import Task
from architect.shim.keeper.nodeshared import NodeShared
from architect.shim.packets.gate import Knowledge, Mode
from architect.shim.packets.hold import Gate
from architect.shim.packets.holdstate import HoldState
from architect.shim.packets.netns import Netns
from architect.shim.packets.nfqueue import NfQueue

log = logging.getLogger(__name__)

TURN_PACKETS: Final = 512
"""Read from one pod before the others get their turn: 15 ms under a flood."""


class PodHold:
    """A gate while there is one, and what an earlier keeper left of it."""

    def __init__(self, shared: NodeShared, uid: str) -> None:
        self.on_wake: Callable[[str], None] = lambda _: None
        """Called with the reason, again and again, while a packet wants the pod awake."""
        self._shared = shared
        self._uid = uid
        self._gate: Gate | None = None
        self._adopted = shared.warden.take(f"queue:{uid}")

    @property
    def is_on(self) -> bool:
        """Whether packets are held."""
        return self._gate is not None

    @property
    def packets(self) -> int:
        """How many packets wait."""
        return 0 if self._gate is None else self._gate.held

    @property
    def gate(self) -> Gate:
        """The gate; only while :attr:`is_on`."""
        assert self._gate is not None
        return self._gate

    def begin(self, queue: NfQueue, *, netns: Netns, knowledge: Knowledge) -> None:
        """Judge what comes to *queue*: new requests wait, conversations go on."""
        self._start(
            Gate(
                queue,
                netns=netns,
                knowledge=knowledge,
                find_origin=self._shared.origins.find,
                mode=Mode.DRAIN,
            )
        )

    def resume(
        self, *, netns: Netns, knowledge: Knowledge, mode: Mode, saved: dict[str, Any] | None
    ) -> None:
        """Hold again, with the queue that the warden kept or a new one. Raises NodeError, OSError.

        *saved* is what :meth:`state` gave the earlier keeper.
        """
        if self._adopted is None:
            gate = Gate(
                NfQueue.bind(netns),
                netns=netns,
                knowledge=knowledge,
                find_origin=self._shared.origins.find,
                mode=mode,
            )
        else:
            fd, self._adopted = self._adopted, None
            gate = Gate.adopt(
                fd,
                netns=netns,
                knowledge=knowledge,
                state=self._saved(saved),
                find_origin=self._shared.origins.find,
                mode=mode,
            )
            log.info("pod %s: %d packets have waited for this keeper", self._uid, gate.held)
        self._start(gate)

    def _saved(self, saved: dict[str, Any] | None) -> HoldState:
        if saved is None:
            return HoldState()
        try:
            return HoldState.from_dict(saved)
        except FormatError as error:
            log.error("pod %s: %s; what waited wakes it", self._uid, error)
            return HoldState()

    def _start(self, gate: Gate) -> None:
        self._gate = gate
        self._shared.warden.store(f"queue:{self._uid}", gate.fileno())
        self._shared.loop.watch(gate.fileno(), self._pump)

    @property
    def has_adopted(self) -> bool:
        """Whether an earlier keeper left a queue that nobody reads yet."""
        return self._adopted is not None

    def _pump(self) -> None:
        if self._gate is not None:
            self._gate.pump(late=self._shared.is_late, limit=TURN_PACKETS)
            self.look_for_wake()

    def look_for_wake(self) -> None:
        """Tell whoever listens if a packet wants the pod awake."""
        if self._gate is not None and self._gate.wake is not None:
            self.on_wake(self._gate.wake[1])

    def tick(self) -> None:
        """Do what is due every few seconds."""
        if self._gate is not None:
            self._gate.tick()

    def state(self) -> dict[str, Any] | None:
        """Return what :meth:`resume` needs; None while nothing is held."""
        return None if self._gate is None else self._gate.export().to_dict()

    # Letting go

    def release(self) -> Task[int]:
        """Let go what waits, in order, as the application reads; return how many waited."""
        held = self.gate.held
        # The pod may go away, or everything be let go at once, in between.
        while self._gate is not None and (pause := self._gate.release_step()) is not None:
            yield self._shared.loop.sleep(pause)
        return held

    def end(self) -> NfQueue:
        """Give the queue back once all is released."""
        gate = self.gate
        self._shared.loop.unwatch(gate.fileno())
        queue = gate.detach()
        self._gate = None
        self._shared.warden.drop(f"queue:{self._uid}")
        return queue

    def close(self) -> None:
        """Drop what waits; for a pod that has gone."""
        if self._gate is not None:
            self.end().close()
        if self._adopted is not None:
            os.close(self._adopted)
            self._adopted = None
            self._shared.warden.drop(f"queue:{self._uid}")
