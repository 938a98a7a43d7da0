"""How long the containers of a saved pod stay, though nothing runs in them any more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from architect.core.errors import ArchitectError
from architect.daemon.moves.views import Family
from architect.daemon.shared import SharedReads
from architect.kube import checkpoints, conditions
from architect.kube.api import Api, JsonObject

log = logging.getLogger(__name__)

STAY_SECONDS: Final = 15.0
"""A successor that is not there by then has trouble of its own."""
STAY_MARGIN_SECONDS: Final = 2.0
"""Of the pod's grace period, after which kubelet kills."""
STAY_STEP_SECONDS: Final = 0.25
FOLLOW_SECONDS: Final = 1.5
"""For readiness, endpoints and kube-proxy to follow: it writes its rules once a second."""


@dataclass(frozen=True, kw_only=True)
class Stay:
    """A saved pod whose containers stay while its successor begins.

    Who still has its address is refused at once, as by a closed port; with the pod the address
    goes, and who asks then waits for a time-out.
    """

    checkpoint: str
    """Its name."""
    family: Family
    ends_at: float
    """By the monotonic clock: before kubelet loses its patience."""


def stay_of(checkpoint: str, family: Family, *, started_at: float, grace_seconds: float) -> Stay:
    """Return how long a pod stays whose end began at *started_at*."""
    ends_at = started_at + min(STAY_SECONDS, grace_seconds - STAY_MARGIN_SECONDS)
    return Stay(checkpoint=checkpoint, family=family, ends_at=ends_at)


class Lingering:
    """Of one node. Safe to use from several threads, whose reads it shares."""

    def __init__(
        self,
        api: Api,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api = api
        self._clock = clock
        self._sleep = sleep
        self._reads = SharedReads[list[JsonObject]](apart_seconds=STAY_STEP_SECONDS)

    def wait(self, stay: Stay) -> None:
        """Do as :meth:`follow`, and return in time though the API server does not answer."""
        left = stay.ends_at - self._clock()
        if left <= 0:
            return
        is_over = threading.Event()

        def run() -> None:
            try:
                self.follow(stay)
            except Exception:
                # Nobody asks for what came of it: it would be a defect that nobody sees.
                log.exception("who goes on from %s is not followed", stay.checkpoint)
            finally:
                is_over.set()

        threading.Thread(target=run, name="lingering", daemon=True).start()
        is_over.wait(left)

    def follow(self, stay: Stay) -> None:
        """Return once the successor runs and kube-proxy has heard of it, or time is up."""
        while self._clock() < stay.ends_at:
            try:
                listed = self._reads.read(stay.family, lambda: stay.family.checkpoints(self._api))
            except ArchitectError:
                return
            found = next((v for v in listed if v["metadata"]["name"] == stay.checkpoint), None)
            if found is None:
                return
            left = stay.ends_at - self._clock()
            if conditions.is_true(found, checkpoints.RESTORED):
                self._sleep(max(0.0, min(FOLLOW_SECONDS, left)))
                return
            self._sleep(max(0.0, min(STAY_STEP_SECONDS, left)))
