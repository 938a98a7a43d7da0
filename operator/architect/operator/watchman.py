"""Looks after nodes that end or are silent: their pods are dismissed, adopted, let go, in order.

Nodes come by their watch (:meth:`Watchman.changed`), and those of interest are looked at every
second; of all others nothing is kept. What is decided by :mod:`architect.operator.machines` is
decided again by fresh reads before it is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from architect.core.errors import FormatError, Rejected, Retryable
from architect.kube.api import Api
from architect.kube.resources import CHECKPOINTS, NODES, PODS, ObjectRef
from architect.operator import dismissal, heartbeats, machines, metrics
from architect.operator.adopter import Adopter
from architect.operator.apply import Applier
from architect.operator.dismisser import Dismisser
from architect.operator.machines import Heartbeat
from architect.operator.metrics import Metrics

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]

LOOK_SECONDS: Final = 1.0
"""Between two looks."""

UNTOLD_SECONDS: Final = 10.0
"""Between two looks at a node that is silent and was not announced to end: most are only silent."""

STORE_SECONDS: Final = 5.0
"""Between two questions to a store that is away."""

PATIENCE_SECONDS: Final = 60.0
"""How long the pods of a machine that is gone are kept for a store that is away: what lies there of
them could not be adopted any more."""

GONE_SECONDS: Final = 600.0
"""How long is asked for what a node left whose object is gone. Its pods go within a minute."""


@dataclass
class _Watched:
    """One node of interest."""

    node: JsonObject | None
    """As its watch told last; None: it is gone."""
    since: float
    """Monotonic seconds: when it became what it is."""
    heartbeat: Heartbeat | None = None
    is_adopted: bool = False
    """Since it is silent."""
    asked_at: float = float("-inf")
    """The store, in vain."""
    looked_at: float = float("-inf")
    """Whether its machine is gone."""
    proven_at: float | None = None
    """When its machine was first known to be gone."""


class Watchman:
    """Of one cluster. :meth:`look` belongs to one thread; events come from any."""

    def __init__(
        self,
        api: Api,
        applier: Applier,
        numbers: Metrics,
        dismisser: Dismisser,
        adopter: Adopter | None,
        *,
        marks: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*adopter*: None: there is no object store; *marks*: say it of machines that are gone."""
        self._api = api
        self._applier = applier
        self._metrics = numbers
        self._dismisser = dismisser
        self._adopter = adopter
        self._marks = marks
        self._clock = clock
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._ending: frozenset[str] = frozenset()

    def changed(self, node: JsonObject) -> None:
        """Learn of a node, as it is now."""
        name = node["metadata"]["name"]
        with self._lock:
            known = self._watched.get(name)
            if not machines.is_of_interest(node):
                self._watched.pop(name, None)
            elif known is None or known.node is None:
                self._watched[name] = _Watched(node=node, since=self._clock())
            else:
                known.node = node
                if machines.is_ready(node):
                    known.is_adopted, known.proven_at = False, None

    def gone(self, node: JsonObject) -> None:
        """Learn that a node's object was deleted."""
        with self._lock:
            self._watched[node["metadata"]["name"]] = _Watched(node=None, since=self._clock())

    def look(self) -> None:
        """Look at those of interest: nothing is read while there are none."""
        with self._lock:
            watched = dict(self._watched)
        self._count(watched)
        ending = frozenset(n for n, one in watched.items() if dismissal.is_ending(one.node))
        if ending != self._ending:
            # A notice came, or was withdrawn: what waits for the end does not wait any more.
            self._ending = ending
            self._dismisser.sweep()
        self._adopt(watched)
        for name, one in watched.items():
            if one.node is None:
                if one.is_adopted or self._clock() - one.since > GONE_SECONDS:
                    self._forget(name, one)
                continue
            try:
                self._look_at(name, one, one.node)
            except (FormatError, Rejected, Retryable) as error:
                log.warning("whether the machine of node %s is gone is not known: %s", name, error)

    def _forget(self, name: str, one: _Watched) -> None:
        with self._lock:
            if self._watched.get(name) is one:
                del self._watched[name]

    def _adopt(self, watched: dict[str, _Watched]) -> None:
        """See to what silent nodes left, at once and again as long as it cannot be looked at."""
        silent = {
            name: one
            for name, one in watched.items()
            if (one.node is None or not machines.is_ready(one.node))
            and not one.is_adopted
            and self._clock() - one.asked_at >= STORE_SECONDS
        }
        if not silent:
            return
        if self._adopt_of(set(silent)):
            for one in silent.values():
                one.is_adopted = True
        else:
            for one in silent.values():
                one.asked_at = self._clock()

    def _adopt_of(self, nodes: set[str]) -> bool:
        return self._adopter is None or self._adopter.adopt(nodes)

    def _look_at(self, name: str, one: _Watched, node: JsonObject) -> None:
        if not self._marks:
            return
        back = machines.take_back(node)
        if back is not None:
            self._applier.apply(back)
            return
        if machines.given_up(node) is not None or not self._is_due(one, node):
            return
        one.looked_at = self._clock()
        why = self._why_gone(name, one, node, is_cached=True)
        if why is None:
            one.proven_at = None
            return
        if one.proven_at is None:
            one.proven_at = self._clock()
        # Before its pods are let go: their replacements look for what was saved. Again, since what
        # a machine sent at its very end was not there when it became silent.
        if not self._is_adopted_now(name, one):
            if self._clock() - one.proven_at < PATIENCE_SECONDS:
                return
            why += "; what it left in the object store could not be looked at"
        fresh = self._api.find(ObjectRef.of(NODES, node))
        if fresh is None or self._why_gone(name, one, fresh, is_cached=False) is None:
            return
        mark = machines.give_up(fresh, why)
        if mark is not None:
            self._applier.apply(mark)

    def _is_adopted_now(self, name: str, one: _Watched) -> bool:
        if self._clock() - one.asked_at < STORE_SECONDS:
            return False
        if self._adopt_of({name}):
            return True
        one.asked_at = self._clock()
        return False

    def _is_due(self, one: _Watched, node: JsonObject) -> bool:
        """Whether it is time to look whether a node's machine is gone."""
        notice = machines.notice_of(node)
        if notice is not None:
            # Of one whose end is known its renewals are followed from the first one on.
            return notice.ends is not None or not machines.is_ready(node)
        if dismissal.is_ending(node) or machines.is_ready(node):
            return False
        return one.proven_at is not None or self._clock() - one.looked_at >= UNTOLD_SECONDS

    def _why_gone(
        self, name: str, one: _Watched, node: JsonObject, *, is_cached: bool
    ) -> str | None:
        """Return what is known; *is_cached*: by what the API server remembers of pods."""
        lease = heartbeats.lease_of(self._api, name)
        one.heartbeat = machines.observe(one.heartbeat, lease, now=self._clock())
        notice = machines.notice_of(node)
        are_saved = False
        is_silent = one.heartbeat.silent_seconds(self._clock()) >= machines.SILENT_SECONDS
        if is_silent and not machines.is_ready(node) and (notice is None or notice.ends is None):
            pods = self._api.list(PODS, fields=f"spec.nodeName={name}", is_cached=is_cached).items
            known = self._api.list(CHECKPOINTS, is_cached=is_cached).items if pods else ()
            are_saved = machines.are_saved(pods, known, node=name)
        return machines.why_gone(
            node, heartbeat=one.heartbeat, are_saved=are_saved, now=self._clock()
        )

    def _count(self, watched: dict[str, _Watched]) -> None:
        counts = dict.fromkeys(("ready", "silent", "gone"), 0)
        for one in watched.values():
            if one.node is not None and dismissal.is_ending(one.node):
                is_gone = machines.given_up(one.node) is not None
                state = "ready" if machines.is_ready(one.node) else "silent"
                counts["gone" if is_gone else state] += 1
        for state, count in counts.items():
            self._metrics.set(metrics.ENDING, count, state=state)
