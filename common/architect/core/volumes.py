"""Which volumes of a pod keep its memory from being used anywhere else, and which go along.

Memory must not meet data that has changed since, or data that is not there at all. Pure: pods are
plain JSON (:mod:`architect.core.podspec`), and one that is none raises FormatError.

A claim of one pod at a time is released by the pod that leaves and mounted by the one that comes:
such a volume goes along, if only containers write it whose memory goes along, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from architect.core import podspec
from architect.core.podspec import Object

PERSISTENT_VOLUME: Final = "PersistentVolume"
"""The reason by which such a pod is refused, everywhere."""

CLAIM: Final = "persistentVolumeClaim"
FS_GROUP_POLICY: Final = "fsGroupChangePolicy"
ON_ROOT_MISMATCH: Final = "OnRootMismatch"

_HARMLESS: Final = frozenset(
    {"configMap", "downwardAPI", "emptyDir", "image", "projected", "secret"}
)
"""Made anew for each pod by kubelet, or part of what is captured (emptyDir)."""


def writable(pod: Object) -> tuple[tuple[str, str], ...]:
    """Return name and kind of each volume whose data the pod can change and that is not its own.

    Data outlives the pod (claims, network file systems), stays on the node (hostPath) or ends with
    the pod and is not captured (an ephemeral claim, an inline CSI volume): in each case the memory
    would not fit what another pod finds. A kind that is not known counts among these. A volume is
    read-only if it says so itself or if every mount of it does, init containers included: they run
    again, and before the memory is back.
    """
    written = frozenset(_written(pod))
    return tuple(
        (name, kind)
        for name, kind, source in _volumes(pod)
        if kind not in _HARMLESS and name in written and source.get("readOnly") is not True
    )


def named(pod: Object) -> str:
    """Return the same for people: ``data (hostPath), …``; empty if there is none."""
    return ", ".join(f"{name} ({kind})" for name, kind in writable(pod))


@dataclass(frozen=True, kw_only=True, order=True)
class Mount:
    """One mount of a volume that goes along with its pod."""

    volume: str
    claim: str
    sub_path: str
    """Directory of the volume that is mounted; empty: all of it."""
    container: str
    path: str
    """In the container."""


def travelling(pod: Object, managed: Collection[str]) -> tuple[Mount, ...]:
    """Return where *managed* containers mount the claims that they can write, sorted.

    Ask :func:`staying` first: of a pod that moves, these volumes go along.
    """
    claims = {
        name: str(source.get("claimName"))
        for name, kind, source in _volumes(pod)
        if kind == CLAIM and name in {n for n, _ in writable(pod)}
    }
    return tuple(
        sorted(
            Mount(
                volume=str(mount["name"]),
                claim=claims[str(mount["name"])],
                sub_path=str(mount.get("subPath") or mount.get("subPathExpr") or ""),
                container=name,
                path=str(mount.get("mountPath")),
            )
            for name, container in podspec.containers(pod)
            for mount in podspec.items(container.get("volumeMounts"), "volumeMounts")
            if name in managed and mount.get("name") in claims
        )
    )


def staying(pod: Object, managed: Collection[str]) -> str:
    """Return the volumes that keep the pod's memory where it is, and why; empty if none does."""
    return ", ".join(
        f"{name} ({why})"
        for name, kind in writable(pod)
        if (why := _why_it_stays(pod, name, kind, managed))
    )


def _why_it_stays(pod: Object, name: str, kind: str, managed: Collection[str]) -> str:
    if kind != CLAIM:
        return kind
    spec = podspec.spec(pod)
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for container in podspec.items(spec.get(key), f"spec.{key}"):
            who = str(container.get("name"))
            devices = podspec.items(container.get("volumeDevices"), "volumeDevices")
            if any(device.get("name") == name for device in devices):
                return f"a device of container {who}"
            is_ours = key == "containers" and who in managed
            if name in _written_by(container) and not is_ours:
                return f"container {who}, which is not managed, writes it too"
    # Each is looked at before the first container that has it goes on. Of one that containers have
    # in different parts, some would be looked at after another container has written.
    mounts = travelling(pod, managed)
    claims = {mount.claim for mount in mounts if mount.volume == name}
    same = [mount for mount in mounts if mount.claim in claims]
    is_shared = len({mount.container for mount in same}) > 1
    if is_shared and len({(mount.volume, mount.sub_path) for mount in same}) > 1:
        return "several containers have different parts of it"
    security = podspec.fields(spec.get("securityContext"), "spec.securityContext")
    if security.get("fsGroup") is not None and security.get(FS_GROUP_POLICY) != ON_ROOT_MISMATCH:
        return f"fsGroup changes all files, unless {FS_GROUP_POLICY} is {ON_ROOT_MISMATCH}"
    return ""


def _volumes(pod: Object) -> Iterator[tuple[str, str, Object]]:
    """Yield name, kind and source of each volume; an emptyDir may be written as none at all."""
    for volume in podspec.items(podspec.spec(pod).get("volumes"), "spec.volumes"):
        kinds = sorted(k for k, v in volume.items() if k != "name" and v is not None)
        kind = kinds[0] if kinds else "emptyDir"
        yield str(volume.get("name")), kind, podspec.fields(volume.get(kind), kind)


def _written(pod: Object) -> Iterator[str]:
    """Yield the names of volumes that a container of any kind may write."""
    spec = podspec.spec(pod)
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for container in podspec.items(spec.get(key), f"spec.{key}"):
            yield from _written_by(container)


def _written_by(container: Object) -> Iterator[str]:
    for mount in podspec.items(container.get("volumeMounts"), "volumeMounts"):
        if mount.get("readOnly") is not True:
            yield str(mount.get("name"))
    for device in podspec.items(container.get("volumeDevices"), "volumeDevices"):
        yield str(device.get("name"))
