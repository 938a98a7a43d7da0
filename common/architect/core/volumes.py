"""Which volumes of a pod keep its memory from being used anywhere else.

Memory must not meet data that has changed since, or data that is not there at all. Pure: pods are
plain JSON (:mod:`architect.core.podspec`), and one that is none raises FormatError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from architect.core import podspec
from architect.core.podspec import Object

PERSISTENT_VOLUME: Final = "PersistentVolume"
"""The reason by which such a pod is refused, everywhere."""

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
            for mount in podspec.items(container.get("volumeMounts"), "volumeMounts"):
                if mount.get("readOnly") is not True:
                    yield str(mount.get("name"))
            for device in podspec.items(container.get("volumeDevices"), "volumeDevices"):
                yield str(device.get("name"))
