"""What the API says about a pod's owner and the pods beside it: reads, nothing decided."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

from architect.core.identity import Owner
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


def owner_object(api: Api, owner: Owner, *, namespace: str) -> JsonObject | None:
    """Return the owner as the API has it; None if it is gone, replaced, or of an unknown kind."""
    resource = OWNERS.get(owner.group_kind)
    if resource is None:
        return None
    try:
        found = api.get(resource, owner.name, namespace=namespace)
    except NotFound:
        return None
    return found if found["metadata"].get("uid") == owner.uid else None


def pods_beside(api: Api, pod: JsonObject, owner: Owner) -> list[JsonObject]:
    """Return all pods of *owner*, *pod* among them, in one consistent read."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    selecting = [f"{key}={labels[key]}" for key in _SELECTING if labels.get(key)]
    listed = api.list(PODS, namespace=metadata["namespace"], labels=",".join(selecting[:1]))
    return [other for other in listed.items if _controller_uid(other) == owner.uid]


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
    """Whether *pod* is gone or being deleted, by a later read of the pods *beside* it."""
    uid = pod["metadata"]["uid"]
    own = [other for other in beside if other["metadata"]["uid"] == uid]
    return not own or bool(own[0]["metadata"].get("deletionTimestamp"))


def _controller_uid(pod: dict[str, Any]) -> str:
    for reference in pod["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference.get("uid"))
    return ""
