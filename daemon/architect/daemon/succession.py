"""Whether the memory of a pod that leaves is wanted: by its owner, its policy and its volumes.

:mod:`architect.daemon.owners` says whether somebody will come after the pod. Here is added what
its user wants, and what cannot move. Pure: pods are plain JSON, and one that is none raises
FormatError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from architect.api import names
from architect.api.policy import Migrate
from architect.core import podspec
from architect.core.podspec import Object
from architect.daemon import owners
from architect.daemon.owners import EXPECTED, Leaving, Succession
from architect.kube.checkpoints import Trigger

__all__ = [
    "EXPECTED",
    "Leaving",
    "Succession",
    "judge",
    "refused_by_policy",
    "refused_by_volumes",
    "trigger_of",
    "writable_volumes",
]

NODE_SHUTDOWN_REASONS: Final = frozenset({"NodeShutdown", "Shutdown", "Terminated"})
"""``status.reason`` by which kubelets of different ages tell of a node that shuts down."""

_BY_KUBELET: Final = "TerminationByKubelet"

_HARMLESS_VOLUMES: Final = frozenset(
    {"configMap", "downwardAPI", "emptyDir", "image", "projected", "secret"}
)
"""Made anew for each pod by kubelet, or part of what is captured (emptyDir)."""


def judge(leaving: Leaving, *, migrate: Migrate, trigger: Trigger | None = None) -> Succession:
    """Return whether the memory of the pod is to be saved for its successor.

    *trigger* is why the pod leaves if that is known from elsewhere than the pod (None:
    :func:`trigger_of`). Policy and volumes can be asked before the owner is read, with the other
    functions here; the order of the reasons is made for people: a pod that was scaled down is told
    so, not that its volume is in the way. Raises FormatError.
    """
    why = trigger_of(leaving.pod) if trigger is None else trigger
    refusal = refused_by_policy(leaving.pod, migrate, why)
    if refusal is not None:
        return refusal
    succession = owners.succession(leaving)
    if not succession.is_expected:
        return succession
    return refused_by_volumes(leaving.pod) or succession


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


def refused_by_volumes(pod: Object) -> Succession | None:
    """Return why the pod's volumes keep its memory from moving; None if they do not.

    Memory must not meet data that has changed since, or data that is not there at all.
    """
    found = [f"{name} ({kind})" for name, kind in writable_volumes(pod)]
    if not found:
        return None
    return _refused(
        "PersistentVolume",
        f"memory does not move without its data: writable volume {', '.join(found)}",
    )


def writable_volumes(pod: Object) -> tuple[tuple[str, str], ...]:
    """Return name and kind of each volume whose data the pod can change and that is not its own.

    Data outlives the pod (claims, network file systems), stays on the node (hostPath) or ends with
    the pod and is not captured (an ephemeral claim, an inline CSI volume): in each case the
    successor's memory would not fit what it finds. A kind that is not known counts among these. A
    volume is read-only if it says so itself or if every mount of it does, init containers included:
    they run again, and before the memory is back.
    """
    written = frozenset(_written_volumes(pod))
    return tuple(
        (name, kind)
        for name, kind, source in _volumes(pod)
        if kind not in _HARMLESS_VOLUMES and name in written and source.get("readOnly") is not True
    )


def _volumes(pod: Object) -> Iterator[tuple[str, str, Object]]:
    """Yield name, kind and source of each volume; an emptyDir may be written as none at all."""
    for volume in podspec.items(podspec.spec(pod).get("volumes"), "spec.volumes"):
        kinds = sorted(k for k, v in volume.items() if k != "name" and v is not None)
        kind = kinds[0] if kinds else "emptyDir"
        yield str(volume.get("name")), kind, podspec.fields(volume.get(kind), kind)


def _written_volumes(pod: Object) -> Iterator[str]:
    """Yield the names of volumes that a container of any kind may write."""
    spec = podspec.spec(pod)
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for container in podspec.items(spec.get(key), f"spec.{key}"):
            for mount in podspec.items(container.get("volumeMounts"), "volumeMounts"):
                if mount.get("readOnly") is not True:
                    yield str(mount.get("name"))
            for device in podspec.items(container.get("volumeDevices"), "volumeDevices"):
                yield str(device.get("name"))


def _refused(reason: str, message: str) -> Succession:
    return Succession(is_expected=False, reason=reason, message=message)
