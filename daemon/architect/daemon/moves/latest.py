"""Checkpoints as this daemon read or wrote them last: mostly nobody has written since.

A pod that moves has its Checkpoint written by the node that it leaves, and then by the one that it
comes to, some times each. A write under the version in hand needs no read, and where somebody else
has written it is refused, and done again on what is there now.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Mapping
from typing import Any, Final

from architect.daemon.moves import objects
from architect.daemon.pods import version_of
from architect.kube import checkpoints
from architect.kube.api import Api, JsonObject
from architect.kube.errors import Conflict, NotFound
from architect.kube.resources import CHECKPOINTS, ObjectRef

MAX_REMEMBERED: Final = 256
"""About 2 MB; kubelet's limit is 110 pods a node."""


class Latest:
    """Of one node. Safe to use from several threads."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._values: collections.OrderedDict[tuple[str | None, str], JsonObject] = (
            collections.OrderedDict()
        )

    def note(self, value: JsonObject) -> None:
        """Learn of a Checkpoint as it was read or written just now.

        Who wrote it first may be here last: what is known to be later stays.
        """
        with self._lock:
            key = _key(ObjectRef.of(CHECKPOINTS, value))
            if _is_later(self._values.get(key), than=value):
                return
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > MAX_REMEMBERED:
                self._values.popitem(last=False)

    def change(
        self,
        ref: ObjectRef,
        said: objects.Said,
        *,
        fields: Mapping[str, Any] | None = None,
        claimant: str | None = None,
    ) -> JsonObject | None:
        """Do as :func:`architect.daemon.moves.objects.change`, by a read only if that is needed."""
        with self._lock:
            # Not for two at once, and not again after a failure: who knows what was written.
            known = self._values.pop(_key(ref), None)
        if known is not None and claimant not in (None, checkpoints.claimant_of(known)):
            known = None
        written: JsonObject | None = None
        if known is not None:
            with contextlib.suppress(Conflict, NotFound):
                written = checkpoints.set_status(self._api, known, *said, fields=fields)
        if written is None or written is known:  # "nothing changes" is for a read to say
            written = objects.change(self._api, ref, said, fields=fields, claimant=claimant)
        if written is not None:
            self.note(written)
        return written


def _is_later(known: JsonObject | None, *, than: JsonObject) -> bool:
    """Whether *known* is of the same object, and of a later version."""
    if known is None or known["metadata"].get("uid") != than["metadata"].get("uid"):
        return False
    return 0 < version_of(than) < version_of(known)


def _key(ref: ObjectRef) -> tuple[str | None, str]:
    return ref.namespace, ref.name
