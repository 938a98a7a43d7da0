"""Whether somebody will go on with the memory of a pod that leaves: its owner and claims asked."""

from __future__ import annotations

import time
from typing import Final

from architect.core import volumes
from architect.core.identity import Identity
from architect.daemon import succession
from architect.daemon.moves.views import Family
from architect.daemon.pods import ManagedPod
from architect.daemon.shared import SharedReads
from architect.daemon.succession import Leaving, Succession
from architect.kube.api import Api, JsonObject
from architect.kube.checkpoints import Trigger
from architect.kube.resources import PERSISTENT_VOLUME_CLAIMS, ObjectRef

SETTLE_SECONDS: Final = 2.0
SETTLE_STEP_SECONDS: Final = 0.1
"""Controllers update their status within a second."""


class Judging:
    """Of one node. Safe to use from several threads, whose reads it shares."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._looks = SharedReads[tuple[JsonObject | None, list[JsonObject]]](
            apart_seconds=SETTLE_STEP_SECONDS
        )

    def judge(
        self, value: JsonObject, pod: ManagedPod, who: Identity | None, trigger: Trigger
    ) -> Succession:
        """Ask whether a successor will come that finds the pod's data. Raises ArchitectError."""
        found = self._judge_owner(value, pod, who, trigger)
        claims = {mount.claim for mount in volumes.travelling(value, pod.managed)}
        if not found.is_expected or not claims:
            return found
        places = {
            name: ObjectRef(resource=PERSISTENT_VOLUME_CLAIMS, namespace=pod.namespace, name=name)
            for name in claims
        }
        read = {name: self._api.find(place) for name, place in places.items()}
        return succession.refused_by_claims(read) or found

    def _judge_owner(
        self, value: JsonObject, pod: ManagedPod, who: Identity | None, trigger: Trigger
    ) -> Succession:
        """Ask whether a successor will come, again while the owner's status is being updated."""
        family = None if who is None else Family.of(value, who.owner)
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            owner, pods = None, list[JsonObject]()
            if family is not None:
                owner, pods = self._looks.read(family, lambda: self._look(family))
            leaving = Leaving(pod=value, owner=owner, pods=pods)
            found = succession.judge(
                leaving, managed=pod.managed, migrate=pod.policy.migrate, trigger=trigger
            )
            if found.is_settled or time.monotonic() > deadline:
                return found
            time.sleep(SETTLE_STEP_SECONDS)

    def _look(self, family: Family) -> tuple[JsonObject | None, list[JsonObject]]:
        return family.owner_object(self._api), family.pods(self._api)
