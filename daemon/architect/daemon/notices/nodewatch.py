"""Follows this node's own object for the marks that others put on it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from architect.core.errors import ArchitectError, Rejected
from architect.kube.api import Api
from architect.kube.resources import NODES
from architect.kube.watch import Backoff, ChangeKind, Snapshot, Watcher

log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS: Final = 5.0
RETRY_MAX_SECONDS: Final = 300.0


class NodeWatch:
    """One node's object; :meth:`run` belongs to one thread."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        seen: Callable[[Mapping[str, Any]], None],
        failed: Callable[[ArchitectError], None],
    ) -> None:
        """*seen* is told of the object whenever it has changed; of its deletion nobody is.

        A node that is deleted while its machine runs announces nothing, and takes nothing back.
        """
        self._api = api
        self._node = node
        self._seen = seen
        self._failed = failed
        self._stop = threading.Event()
        self._watcher = self._make()

    def run(self) -> None:
        """Follow it until :meth:`close`."""
        backoff = Backoff(first_seconds=RETRY_FIRST_SECONDS, max_seconds=RETRY_MAX_SECONDS)
        while not self._stop.is_set():
            try:
                for item in self._watcher:
                    backoff.reset()
                    if isinstance(item, Snapshot):
                        for value in item.objects:
                            self._seen(value)
                    elif item.kind is not ChangeKind.DELETED:
                        self._seen(item.object)
            except Rejected as error:
                # No permission, as with a role of before there was this.
                self._failed(error)
                self._stop.wait(backoff.next())
                self._watcher = self._make()

    def close(self) -> None:
        """Have :meth:`run` end."""
        self._stop.set()
        self._watcher.stop()

    def _make(self) -> Watcher:
        return Watcher(self._api, NODES, fields=f"metadata.name={self._node}")
