"""What the API says about a pod's owner and the pods beside it: reads, nothing decided."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from architect.core.identity import Owner
from architect.daemon.pods import TERMINAL
from architect.kube import checkpoints
from architect.kube.api import Api, JsonObject
from architect.kube.errors import NotFound
from architect.kube.resources import (
    JOBS,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    STATEFUL_SETS,
    Resource,
)

OWNERS: Final[dict[tuple[str, str], Resource]] = {
    (r.group, r.kind): r for r in (REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS, JOBS)
}
"""Who replaces pods in a way that we follow."""

_SELECTING: Final = ("pod-template-hash", "controller-revision-hash", "controller-uid")
"""Labels that controllers give all pods of one template: they make a list short."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The pods of one owner, as far as one label tells them from others: a short list."""

    namespace: str
    owner: Owner
    labels: str
    """A selector; "": all pods of the namespace are looked through."""

    @classmethod
    def of(cls, pod: JsonObject, owner: Owner) -> Family:
        """Return the one that *pod* belongs to."""
        metadata = pod["metadata"]
        labels = metadata.get("labels") or {}
        selecting = [f"{key}={labels[key]}" for key in _SELECTING if labels.get(key)]
        return cls(namespace=metadata["namespace"], owner=owner, labels=",".join(selecting[:1]))

    def pods(self, api: Api) -> list[JsonObject]:
        """Return all of them, in one consistent read."""
        listed = api.list(PODS, namespace=self.namespace, labels=self.labels)
        return [pod for pod in listed.items if _controller_uid(pod) == self.owner.uid]

    def checkpoints(self, api: Api) -> list[JsonObject]:
        """Return what was saved for successors of these pods."""
        return checkpoints.of_owner(api, self.owner.uid, namespace=self.namespace)

    def owner_object(self, api: Api) -> JsonObject | None:
        """Return the owner as the API has it; None: gone, replaced, or of an unknown kind."""
        resource = OWNERS.get(self.owner.group_kind)
        if resource is None:
            return None
        try:
            found = api.get(resource, self.owner.name, namespace=self.namespace)
        except NotFound:
            return None
        return found if found["metadata"].get("uid") == self.owner.uid else None


def has_run(pod: JsonObject, *, containers: Collection[str]) -> bool:
    """Whether one of *containers* of the pod has run already, as far as the API has heard."""
    for found in (pod.get("status") or {}).get("containerStatuses") or ():
        if found.get("name") not in containers:
            continue
        state = found.get("state") or {}
        if found.get("restartCount") or found.get("lastState"):
            return True
        if "running" in state or "terminated" in state:
            return True
    return False


def is_leaving(pod: JsonObject, beside: Iterable[JsonObject]) -> bool:
    """Whether *pod* is gone, being deleted or over, by a later read of the pods *beside* it."""
    uid = pod["metadata"]["uid"]
    own = [other for other in beside if other["metadata"]["uid"] == uid]
    return not own or goes(own[0])


def goes(pod: JsonObject) -> bool:
    """Whether *pod* is being deleted, or over: it claims nothing any more.

    One whose node is lost may be either for long, and nobody there gives back what it claimed.
    """
    return bool(pod["metadata"].get("deletionTimestamp")) or is_over(pod)


def is_over(pod: JsonObject) -> bool:
    """Whether no container of *pod* will ever run again, as kubelet has told."""
    return (pod.get("status") or {}).get("phase") in TERMINAL


def _controller_uid(pod: dict[str, Any]) -> str:
    for reference in pod["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference.get("uid"))
    return ""
