"""Whether the memory of a pod that leaves is wanted: by its owner, its policy and its volumes.

:mod:`architect.daemon.owners` says whether somebody will come after the pod. Here is added what
its user wants, and what cannot move. Pure: pods are plain JSON, and one that is none raises
FormatError.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from architect.api import names
from architect.api.policy import Migrate
from architect.core import podspec, volumes
from architect.core.podspec import Object
from architect.daemon import owners
from architect.daemon.owners import EXPECTED, Leaving, Succession
from architect.kube.checkpoints import Trigger

__all__ = [
    "EXPECTED",
    "Leaving",
    "Succession",
    "judge",
    "refused_by_claims",
    "refused_by_policy",
    "refused_by_volumes",
    "shut_down",
    "trigger_of",
]

NODE_SHUTDOWN_REASONS: Final = frozenset({"NodeShutdown", "Shutdown", "Terminated"})
"""``status.reason`` by which kubelets of different ages tell of a node that shuts down."""

ONE_AT_A_TIME: Final = frozenset({"ReadWriteOnce", "ReadWriteOncePod"})
"""Access modes of a claim whose volume is on one node at a time."""

_BY_KUBELET: Final = "TerminationByKubelet"


def judge(
    leaving: Leaving,
    *,
    managed: Collection[str],
    migrate: Migrate,
    trigger: Trigger | None = None,
) -> Succession:
    """Return whether the memory of the pod is to be saved for its successor.

    *managed* are the containers whose memory is saved. *trigger* is why the pod leaves if that is
    known from elsewhere than the pod (None: :func:`trigger_of`). Policy and volumes can be asked
    before the owner is read, with the other functions here; the order of the reasons is made for
    people: a pod that was scaled down is told so, not that its volume is in the way. Raises
    FormatError.
    """
    why = trigger_of(leaving.pod) if trigger is None else trigger
    refusal = refused_by_policy(leaving.pod, migrate, why)
    if refusal is not None:
        return refusal
    succession = owners.succession(leaving)
    if not succession.is_expected:
        return succession
    return refused_by_volumes(leaving.pod, managed) or succession


def trigger_of(pod: Object) -> Trigger:
    """Return why a pod that leaves does so, as far as the pod tells.

    A DisruptionTarget condition is set before the deletion by whoever disrupts the pod: eviction,
    preemption, taints, garbage collection, device taints. Kubelet alone sets its own only once all
    containers have ended, so that a node's shutdown must be learnt elsewhere to be of use.
    """
    status = podspec.fields(pod.get("status"), "status")
    condition = owners.true_condition(status, owners.DISRUPTION)
    is_kubelets = condition is None or condition.get("reason") == _BY_KUBELET
    if is_kubelets and status.get("reason") in NODE_SHUTDOWN_REASONS:
        return Trigger.NODE_SHUTDOWN
    return Trigger.DELETION if condition is None else Trigger.EVICTION


def shut_down(pod: Object) -> dict[str, Any]:
    """Return a pod that runs as kubelet leaves it when its node shuts down: disrupted.

    Owners judge it by that (``podFailurePolicy``), and kubelet writes it once all is over.
    """
    status = podspec.fields(pod.get("status"), "status")
    others = [
        condition
        for condition in podspec.items(status.get("conditions"), "status.conditions")
        if condition.get("type") != owners.DISRUPTION
    ]
    disrupted = {"type": owners.DISRUPTION, "status": "True", "reason": _BY_KUBELET}
    return {**pod, "status": {**status, "conditions": [*others, disrupted]}}


def refused_by_policy(pod: Object, migrate: Migrate, trigger: Trigger) -> Succession | None:
    """Return why its user does not want this pod to go on elsewhere; None if they do."""
    if migrate is Migrate.NEVER:
        return _refused("MigrationOff", f"{names.MIGRATE} is {migrate.value}")
    if podspec.labels_of(pod).get(names.FRESH) == "true":
        return _refused("Fresh", f"label {names.FRESH}=true asks for a fresh start")
    if migrate is Migrate.EVICTION and trigger is Trigger.DELETION:
        return _refused(
            "DeletedOnPurpose",
            f"it was deleted, and {names.MIGRATE} is {migrate.value}: start anew",
        )
    return None


def refused_by_volumes(pod: Object, managed: Collection[str]) -> Succession | None:
    """Return why the pod's volumes keep its memory from moving; None if they do not.

    Memory must not meet data that has changed since, or data that is not there at all. What claims
    allow is not in the pod: :func:`refused_by_claims`.
    """
    found = volumes.staying(pod, managed)
    if not found:
        return None
    return _refused(
        volumes.PERSISTENT_VOLUME,
        f"memory does not move without its data: writable volume {found}",
    )


def refused_by_claims(claims: Mapping[str, Object | None]) -> Succession | None:
    """Return which claim, by name, keeps the pod's memory from moving; None if none does.

    A volume that several nodes may mount at once can be written by others between two pods.
    """
    for name, claim in sorted(claims.items()):
        spec = podspec.fields((claim or {}).get("spec"), "spec")
        modes = {str(mode) for mode in spec.get("accessModes") or ()}
        if claim is None:
            why = "is gone"
        elif not modes or modes - ONE_AT_A_TIME:
            why = f"may be written by others meanwhile: {', '.join(sorted(modes)) or 'no mode'}"
        else:
            continue
        return _refused(
            volumes.PERSISTENT_VOLUME, f"memory does not move without its data: claim {name} {why}"
        )
    return None


def _refused(reason: str, message: str) -> Succession:
    return Succession(is_expected=False, reason=reason, message=message)
