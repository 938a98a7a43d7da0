"""How long a whole node would take now, and what that depends on."""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass

from architect.daemon.spot import planner
from architect.daemon.spot.inputs import Rates, Request
from architect.daemon.spot.planner import Misfit, Plan, Saved


class Limit(enum.Enum):
    """What of a node would have to be faster."""

    DUMP = "dump"
    DISK = "disk"
    SEALING = "sealing"
    """The processor, which hashes, compresses and encrypts."""
    UPLOAD = "upload"
    CAPTURES = "captures"
    """The seconds that each capture takes whatever its size."""
    OBJECTS = "objects"
    """The seconds that each object takes whatever its size."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What it would take to save every pod that can be saved, were there all the time for it."""

    seconds: float | None
    """0: nothing is to be done. None: for ever, at these rates."""
    limit: Limit | None
    """What would shorten it most if it were twice as fast; None: nothing would."""
    pods: int
    """How many are meant: those that are not in the store yet and can be saved."""
    bytes: int
    """What they have to send."""


def need(request: Request) -> Need:
    """Return what the node needs. Its deadline, and a store that does not answer, mean nothing."""
    at_leisure = dataclasses.replace(request, deadline_seconds=math.inf, is_store_reachable=True)
    found = planner.plan(at_leisure)
    seconds = _seconds(found)
    meant = [o.pod for o in found.outcomes if isinstance(o.verdict, Saved) or _is_stuck(o.verdict)]
    return Need(
        seconds=seconds,
        limit=None if seconds is None else _limit(at_leisure, seconds),
        pods=len(meant),
        bytes=sum(pod.sent_bytes for pod in meant),
    )


def _is_stuck(verdict: planner.Verdict) -> bool:
    return isinstance(verdict, Misfit) and verdict.reason == planner.NO_RATE


def _seconds(found: Plan) -> float | None:
    return None if any(_is_stuck(o.verdict) for o in found.outcomes) else found.seconds


def _limit(request: Request, seconds: float) -> Limit | None:
    best, least = None, seconds
    for limit in Limit:
        faster = dataclasses.replace(request, rates=_doubled(request.rates, limit))
        shorter = planner.plan(faster).seconds
        if shorter < least:
            best, least = limit, shorter
    return best


def _doubled(rates: Rates, limit: Limit) -> Rates:
    """Return *rates* with one thing twice as fast."""
    dump, disk = rates.dump_bytes_per_second_per_core, rates.disk_bytes_per_second
    hashing, sealing = rates.hash_bytes_per_second_per_core, rates.seal_bytes_per_second_per_core
    match limit:
        case Limit.DUMP:
            return dataclasses.replace(rates, dump_bytes_per_second_per_core=2 * dump)
        case Limit.DISK:
            return dataclasses.replace(rates, disk_bytes_per_second=2 * disk)
        case Limit.SEALING:
            return dataclasses.replace(
                rates,
                hash_bytes_per_second_per_core=2 * hashing,
                seal_bytes_per_second_per_core=2 * sealing,
            )
        case Limit.UPLOAD:
            upload = rates.upload_bytes_per_second
            return dataclasses.replace(rates, upload_bytes_per_second=2 * upload)
        case Limit.CAPTURES:
            fixed = rates.capture_fixed_seconds
            return dataclasses.replace(rates, capture_fixed_seconds=fixed / 2)
        case Limit.OBJECTS:
            fixed = rates.upload_object_seconds
            return dataclasses.replace(rates, upload_object_seconds=fixed / 2)
