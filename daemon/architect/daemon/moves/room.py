"""The room that saved pods have on this node's disk: kept free, and given to who leaves.

What goes is decided by :mod:`.surplus`. Each that anybody might miss says so first, in its
Checkpoint as it was read: whoever has claimed it since keeps it.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from architect.api import names
from architect.core import clocks
from architect.core.earliest import Earliest
from architect.core.errors import ArchitectError, FormatError, NodeError
from architect.daemon.checkpoint import contents
from architect.daemon.metrics import Metrics
from architect.daemon.moves import objects, surplus
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.surplus import Saved, Standing
from architect.kube import checkpoints, conditions
from architect.kube.api import Api, JsonObject
from architect.kube.errors import Conflict, NotFound
from architect.kube.events import EventType, Note
from architect.kube.resources import CHECKPOINTS, ObjectRef

log = logging.getLogger(__name__)

TellObject = Callable[[ObjectRef, Note], None]

OVER_QUOTA: Final = "OverQuota"
IN_STORE: Final = "InStore"
EXPIRED: Final = "Expired"

_WHY: Final = {
    Standing.OVER: "nobody can have it any more",
    Standing.STORED: "it lies in the object store, too",
    Standing.TAKEN: "the node of the pod that claimed it has all of it",
    Standing.LATE: "a pod that is created from now on could not have it",
}


@dataclass(frozen=True, kw_only=True)
class _OnDisk:
    """What the disk says of a saved pod."""

    size: int
    created: float
    where: ObjectRef | None
    """Its Checkpoint; None: half of one, whose pod is about to leave."""


class Room:
    """Of one node. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        depot: Depot,
        metrics: Metrics,
        quota_bytes: int,
        is_there: Callable[[str], bool],
        tell: TellObject,
        clock: Callable[[], float] = time.time,
        boot: Callable[[], float] = clocks.boot_seconds,
    ) -> None:
        """Prepare. *quota_bytes* 0: as much as the disk has.

        *is_there* tells whether a pod that is saved here has not ended yet, as far as is known.
        """
        self._api = api
        self._node = node
        self._depot = depot
        self._metrics = metrics
        self._quota_bytes = quota_bytes
        self._is_there = is_there
        self._tell = tell
        self._clock = clock
        self._earliest = Earliest(wall=clock, boot=boot)
        self._lock = threading.Lock()
        self._known: dict[str, _OnDisk] = {}

    def keep(self) -> None:
        """Let go of what is too much; say how much there is. Raises OSError."""
        with self._lock:
            held = self._held()
            if self._quota_bytes:
                self._make(held, needed_bytes=0)
                held = self._held()
        self._metrics.saved_pods.set(len(held))
        self._metrics.saved_bytes.set(sum(one.size for one in held.values()))

    def check(self, uid: str) -> None:
        """Raise NodeError if pod *uid*, of whatever size, could not lie here. Raises OSError.

        Nothing goes for it yet: it may turn out to be too large all the same.
        """
        if self._quota_bytes:
            with self._lock:
                held = self._held()
                held.pop(uid, None)
                if not self._make(held, needed_bytes=1, is_trial=True):
                    raise self._no_room(held)

    @contextlib.contextmanager
    def admitting(self, uid: str, size: int) -> Iterator[None]:
        """Have room for pod *uid*, which lies on the disk, with its manifest, after the block.

        Raises NodeError if there is none, OSError.
        """
        if not self._quota_bytes:
            yield
            return
        with self._lock:
            held = self._held()
            held.pop(uid, None)  # what an attempt before has left
            if not self._make(held, needed_bytes=size):
                raise self._no_room(held)
            yield

    def _no_room(self, held: dict[str, _OnDisk]) -> NodeError:
        total = sum(one.size for one in held.values())
        return NodeError(
            f"{len(held)} saved pods of {_mib(total)} lie on node {self._node}, and this one would "
            f"be more than {_mib(self._quota_bytes)} together",
            reason=OVER_QUOTA,
            hint="they wait for their successors; the bound is daemon.migration.quota",
        )

    def told_expired(self, value: JsonObject, text: str) -> None:
        """Tell of a saved pod that goes because nobody has come for it in its time."""
        self.told_gone(EXPIRED)
        self._note(ObjectRef.of(CHECKPOINTS, value), text)

    def told_gone(self, reason: str) -> None:
        """Count a saved pod that goes though nobody has gone on with it."""
        self._metrics.saved_removed.labels(reason).inc()

    def _note(self, where: ObjectRef, text: str) -> None:
        note = Note(
            reason=names.EVENT_EXPIRED,
            text=f"removed: {text}",
            action="Expire",
            event_type=EventType.WARNING,
        )
        self._tell(where, note)

    def _held(self) -> dict[str, _OnDisk]:
        """Return all that is counted. One that this version cannot read counts nothing."""
        # The halves first: one that is given its name meanwhile is among the wholes then.
        halves = self._depot.half_departures()
        parts = {u: self._half(u) for u, has_manifest in halves.items() if has_manifest}
        wholes = self._depot.departures()
        known = {uid: found for uid in wholes if (found := self._whole(uid)) is not None}
        self._known = known
        return {**{uid: half for uid, half in parts.items() if half is not None}, **known}

    def _whole(self, uid: str) -> _OnDisk | None:
        if uid in self._known:
            return self._known[uid]  # it never changes
        directory = self._depot.departure(uid)
        if directory is None:
            return None
        try:
            manifest = contents.read(directory)
        except (FileNotFoundError, FormatError):
            return None
        return _OnDisk(
            size=manifest.total_bytes,
            created=manifest.about.created.timestamp(),
            where=objects.of_manifest(manifest),
        )

    def _half(self, uid: str) -> _OnDisk | None:
        try:
            manifest = contents.read(self._depot.half_departure(uid))
        except (FileNotFoundError, FormatError):
            return None  # it has become whole, or was given up, a moment ago
        return _OnDisk(size=manifest.total_bytes, created=self._clock(), where=None)

    def _make(self, held: dict[str, _OnDisk], *, needed_bytes: int, is_trial: bool = False) -> bool:
        """Let go of what makes room for so many bytes more; whether they fit then.

        *is_trial*: only say so.
        """
        total = sum(one.size for one in held.values())
        if total + needed_bytes <= self._quota_bytes:
            return True
        try:
            values = {
                uid: self._api.find(one.where) for uid, one in held.items() if one.where is not None
            }
        except ArchitectError as error:
            log.warning("who would miss a saved pod is not known: %s", error)
            return False
        fixed = sum(one.size for one in held.values() if one.where is None)
        found = surplus.surplus(
            (self._stands(uid, held[uid], value) for uid, value in values.items()),
            fixed_bytes=fixed,
            needed_bytes=needed_bytes,
            quota_bytes=self._quota_bytes,
        )
        if is_trial:
            return found.has_room
        for saved in found.gone:
            where = held[saved.uid].where
            assert where is not None
            text = (
                f"{len(held)} saved pods of {_mib(total)} lay on node {self._node}, of which "
                f"daemon.migration.quota lets it keep {_mib(self._quota_bytes)}; "
                f"{_WHY[saved.standing]}"
            )
            if self._let_go(saved, values[saved.uid], text):
                log.info("%s is let go: %s", where, text)
                total -= saved.size
        return total + needed_bytes <= self._quota_bytes

    def _stands(self, uid: str, one: _OnDisk, value: JsonObject | None) -> Saved:
        stands = surplus.standing(
            value,
            node=self._node,
            age_seconds=self._earliest() - one.created,
            is_unannounced=self._depot.unannounced(uid) is not None,
            is_there=self._is_there(uid),
        )
        return Saved(uid=uid, size=one.size, created=one.created, standing=stands)

    def _let_go(self, saved: Saved, value: JsonObject | None, text: str) -> bool:
        """Say that it goes, and remove it; whether it could be said."""
        if saved.standing is not Standing.OVER:
            assert value is not None  # else it would be over
            is_lost = not conditions.is_true(value, checkpoints.STORED)
            said = objects.over(OVER_QUOTA, text) if is_lost else objects.in_store_only(text)
            now = datetime.datetime.fromtimestamp(self._clock(), tz=datetime.UTC)
            try:
                checkpoints.set_status(self._api, value, *said, now=now)
            except (Conflict, NotFound):
                return False  # somebody has claimed or removed it since: looked at again later
            except ArchitectError as error:
                log.warning("pod %s stays, for its Checkpoint cannot say it: %s", saved.uid, error)
                return False
            self.told_gone(OVER_QUOTA if is_lost else IN_STORE)
            if is_lost:
                self._note(ObjectRef.of(CHECKPOINTS, value), text)
        self._depot.drop_departure(saved.uid)
        return True


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
