"""What a pod must look like to be managed, and what stands in its way.

One rule with two users: the webhook makes an admitted pod look like :func:`expected_pod`, and the
operator asks :func:`check_admitted` about pods that run, because a webhook with failurePolicy
Ignore may not have been there when they were created. Pure: pods are plain JSON values
(:mod:`architect.core.podspec`), and nothing given is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from architect.api.policy import Policy, PolicyError
from architect.core import annotations as annotation_reading
from architect.core import podspec
from architect.core.annotation_values import AnnotationErrors, Reading
from architect.core.obstacles import Obstacle, why_unmanageable
from architect.core.podspec import Object

__all__ = [
    "Drifted",
    "Fine",
    "Judgement",
    "Obstacle",
    "Unmanaged",
    "check_admitted",
    "expected_pod",
    "judge",
    "why_unmanageable",
]

NOT_ADMITTED: Final = "NotAdmitted"
INVALID_ANNOTATIONS: Final = "InvalidAnnotations"

_HANDLERS: Final = ("httpGet", "tcpSocket", "grpc")
_STATES: Final = (names.STATUS_RUNNING, names.STATUS_SCALED_DOWN)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What Architect does with a pod, decided from the pod alone."""

    reading: Reading
    obstacles: tuple[Obstacle, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def policy(self) -> Policy | None:
        """The policy that holds: None if the pod is not opted in or cannot be managed."""
        return None if self.obstacles else self.reading.policy


@dataclass(frozen=True, kw_only=True)
class Unmanaged:
    """The pod's owner wants it managed, and it is not."""

    obstacles: tuple[Obstacle, ...]


@dataclass(frozen=True, kw_only=True)
class Drifted:
    """The pod is managed, or claims to be, by another policy than its annotations ask for."""

    differences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Fine:
    """The pod is as it must be; without a policy it is none of our business."""

    policy: Policy | None


def judge(pod: Object, *, has_gvisor: bool = True) -> Judgement:
    """Return what is to be done with *pod* (or a pod template).

    *has_gvisor*: this cluster has the runtime class of gVisor. Raises AnnotationErrors if its
    annotations cannot be read, FormatError if it is not a pod.
    """
    reading = annotation_reading.read(
        podspec.annotations_of(pod),
        podspec.app_containers(pod),
        runtime_class=podspec.runtime_class(pod),
    )
    if reading.policy is None:
        return Judgement(reading=reading, warnings=reading.warnings)
    managed = frozenset(reading.policy.containers)
    obstacles = why_unmanageable(
        pod, containers=managed, runtime_class=reading.runtime_class, has_gvisor=has_gvisor
    )
    # Only what sleeps is resized.
    caveats = _caveats(pod, managed) if reading.runtime_class == names.RUNTIME_CLASS else []
    return Judgement(
        reading=reading,
        obstacles=tuple(obstacles),
        warnings=(*reading.warnings, *caveats),
    )


def expected_pod(
    pod: Object,
    policy: Policy | None,
    *,
    runtime_class: str = names.RUNTIME_CLASS,
    probe_ports: Mapping[str, Mapping[int, int]] | None = None,
) -> dict[str, Any]:
    """Return *pod* as it must be when it is created, under *policy* or unmanaged (None).

    What only we write is taken away from a pod that brings it along (forged, or copied from a
    running one). A runtime class of ours that the user chose stays: without a policy it is
    plain runc or gVisor. Applied to its own result it changes nothing. Unchanged parts are shared
    with *pod*.
    """
    spec = dict(podspec.spec(pod))
    annotations = {
        key: value
        for key, value in podspec.annotations_of(pod).items()
        if key not in annotation_reading.WRITTEN_BY_US
    }
    labels = {
        key: value
        for key, value in podspec.labels_of(pod).items()
        if not key.startswith(names.STATUS_LABEL_PREFIX)
    }
    if policy is not None:
        spec["runtimeClassName"] = runtime_class
        annotations[names.POLICY] = policy.to_json()
        for name in policy.containers:
            labels[names.STATUS_LABEL_PREFIX + name] = names.STATUS_RUNNING
        if probe_ports:
            spec["containers"] = [
                _with_probes_led(container, probe_ports.get(name, {}))
                for name, container in podspec.containers(pod)
            ]
    metadata = dict(podspec.fields(pod.get("metadata"), "metadata"))
    for key, wanted in (("annotations", annotations), ("labels", labels)):
        if wanted or metadata.get(key):
            metadata[key] = wanted
    return {**pod, "metadata": metadata, "spec": spec}


def check_admitted(pod: Object, *, has_gvisor: bool = True) -> Unmanaged | Drifted | Fine:
    """Return whether a pod that exists is what the webhook would have made of it.

    *has_gvisor* as for :func:`judge`. Raises FormatError if it is not a pod.
    """
    written = podspec.annotations_of(pod).get(names.POLICY)
    try:
        judgement = judge(pod, has_gvisor=has_gvisor)
    except AnnotationErrors as error:
        if written is None:
            return Unmanaged(obstacles=(Obstacle(INVALID_ANNOTATIONS, str(error)),))
        return Drifted(differences=(f"the annotations can no longer be read: {error}",))
    if judgement.reading.policy is None:
        if written is None:
            return Fine(policy=None)
        return Drifted(differences=(f"{names.POLICY} stands on a pod that is not opted in",))
    if judgement.obstacles:
        return Unmanaged(obstacles=judgement.obstacles)
    wanted_class = judgement.reading.runtime_class
    is_ignored = podspec.labels_of(pod).get(names.WEBHOOK_LABEL) == names.WEBHOOK_IGNORE
    if is_ignored and written is None:
        return Fine(policy=None)
    if written is None or podspec.runtime_class(pod) != wanted_class:
        return Unmanaged(
            obstacles=(
                Obstacle(
                    NOT_ADMITTED,
                    "the pod was created while the webhook was away, or in a namespace that it "
                    "does not look at (webhook.excludedNamespaces): it lacks its policy or "
                    f"runtime class {wanted_class}; delete it, so that its owner creates it anew",
                ),
            )
        )
    differences = _differences(pod, judgement.reading.policy, written=written)
    if differences:
        return Drifted(differences=tuple(differences))
    return Fine(policy=judgement.reading.policy)


def _differences(pod: Object, wanted: Policy, *, written: str) -> list[str]:
    try:
        running = Policy.from_json(written)
    except PolicyError as error:
        return [f"{names.POLICY} cannot be read: {error}"]
    found = []
    if running != wanted:
        found.append(
            f"{names.POLICY} is not what the annotations ask for; they count when the pod is "
            "created anew"
        )
    labels = podspec.labels_of(pod)
    for name in wanted.containers:
        state = labels.get(names.STATUS_LABEL_PREFIX + name)
        if state not in _STATES:
            found.append(
                f"label {names.STATUS_LABEL_PREFIX}{name} is {state or 'absent'}, not one of "
                f"{', '.join(_STATES)}"
            )
    return found


def _with_probes_led(container: Object, ports: Mapping[int, int]) -> Object:
    """Return *container* with its probes' ports replaced as *ports* say; itself if none is."""
    changed: dict[str, Any] = {}
    for key in podspec.PROBES:
        probe = podspec.fields(container.get(key), key)
        for handler in _HANDLERS:
            target = podspec.fields(probe.get(handler), f"{key}.{handler}")
            port = podspec.port_number(target.get("port"), container)
            if port is not None and port in ports and not target.get("host"):
                changed[key] = {**probe, handler: {**target, "port": ports[port]}}
    return {**container, **changed} if changed else container


def _caveats(pod: Object, managed: frozenset[str]) -> list[str]:
    """Return what a managed pod's owner should know: it works, and less than it could."""
    found = []
    for name, container in podspec.containers(pod):
        policies = podspec.items(container.get("resizePolicy"), "resizePolicy")
        if name in managed and any(p.get("restartPolicy") == "RestartContainer" for p in policies):
            found.append(
                f"container {name} has resizePolicy RestartContainer: its requests stay while it "
                "sleeps, since a resize would restart it"
            )
    return found
