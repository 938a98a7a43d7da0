"""What the planner is told. Every number may be whatever was measured: none makes it fail."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Final

from architect.core.obstacles import Obstacle

RESERVE_SECONDS: Final = 5.0
"""Of a notice, what is not planned with: until the daemon has heard of it (a poll of the metadata
service), the plan is made and the first pod is being captured, and a little at the end."""


class State(enum.Enum):
    """How far a pod is on its way into the object store."""

    AWAKE = "awake"
    """It is dumped, hashed and sent."""
    ASLEEP = "asleep"
    """Its image is on the disk: it is read, hashed and sent."""
    CAPTURED = "captured"
    """It lies on the disk as a whole, hashed: it is only sent."""
    STORED = "stored"
    """It lies in the object store: nothing is left to do."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One managed pod of the node."""

    name: str
    """``namespace/name``; of two equal pods the one whose name comes first is saved first."""
    image_bytes: int
    """What its image has, or will have: the memory of its processes and its files that travel."""
    stored_bytes: int = 0
    """What of that the store has already, from an earlier copy or a part of this upload, and the
    pod has not written since. It is not sent again; it is dumped all the same."""
    state: State = State.AWAKE
    priority: int = 0
    """The higher, the earlier."""
    is_for_store: bool = True
    """Whether it may lie in the object store, by ``architect.dev/storage`` or the chart."""
    obstacle: Obstacle | None = None
    """Why it cannot be saved whatever the time; None: it can."""

    @property
    def sent_bytes(self) -> int:
        """What has yet to be sent."""
        if self.state is State.STORED:
            return 0
        return max(0, self.image_bytes - max(0, self.stored_bytes))


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast the node is. What is not a positive number counts as no speed at all.

    The defaults hold before anything was measured. They are of two cores that also ran the cluster
    (``docs/performance.md``); ``docs/spot.md`` says which figure each of them is.
    """

    capture_fixed_seconds: float = 2.2
    """For each capture, whatever its size: conversations that come to rest, the freeze, files."""
    dump_bytes_per_second_per_core: float = 900e6
    """Of one dump, which keeps one core busy."""
    hash_bytes_per_second_per_core: float = 2000e6
    """Of what is captured, and of what is sent (:mod:`architect.checkpoint.digests`). Less than
    half of what ``python -m bench.sealing`` measured with AVX-512 (4850 MB/s and more in nine of
    ten runs): BLAKE3 is as fast as the processor's vectors are wide, and many have shorter ones."""
    disk_bytes_per_second: float = 1800e6
    """Of the disk that images lie on, for all captures together, written or read."""
    seal_bytes_per_second_per_core: float = 250e6
    """Compressed, encrypted and signed on the way into the store."""
    upload_bytes_per_second: float = 121e6
    """Of the way to the store, for all uploads together."""
    upload_object_seconds: float = 0.1
    """For each object, besides its bytes: the store's answer."""

    @property
    def still(self) -> tuple[str, ...]:
        """Names of what has no speed, or takes for ever."""
        given = vars(self)
        rates = {name for name in given if "bytes_per_second" in name}
        return tuple(
            name
            for name, value in given.items()
            if (not value > 0 if name in rates else not value < math.inf)
        )


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much the daemon does at once, at most."""

    captures: int = 4
    """Pods (``daemon.migration.maxConcurrentCaptures``)."""
    objects: int = 3
    """Objects that are sealed and sent (``objectStore.uploadStreams``); while the node's end is
    announced there are more: :mod:`architect.daemon.spot.width`."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be planned."""

    deadline_seconds: float
    """From now on, after :data:`RESERVE_SECONDS` were taken off; may have passed already."""
    pods: tuple[Pod, ...]
    """In any order."""
    cores: int
    """Of the node."""
    rates: Rates = field(default_factory=Rates)
    bounds: Bounds = field(default_factory=Bounds)
    is_store_reachable: bool = True


def usable_seconds(notice_seconds: float) -> float:
    """Return how much of a notice that ends in *notice_seconds* can be planned with."""
    return notice_seconds - RESERVE_SECONDS
