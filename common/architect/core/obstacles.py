"""Why a pod cannot be managed: what CRIU cannot dump, and what is not the pod's own.

Seen in the pod's spec, so that its owner learns it at admission rather than at the first failed
dump. Such a pod is created all the same and runs as without Architect.

CRIU has no part in a pod of gVisor: there only that is in the way which is not in its sandbox.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from architect.api import names
from architect.core import capabilities, podspec
from architect.core.podspec import Object

GPU_RESOURCES: Final = ("nvidia.com/", "amd.com/", "gpu.intel.com/", "habana.ai/")
"""Prefixes of extended resources whose devices hold state that CRIU does not see."""


class Obstacle(NamedTuple):
    """One reason why a pod is not managed."""

    reason: str
    """A stable CamelCase word for events, conditions and metrics."""
    text: str


def why_unmanageable(
    pod: Object,
    *,
    containers: Collection[str] | None = None,
    runtime_class: str | None = None,
    has_gvisor: bool = True,
) -> list[Obstacle]:
    """Return everything that keeps *pod* from being managed; nothing if it can be.

    *containers* are the managed ones (None: all app containers), *runtime_class* is the one that
    the pod would get (None: either of ours), *has_gvisor*: this cluster has the class of gVisor.
    Raises FormatError if it is not a pod.
    """
    found = [*_of_runtime_class(pod, runtime_class, has_gvisor=has_gvisor)]
    is_gvisor = names.RUNTIME_CLASS_GVISOR in (podspec.runtime_class(pod), runtime_class)
    found += _of_sandbox(pod)
    if not is_gvisor:
        found += _of_processes(pod)
    host_paths = _host_paths(pod)
    for name, container in podspec.containers(pod):
        if containers is None or name in containers:
            found += _of_devices(name, container, host_paths)
            if not is_gvisor:
                found += _of_container(name, container)
    return found


def _of_sandbox(pod: Object) -> Iterator[Obstacle]:
    """Yield what the pod shares with its node, or is no part of it."""
    spec = podspec.spec(pod)
    if spec.get("hostNetwork"):
        yield Obstacle(
            "HostNetwork", "hostNetwork: the pod's network is the node's, no packet can be held"
        )
    if spec.get("hostPID"):
        yield Obstacle("HostPID", "hostPID: the container has no process tree of its own")
    if spec.get("hostIPC"):
        yield Obstacle("HostIPC", "hostIPC: shared memory of the node cannot be moved or restored")
    operating_system = podspec.fields(spec.get("os"), "spec.os").get("name")
    if operating_system == "windows":
        yield Obstacle("Windows", "os windows: only Linux containers can be checkpointed")
    if spec.get("resourceClaims"):
        yield Obstacle("Device", "resourceClaims: a device's state is not in a checkpoint")
    if "kubernetes.io/config.mirror" in podspec.annotations_of(pod):
        yield Obstacle("StaticPod", "static pod: kubelet runs it from a file that we cannot change")


def _of_processes(pod: Object) -> Iterator[Obstacle]:
    spec = podspec.spec(pod)
    if spec.get("shareProcessNamespace"):
        yield Obstacle(
            "ShareProcessNamespace",
            "shareProcessNamespace: containers that share process ids cannot be restored alone",
        )
    if spec.get("hostUsers") is False:
        yield Obstacle(
            "UserNamespace", "hostUsers: false: processes of a user namespace cannot be restored"
        )


def _of_runtime_class(pod: Object, wanted: str | None, *, has_gvisor: bool) -> Iterator[Obstacle]:
    present = podspec.runtime_class(pod)
    if names.RUNTIME_CLASS_GVISOR in (present, wanted) and not has_gvisor:
        # A pod of a class that is not there is not even created.
        yield Obstacle(
            "NoGvisor",
            f"runtime class {names.RUNTIME_CLASS_GVISOR}: gVisor is not enabled in this cluster "
            "(the chart's gvisor.enabled)",
        )
    allowed = (names.RUNTIME_CLASS, names.RUNTIME_CLASS_GVISOR) if wanted is None else (wanted,)
    if present is not None and present not in allowed:
        yield Obstacle(
            "RuntimeClass",
            f"runtimeClassName {present:.63}: the pod runs under another runtime than "
            f"{' or '.join(allowed)}",
        )


def _of_container(name: str, container: Object) -> Iterator[Obstacle]:
    """Yield what of a container CRIU cannot save, or cannot work beside."""
    if container.get("tty"):
        yield Obstacle("Tty", f"container {name} has a tty: terminals cannot be checkpointed")
    security = podspec.fields(container.get("securityContext"), "securityContext")
    if security.get("privileged"):
        # CRIU runs as root among the container's files and mounts, which this one may change.
        yield Obstacle(
            "Privileged",
            f"container {name} is privileged: it may hold devices and mounts of the node",
        )
    asked = podspec.fields(security.get("capabilities"), "capabilities")
    added = podspec.words(asked.get("add"), "capabilities.add")
    if not security.get("privileged") and (refused := capabilities.refused(added)):
        yield Obstacle(
            "Capability",
            f"container {name} has a capability that reaches CRIU at its work: "
            f"{capabilities.explained(refused)}",
        )
    if security.get("procMount") not in (None, "", "Default"):
        yield Obstacle("ProcMount", f"container {name} has procMount {security['procMount']!s:.40}")
    for mount in podspec.items(container.get("volumeMounts"), "volumeMounts"):
        target = mount.get("mountPath")
        if isinstance(target, str) and target.rstrip("/") == "/dev":
            yield Obstacle("DevMount", f"container {name} mounts a volume over /dev")
        if isinstance(target, str) and target.rstrip("/") == "/proc":
            yield Obstacle(
                "ProcMount",
                f"container {name} mounts a volume over /proc, from where CRIU has its facts",
            )
        if mount.get("mountPropagation") == "Bidirectional":
            yield Obstacle(
                "MountPropagation", f"container {name} has mountPropagation Bidirectional"
            )
    for resource in sorted(_resources(container)):
        if resource.startswith("hugepages-"):
            yield Obstacle("HugePages", f"container {name} has {resource:.80}")


def _of_devices(name: str, container: Object, host_paths: dict[str, str]) -> Iterator[Obstacle]:
    """Yield devices: their state is nowhere but in them."""
    for mount in podspec.items(container.get("volumeMounts"), "volumeMounts"):
        volume = mount.get("name")
        host_path = host_paths.get(volume) if isinstance(volume, str) else None
        if host_path is not None and _is_device_path(host_path):
            yield Obstacle(
                "HostDevice",
                f"container {name} mounts {host_path:.80} of the node, whose devices cannot be "
                "checkpointed",
            )
    if container.get("volumeDevices"):
        yield Obstacle("Device", f"container {name} has a block device (volumeDevices)")
    for resource in sorted(_resources(container)):
        if resource.startswith(GPU_RESOURCES):
            yield Obstacle(
                "Gpu", f"container {name} has {resource:.80}: a GPU's memory is not in a checkpoint"
            )


def _is_device_path(path: str) -> bool:
    clean = "/" + path.strip("/")
    return clean in ("/", "/dev") or clean.startswith("/dev/")


def _host_paths(pod: Object) -> dict[str, str]:
    """Return volume name → path on the node."""
    found = {}
    for volume in podspec.items(podspec.spec(pod).get("volumes"), "spec.volumes"):
        path = podspec.fields(volume.get("hostPath"), "hostPath").get("path")
        name: Any = volume.get("name")
        if isinstance(path, str) and isinstance(name, str):
            found[name] = path
    return found


def _resources(container: Object) -> set[str]:
    resources = podspec.fields(container.get("resources"), "resources")
    return {
        name
        for key in ("limits", "requests")
        for name in podspec.fields(resources.get(key), f"resources.{key}")
    }
