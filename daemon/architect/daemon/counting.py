"""Asks the API server which autoscalers count the node's pods, seldom, and remembers the answer.

One list of all autoscalers, from the API server's memory, serves all pods of the node. A watch
would be told of each of their statuses, which change every 15 s: on every node, twice what the list
has in the same time. Owners are read only where an autoscaler of the pod's namespace divides by
requests, and once for all pods of one owner.

What is not known is no reason to wait, or to fail: requests stay as they are then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final

from architect.core import identity
from architect.core.errors import ArchitectError, Rejected
from architect.core.identity import Owner
from architect.daemon import autoscalers
from architect.daemon.autoscalers import NOBODY, Autoscaler, Chain, Counted, Link
from architect.daemon.metrics import Metrics
from architect.daemon.moves import views
from architect.daemon.pods import ManagedPod
from architect.kube.api import Api
from architect.kube.errors import NotFound
from architect.kube.resources import AUTOSCALERS

log = logging.getLogger(__name__)

LIST_SECONDS: Final = 30.0
"""Between two lists, whatever became of the first one. A new autoscaler looks at its pods 15 s
after it was made, and again every 15 s: it may make some more before their requests are back."""

TRUSTED_SECONDS: Final = 120.0
"""How long the last list is believed while there is no newer one."""

CHAIN_SECONDS: Final = 600.0
"""Who owns an owner hardly ever changes: it takes one to be orphaned, and adopted."""

MAX_LINKS: Final = 8
"""References that somebody has bent into a circle must end."""


class Counting:
    """By which requests of the node's pods is divided.

    The writer's thread asks, and any thread may ask for what it has heard.
    """

    def __init__(self, api: Api, *, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics
        self._lock = threading.Lock()
        self._autoscalers: Mapping[str, tuple[Autoscaler, ...]] | None = None
        self._problem = ""
        """Why the last list failed; "": it did not."""
        self._asked_at = -LIST_SECONDS
        self._listed_at = 0.0
        self._looked_at = -LIST_SECONDS
        self._chains: dict[str, tuple[float, Chain | str]] = {}
        """Owner's uid → until when that holds, and the chain or why it could not be read."""
        self._counted: dict[str, Counted] = {}

    def of(self, pod: ManagedPod) -> Counted:
        """Return by which requests of *pod* is divided, as far as that can be told."""
        found = NOBODY if pod.owner is None else self._ask(pod)
        with self._lock:
            self._counted[pod.uid] = found
        return found

    def known(self, uid: str) -> Counted:
        """Return what was told of a pod last, without a request."""
        with self._lock:
            return self._counted.get(uid, NOBODY)

    def changed(self, pods: Iterable[ManagedPod]) -> list[str]:
        """Return the uids of those of *pods* of which something else is told now.

        Repeated before another list is due it asks nothing, and returns nothing. Whoever is not
        among *pods* is forgotten.
        """
        now = time.monotonic()
        if now - self._looked_at < LIST_SECONDS:
            return []
        self._looked_at = now
        asked = list(pods)
        before = {pod.uid: self.known(pod.uid) for pod in asked}
        found = [pod.uid for pod in asked if self.of(pod) != before[pod.uid]]
        owners = {pod.owner["uid"] for pod in asked if pod.owner is not None}
        self._chains = {uid: kept for uid, kept in self._chains.items() if uid in owners}
        with self._lock:
            self._counted = {uid: self._counted[uid] for uid in before}
            counted = list(self._counted.values())
        self._metrics.kept_requests.labels("Autoscaler").set(sum(bool(c.by) for c in counted))
        self._metrics.kept_requests.labels("Unknown").set(sum(bool(c.unknown) for c in counted))
        return found

    def _ask(self, pod: ManagedPod) -> Counted:
        now = time.monotonic()
        if now - self._asked_at >= LIST_SECONDS:
            self._asked_at = now
            self._list()
        if self._problem and now - self._listed_at > TRUSTED_SECONDS:
            self._autoscalers = None
        if self._autoscalers is None:
            return Counted(unknown=self._problem)
        of_namespace = self._autoscalers.get(pod.namespace)
        if not of_namespace:
            return NOBODY
        chain = self._chain(pod)
        return (
            autoscalers.counted(chain, of_namespace)
            if isinstance(chain, Chain)
            else Counted(unknown=chain)
        )

    def _list(self) -> None:
        try:
            listed = self._api.list(AUTOSCALERS, is_cached=True).items
        except NotFound:
            listed = ()  # an API server without the kind: nobody scales by it
        except ArchitectError as error:
            self._failed(error, was_failing=bool(self._problem))
            self._problem = error.message
            return
        if self._problem:
            log.info("autoscalers are listed again")
        self._autoscalers, self._problem = autoscalers.read_all(listed), ""
        self._listed_at = time.monotonic()

    def _chain(self, pod: ManagedPod) -> Chain | str:
        assert pod.owner is not None  # of() has looked
        uid, now = pod.owner["uid"], time.monotonic()
        until, known = self._chains.get(uid, (0.0, ""))
        if now < until:
            return known
        try:
            found: Chain | str = self._read_chain(pod.namespace, pod.owner)
            until = now + CHAIN_SECONDS
        except ArchitectError as error:
            self._failed(error, was_failing=isinstance(known, str) and bool(known))
            found, until = error.message, now + LIST_SECONDS
        self._chains[uid] = (until, found)
        return found

    def _read_chain(self, namespace: str, controller: Mapping[str, str]) -> Chain:
        """Follow the controllers as far as the daemon may read them. Raises ArchitectError."""
        owner: Owner | None = Owner(
            api_version=controller["apiVersion"],
            kind=controller["kind"],
            name=controller["name"],
            uid=controller["uid"],
        )
        links: list[Link] = []
        while owner is not None and len(links) < MAX_LINKS:
            links.append(Link(*owner.group_kind, owner.name))
            if owner.group_kind not in views.OWNERS:
                return Chain(links=tuple(links), is_whole=False)
            family = views.Family(namespace=namespace, owner=owner, labels="")
            found = family.owner_object(self._api)
            owner = None if found is None else identity.owner_of(found)
        return Chain(links=tuple(links), is_whole=owner is None)

    def _failed(self, error: ArchitectError, *, was_failing: bool) -> None:
        """Count a failure, and log the first in a row: it is repeated every half minute."""
        reason = error.reason if isinstance(error, Rejected) else type(error).__name__
        self._metrics.api_errors.labels(reason).inc()
        level = logging.DEBUG if was_failing else logging.WARNING
        log.log(level, "whether an autoscaler counts the pods is not known: %s", error)
