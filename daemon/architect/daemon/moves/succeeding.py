"""Pods that replace others: the checkpoint of the one before is waited for and claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from architect.daemon import claims
from architect.daemon.claims import Bounds, Claim, Fresh, Newcomer, Wait
from architect.daemon.moves import views
from architect.daemon.moves.reaching import Reaching
from architect.daemon.moves.waiting import until_decided
from architect.daemon.offers import Node
from architect.daemon.shared import SharedReads
from architect.kube import checkpoints, resources
from architect.kube.api import Api, JsonObject
from architect.kube.errors import Conflict

LOOK_SECONDS: Final = 0.1
"""Between two looks at the API while a pod waits for its predecessor."""


class Succeeding:
    """Of one node. Safe to use from several threads."""

    def __init__(self, api: Api, *, node: str, patience_seconds: float) -> None:
        self._api = api
        self._node = node
        self._bounds = Bounds(capture_seconds=patience_seconds)
        self._looks = SharedReads[tuple[list[JsonObject], list[JsonObject]]](
            apart_seconds=LOOK_SECONDS
        )
        self._reaching = Reaching()

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

        def look(waited: float) -> JsonObject | Fresh | Wait:
            beside, found = self._looks.read(family, lambda: self._look(family))
            if is_leaving() or views.is_leaving(pod, beside):
                return claims.LEAVING
            siblings = [s for p in beside if (s := claims.sibling_of(p)) is not None]
            living = {p["metadata"]["uid"] for p in beside if not views.goes(p)}
            decision = self._reaching.decide(
                newcomer.uid,
                newcomer.name,
                found,
                lambda seen: claims.decide(
                    newcomer,
                    node=node,
                    found=seen,
                    siblings=siblings,
                    living=living,
                    waited_seconds=waited,
                    bounds=self._bounds,
                ),
            )
            return self._claim(decision, pod, found) if isinstance(decision, Claim) else decision

        return until_decided(
            look,
            who=newcomer.name,
            look_seconds=LOOK_SECONDS,
            patience_seconds=self._bounds.capture_seconds,
        )

    def _look(self, family: views.Family) -> tuple[list[JsonObject], list[JsonObject]]:
        return family.pods(self._api), family.checkpoints(self._api)

    def _claim(self, decision: Claim, pod: JsonObject, found: Sequence[JsonObject]) -> JsonObject:
        """Write the claim into what was decided on, if it is still as it was read."""
        metadata = pod["metadata"]
        read = next(value for value in found if value["metadata"]["name"] == decision.name)
        ref = resources.pod(metadata["namespace"], metadata["name"], uid=metadata["uid"])
        with self._reaching.claiming(decision, superseded=Conflict):
            return checkpoints.claim(self._api, read, pod=ref, node=self._node)
