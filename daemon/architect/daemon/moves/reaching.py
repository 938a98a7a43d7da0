"""What pods of this node reach for: of those that come at once, each for another checkpoint.

All of one owner's pods would want the newest that is free. One would get it, by the API server's
word, and all others would have asked in vain, twenty times over if twenty come. So who decides sees
what the others of this node have decided on, as if it were theirs already. Who else claims it, on
another node, is still the API server's to say.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from architect.daemon.claims import Claim, Decision, Fresh, Wait
from architect.kube.api import JsonObject

MAX_REMEMBERED: Final = 1024
"""Versions of checkpoints: an object that is read again after it was written has another one."""

UNDECIDED_SECONDS: Final = 10.0
"""For the outcome of another's claim: an API request does not take longer."""


@dataclass
class _Reach:
    """One pod's reach for one version of a checkpoint."""

    uid: str
    name: str
    is_claimed: bool = False
    """False: it is being written, or was not: somebody else changed the checkpoint before."""


class Reaching:
    """Of one node. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reached: collections.OrderedDict[tuple[str, str], _Reach] = collections.OrderedDict()

    def decide(
        self,
        uid: str,
        name: str,
        found: Sequence[JsonObject],
        decide: Callable[[Sequence[JsonObject]], Decision],
    ) -> Decision:
        """Return what *decide* gives for *found* as pod *uid* is to see it.

        After a Claim call :meth:`claiming`. A pod never starts fresh for what another only reaches
        for.
        """
        with self._lock:  # who decides next is to see what this one reaches for
            decision = decide([self._seen(value, uid) for value in found])
            if isinstance(decision, Claim):
                self._reached[_version(decision)] = _Reach(uid=uid, name=name)
                while len(self._reached) > MAX_REMEMBERED:
                    self._reached.popitem(last=False)
            undecided = [
                reach
                for value in found
                if (reach := self._reach_of(value, uid)) is not None and not reach.is_claimed
            ]
        if isinstance(decision, Fresh) and undecided:
            return Wait(for_what=f"the claim of pod {undecided[0].name}", seconds=UNDECIDED_SECONDS)
        return decision

    @contextmanager
    def claiming(self, decision: Claim, *, superseded: type[Exception]) -> Iterator[None]:
        """Hold what was decided on while the claim is written.

        If that raises *superseded*, this version is not there any more: who has read it is to read
        again. After any other error it may be.
        """
        try:
            yield
        except superseded:
            raise
        except BaseException:
            with self._lock:
                self._reached.pop(_version(decision), None)
            raise
        with self._lock:
            if (reach := self._reached.get(_version(decision))) is not None:
                reach.is_claimed = True

    def _reach_of(self, value: JsonObject, uid: str) -> _Reach | None:
        metadata = value["metadata"]
        reach = self._reached.get((metadata.get("uid", ""), metadata.get("resourceVersion", "")))
        return None if reach is None or reach.uid == uid else reach

    def _seen(self, value: JsonObject, uid: str) -> JsonObject:
        reach = self._reach_of(value, uid)
        if reach is None:
            return value
        claim: dict[str, Any] = {"name": reach.name, "uid": reach.uid}
        return {**value, "status": {**(value.get("status") or {}), "claimedBy": claim}}


def _version(decision: Claim) -> tuple[str, str]:
    return decision.uid, decision.resource_version
