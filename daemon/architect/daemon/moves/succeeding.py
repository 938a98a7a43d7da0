"""Pods that replace others: the checkpoint of the one before is waited for and claimed."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final

from architect.core.errors import Retryable
from architect.daemon import claims
from architect.daemon.claims import Bounds, Claim, Fresh, Newcomer
from architect.daemon.moves import views
from architect.daemon.offers import Node
from architect.daemon.shared import SharedReads
from architect.kube import checkpoints, resources
from architect.kube.api import Api, JsonObject
from architect.kube.errors import Conflict
from architect.kube.resources import CHECKPOINTS

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.1
"""Between two looks at the API while a pod waits for its predecessor."""
LOOKS_PER_WAIT: Final = 20
"""Who has waited long looks less often: nothing is lost by a twentieth of that."""
API_SECONDS: Final = 0.5


class Succeeding:
    """Of one node. Safe to use from several threads."""

    def __init__(self, api: Api, *, node: str, patience_seconds: float) -> None:
        self._api = api
        self._node = node
        self._bounds = Bounds(capture_seconds=patience_seconds)
        self._looks = SharedReads[tuple[list[JsonObject], list[JsonObject]]](
            apart_seconds=LOOK_SECONDS
        )

    def claim(
        self,
        pod: JsonObject,
        newcomer: Newcomer,
        *,
        node: Node,
        is_leaving: Callable[[], bool],
    ) -> JsonObject | Fresh:
        """Return the claimed checkpoint of the pod that *pod* replaces, or why there is none.

        *newcomer* is one of which :func:`architect.daemon.claims.never` says nothing. Raises
        ArchitectError.
        """
        assert newcomer.identity is not None  # claims.never() would have spoken
        family = views.Family.of(pod, newcomer.identity.owner)
        started, told = time.monotonic(), ""
        while True:
            waited = time.monotonic() - started
            try:
                beside, found = self._looks.read(family, lambda: self._look(family))
                if is_leaving() or views.is_leaving(pod, beside):
                    return Fresh(reason="Leaving", message="the pod is being deleted")
                decision = claims.decide(
                    newcomer,
                    node=node,
                    found=found,
                    siblings=[s for p in beside if (s := claims.sibling_of(p)) is not None],
                    living={other["metadata"]["uid"] for other in beside},
                    waited_seconds=waited,
                    bounds=self._bounds,
                )
                if isinstance(decision, Fresh):
                    return decision
                if isinstance(decision, Claim):
                    return self._claim(decision, pod)
            except Conflict:
                # Somebody was faster: look what is left, and not all at the same moment.
                time.sleep(random.uniform(0, LOOK_SECONDS))
                continue
            except Retryable as error:
                if waited > self._bounds.capture_seconds:
                    raise
                log.warning("%s waits for the API: %s", newcomer.name, error)
                time.sleep(API_SECONDS)
                continue
            if decision.for_what != told:
                told = decision.for_what
                log.info("%s waits for %s", newcomer.name, told)
            time.sleep(min(max(LOOK_SECONDS, waited / LOOKS_PER_WAIT), decision.seconds))

    def _look(self, family: views.Family) -> tuple[list[JsonObject], list[JsonObject]]:
        return family.pods(self._api), family.checkpoints(self._api)

    def _claim(self, decision: Claim, pod: JsonObject) -> JsonObject:
        metadata = pod["metadata"]
        found = self._api.get(CHECKPOINTS, decision.name, namespace=metadata["namespace"])
        if found["metadata"]["resourceVersion"] != decision.resource_version:
            raise Conflict(f"checkpoint {decision.name} was changed")
        ref = resources.pod(metadata["namespace"], metadata["name"], uid=metadata["uid"])
        return checkpoints.claim(self._api, found, pod=ref, node=self._node)
