"""The model: pods are captured some at a time, and sent as they are captured.

Two stages, each of which takes pods in the plan's order. Capturing has a number of slots; a slot
takes the next pod as soon as it is free. Sending has a number of streams; a stream takes the next
object of the first pod, in the plan's order, that is captured and has one left. Each stage has half
of the node's cores, whether the other needs its half or not.

What is computed is a bound, not a forecast, and needs no simulation:

- A slot or stream is assumed to be as slow as if all the others were busy all the time.
- A pod's capture begins when those before it leave a slot: not later than their work divided by the
  number of slots.
- The streams are a single queue with the speed of all of them. It works whenever anything of the
  pods is captured and not sent, so its end is known from when each is captured and how long each
  takes.
- An object that is under way is not interrupted, so each pod may wait for one of another pod.

So what comes later in the order changes nothing for a pod; and less work, or more speed, never
makes any of these bounds later.

Time is counted in whole microseconds, rounded up: then no order of additions matters, and that a
bound never gets later holds exactly.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from architect.daemon.spot.inputs import Pod, Rates, Request, State

OBJECT_BYTES: Final = 8 * 1024**2
"""``architect.checkpoint.envelope.SHARD_BYTES``."""

TICKS_PER_SECOND: Final = 1_000_000
NEVER: Final = 10**9 * TICKS_PER_SECOND
"""Thirty years: what takes longer, or goes on for ever."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one pod takes, in ticks."""

    capture: int
    """In its slot; 0: it needs none."""
    sending: int
    """Of all streams together."""
    last_object: int
    """In its stream: the longest of its objects."""
    commit: int
    """From its last object until the store has all of it: the envelope."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long things take on a node that captures and sends so much at once."""

    rates: Rates
    cores: int
    captures: int
    objects: int

    @classmethod
    def of(cls, request: Request, *, captures: int) -> Pace:
        """Return that of the node in *request* if it captures *captures* pods at once."""
        return cls(
            rates=request.rates,
            cores=request.cores,
            captures=max(1, captures),
            objects=max(1, request.bounds.objects),
        )

    @functools.cached_property
    def longest_object(self) -> int:
        """How long one stream may be busy with an object, in ticks."""
        return self._object(OBJECT_BYTES)

    def work(self, pod: Pod) -> Work:
        """Return what *pod* takes."""
        size, sent = max(0, pod.image_bytes), pod.sent_bytes
        capture = 0
        if pod.state in (State.AWAKE, State.ASLEEP):
            per_byte = self._awake_seconds_per_byte
            if pod.state is State.ASLEEP:
                per_byte = self._asleep_seconds_per_byte
            fixed = _fixed(self.rates.capture_fixed_seconds)
            capture = _ticks(fixed + _seconds_for(size, per_byte))
        objects = -(-sent // OBJECT_BYTES)
        in_streams = objects * _fixed(self.rates.upload_object_seconds)
        in_streams += _seconds_for(sent, self._stream_seconds_per_byte)
        # What is sent of a pod is proved by one core after the other (daemon.vault.proof).
        proved = _seconds_for(sent, _per(self.rates.hash_bytes_per_second_per_core))
        return Work(
            capture=capture,
            sending=_ticks(max(in_streams / self.objects, proved)),
            last_object=self._last_object(sent),
            commit=_ticks(_fixed(self.rates.upload_object_seconds)),
        )

    @property
    def _half_of_the_cores(self) -> float:
        return max(1, self.cores) / 2

    @functools.cached_property
    def _awake_seconds_per_byte(self) -> float:
        return self._capture_seconds_per_byte(_per(self.rates.dump_bytes_per_second_per_core))

    @functools.cached_property
    def _asleep_seconds_per_byte(self) -> float:
        return self._capture_seconds_per_byte(0.0)

    def _capture_seconds_per_byte(self, dumped: float) -> float:
        # Hashing follows the dump on a core of its own, if there is one for it.
        hashed = _per(self.rates.hash_bytes_per_second_per_core)
        return max(
            dumped,
            hashed,
            (dumped + hashed) * self.captures / self._half_of_the_cores,
            _per(self.rates.disk_bytes_per_second) * self.captures,
        )

    @functools.cached_property
    def _stream_seconds_per_byte(self) -> float:
        # A stream hashes and seals an object, then sends it.
        sealed = _per(self.rates.hash_bytes_per_second_per_core)
        sealed += _per(self.rates.seal_bytes_per_second_per_core)
        crowd = max(1.0, self.objects / self._half_of_the_cores)
        return sealed * crowd + _per(self.rates.upload_bytes_per_second) * self.objects

    def _last_object(self, sent: int) -> int:
        if sent >= OBJECT_BYTES:
            return self.longest_object
        return self._object(sent) if sent else 0

    def _object(self, size: int) -> int:
        return _ticks(
            _fixed(self.rates.upload_object_seconds)
            + _seconds_for(size, self._stream_seconds_per_byte)
        )


class Pipeline:
    """What is to be done, pod after pod in the plan's order."""

    def __init__(self, pace: Pace) -> None:
        self._slots = pace.captures
        self._blocked = pace.longest_object
        self._capturing = 0
        # When each pod is captured, and how long it is sent: sorted, as the streams have them.
        self._queue: list[tuple[int, int]] = []
        self._free = 0

    def add(self, work: Work) -> int:
        """Add a pod behind those that are there; return by which tick it lies in the store."""
        begins = -(-self._capturing // self._slots) if work.capture else 0
        own = begins + work.capture, work.sending
        self._capturing += work.capture
        if not self._queue or own >= self._queue[-1]:
            self._queue.append(own)
            self._free = max(self._free, own[0]) + own[1]
        else:
            # It is captured before others that come first: while those are being captured it is
            # sent, and all ends earlier than if it were sent behind them.
            bisect.insort(self._queue, own)
            self._free = _end_of(self._queue)
        return self._free + self._blocked + work.last_object + work.commit


def _end_of(queue: Iterable[tuple[int, int]]) -> int:
    """Return when streams have sent all of *queue*, which is sorted by when it can be sent."""
    free = 0
    for captured, sending in queue:
        free = max(free, captured) + sending
    return free


def _per(rate: float) -> float:
    """Return the seconds for one byte: for ever if *rate* is not a positive number."""
    return 1 / rate if rate > 0 else math.inf


def _seconds_for(size: int, seconds_per_byte: float) -> float:
    return size * seconds_per_byte if size else 0.0


def _fixed(seconds: float) -> float:
    return max(0.0, seconds) if seconds == seconds else math.inf


def _ticks(seconds: float) -> int:
    exact = seconds * TICKS_PER_SECOND
    return math.ceil(exact) if exact < NEVER else NEVER
