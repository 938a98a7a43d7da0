"""Rates from what was measured: of the last few times, how long it took at its slow times.

A plan is a promise, so an average would be wrong half of the time. Of the samples, each of which
counts for less the more came after it, the slowest fifth is left out, and the slowest of the rest
is believed. So a node that became slow is believed at once (three samples in a row), one that
became fast after some twenty, and one odd sample changes little. Before anything was measured the
defaults of :class:`~architect.daemon.spot.inputs.Rates` count as one sample, which is forgotten as
any other is.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from architect.daemon.spot.inputs import Rates

KEPT: Final = 32
"""Samples of each measure; the oldest has a sixteenth of the newest one's weight."""
HALF_LIFE: Final = 8
"""How many later samples halve the weight of one."""
SLOWEST_PART: Final = 0.2
"""Of all weight: what is slower than is believed."""
LEAST_BYTES: Final = 8 * 1024**2
"""What is smaller tells more of its fixed part than of a rate."""


class Measure(enum.Enum):
    """What is measured; the value is its name in :class:`Rates`."""

    CAPTURE_FIXED = "capture_fixed_seconds"
    """A capture, without the time in which bytes were dumped or hashed."""
    DUMP = "dump_bytes_per_second_per_core"
    """A dump that a slow disk holds up is a slow dump."""
    HASH = "hash_bytes_per_second_per_core"
    SEAL = "seal_bytes_per_second_per_core"
    UPLOAD = "upload_bytes_per_second"
    """Bytes of all uploads in some time in which any was being sent, and that time."""
    OBJECT = "upload_object_seconds"
    """From an object's last byte to the store's answer."""

    @property
    def is_rate(self) -> bool:
        """Whether bytes are measured by time, and not a time by itself."""
        return "bytes_per_second" in self.value


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What is known of one node."""

    samples: Mapping[Measure, tuple[float, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """The newest first: seconds, or seconds for each byte."""

    def with_sample(self, measure: Measure, *, seconds: float, size_bytes: int = 0) -> Learnt:
        """Return what is known after *measure* took *seconds*, of a rate for *size_bytes*.

        What cannot be, or is too small to tell a rate, is left out.
        """
        sample = seconds
        if measure.is_rate:
            if size_bytes < LEAST_BYTES or not seconds > 0:
                return self
            sample = seconds / size_bytes
        if not 0 <= sample < math.inf:
            return self
        kept = (sample, *self.samples.get(measure, ()))[:KEPT]
        return Learnt(samples=MappingProxyType({**self.samples, measure: kept}))

    def rates(self) -> Rates:
        """Return what to plan with."""
        return Rates(**{measure.value: self._value(measure) for measure in Measure})

    def _value(self, measure: Measure) -> float:
        default: float = getattr(Rates(), measure.value)
        samples = self.samples.get(measure, ())
        if not measure.is_rate:
            return _slow((*samples, default))
        return 1 / _slow((*samples, 1 / default))


def _slow(samples: tuple[float, ...]) -> float:
    """Return the slowest of *samples*, newest first, that is not among the slowest part."""
    weights = [0.5 ** (age / HALF_LIFE) for age in range(len(samples))]
    slowest_first = sorted(zip(samples, weights, strict=True), reverse=True)
    part = SLOWEST_PART * sum(weights)
    sums = itertools.accumulate(weight for _, weight in slowest_first)
    return next(
        sample for (sample, _), above in zip(slowest_first, sums, strict=True) if above >= part
    )
