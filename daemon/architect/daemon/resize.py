"""Requests of a sleeping pod: lowered in place, so that its node has room for others.

Pure. Limits stay as they are: a lowered memory limit would make waking depend on the API server.
The QoS class must not change (Kubernetes forbids it, and the cgroup's place hangs on it), so a
Guaranteed pod keeps its requests, and a BestEffort one has none. The originals go into an
annotation before anything is lowered, and the annotation goes after they are back.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from architect.core import quantity
from architect.daemon.pods import RESOURCES, ManagedPod, PodContainer

LEAST: Final = {"cpu": Fraction(1, 1000), "memory": Fraction(1024)}
"""What a sleeping container still asks for. Not nothing: a container without any request would
change the pod's QoS class."""

LOWERED: Final = ".lowered"
"""In the annotation, after a container's name, which has no dot: what its requests were lowered to,
where that is not the least. Whoever does not know it takes it for a container that is gone."""


class Skip(enum.Enum):
    """Why the requests of a sleeping pod are not lowered."""

    GUARANTEED = "Guaranteed"
    BEST_EFFORT = "BestEffort"
    RESTART_POLICY = "ResizePolicy"
    POD_RESOURCES = "PodLevelResources"


SKIP_TEXT: Final = {
    Skip.GUARANTEED: "the pod is Guaranteed, whose requests equal its limits; its memory is free,"
    " its requests stay reserved",
    Skip.BEST_EFFORT: "the pod has no requests",
    Skip.RESTART_POLICY: "resizePolicy RestartContainer would restart it; its requests stay",
    Skip.POD_RESOURCES: "requests are set for the pod as a whole; they stay reserved",
}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the LimitRanges of a namespace demand of each container."""

    least: Mapping[str, Fraction] = field(default_factory=lambda: MappingProxyType({}))
    ratios: Mapping[str, Fraction] = field(default_factory=lambda: MappingProxyType({}))
    """Most that a limit may be above its request."""


@dataclass(frozen=True, kw_only=True)
class ResizePlan:
    """What to change, in this order: annotation, requests, and at wake the other way round."""

    requests: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    """Container to the requests that it shall have."""
    original: Mapping[str, Mapping[str, str]] | None = None
    """What the annotation must hold before; None: leave it."""
    is_annotation_to_be_removed: bool = False
    """After the requests are back."""
    skipped: Mapping[str, Skip] = field(default_factory=lambda: MappingProxyType({}))
    """Container to why it keeps its requests."""

    @property
    def is_empty(self) -> bool:
        """Whether everything is as it should be."""
        return not self.requests and self.original is None and not self.is_annotation_to_be_removed


def bounds_of(limit_ranges: Iterable[Mapping[str, Any]]) -> Bounds:
    """Return what *limit_ranges* (as the API sent them) demand together."""
    least: dict[str, Fraction] = {}
    ratios: dict[str, Fraction] = {}
    for limit_range in limit_ranges:
        for item in (limit_range.get("spec") or {}).get("limits") or ():
            if item.get("type") != "Container":
                continue
            for resource in RESOURCES:
                if (low := (item.get("min") or {}).get(resource)) is not None:
                    least[resource] = max(least.get(resource, Fraction(0)), quantity.parse(low))
                ratio = (item.get("maxLimitRequestRatio") or {}).get(resource)
                if ratio is not None:
                    parsed = quantity.parse(ratio)
                    ratios[resource] = min(ratios.get(resource, parsed), parsed)
    return Bounds(least=least, ratios=ratios)


def lower(pod: ManagedPod, *, bounds: Bounds) -> ResizePlan:
    """Return what to do for a sleeping *pod*; repeated after it was done, nothing."""
    whole = _skip_of_pod(pod)
    requests: dict[str, Mapping[str, str]] = {}
    skipped: dict[str, Skip] = {}
    for name in pod.managed:
        container = pod.containers[name]
        if whole is not None:
            skipped[name] = whole
            continue
        wanted: dict[str, str] = {}
        for resource, now in container.requests.items():
            if resource in container.restarts_on_resize:
                skipped[name] = Skip.RESTART_POLICY
                continue
            target = _target(container, resource, bounds=bounds)
            if quantity.parse(now) > quantity.parse(target):
                wanted[resource] = target
        if wanted:
            requests[name] = wanted
    if not requests:
        return ResizePlan(skipped=skipped)
    known = pod.original_requests or {}
    noted: dict[str, Mapping[str, str]] = dict(known)
    for name, to in requests.items():
        before, lowered = known.get(name, {}), known.get(name + LOWERED, {})
        noted[name] = dict(before) | {
            resource: _original(
                pod.containers[name].requests[resource],
                noted=before.get(resource),
                lowered=lowered.get(resource) or _render(resource, LEAST[resource]),
            )
            for resource in to
        }
        by_bounds = {r: v for r, v in to.items() if v != _render(r, LEAST[r])}
        if by_bounds or lowered:
            noted[name + LOWERED] = dict(lowered) | by_bounds
    return ResizePlan(
        requests=requests,
        original=None if noted == known else noted,
        skipped=skipped,
    )


def _original(now: str, *, noted: str | None, lowered: str) -> str:
    """Return which request a container gets back, of that of *now* and the one *noted* before.

    One that is neither that nor what it was *lowered* to is its owner's, who has set it since.
    """
    if noted is None or _is_same(now, lowered):
        return noted or now
    return noted if _is_same(now, noted) else now


def restore(pod: ManagedPod) -> ResizePlan:
    """Return what to do for an awake *pod*; without the annotation, nothing.

    A request that is not what it was lowered to was set by somebody else while the pod slept, and
    stays, though it be lower than its original: the pod may wake before anybody has seen it.
    """
    if pod.original_requests is None:
        return ResizePlan()
    requests: dict[str, Mapping[str, str]] = {}
    for name, original in pod.original_requests.items():
        container = pod.containers.get(name)
        if container is None:
            continue
        lowered = pod.original_requests.get(name + LOWERED, {})
        wanted = {
            resource: value
            for resource, value in original.items()
            if (now := container.requests.get(resource)) is not None
            and _is_below(now, value)
            and _is_lowered(resource, now, noted=lowered.get(resource))
        }
        if wanted:
            requests[name] = wanted
    return ResizePlan(requests=requests, is_annotation_to_be_removed=True)


def annotation(original: Mapping[str, Mapping[str, str]]) -> str:
    """Return the value of the annotation that keeps the originals."""
    plain = {name: dict(values) for name, values in original.items()}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _skip_of_pod(pod: ManagedPod) -> Skip | None:
    if pod.has_pod_resources:
        return Skip.POD_RESOURCES
    if pod.qos_class == "Guaranteed":
        return Skip.GUARANTEED
    if pod.qos_class == "BestEffort":
        return Skip.BEST_EFFORT
    return None


def _target(container: PodContainer, resource: str, *, bounds: Bounds) -> str:
    value = max(LEAST[resource], bounds.least.get(resource, Fraction(0)))
    limit, ratio = container.limits.get(resource), bounds.ratios.get(resource)
    if limit is not None and ratio:
        value = max(value, quantity.parse(limit) / ratio)
    return _render(resource, value)


def _render(resource: str, value: Fraction) -> str:
    return quantity.render_cpu(value) if resource == "cpu" else quantity.render_bytes(value)


def _is_same(one: str, other: str) -> bool:
    try:
        return quantity.parse(one) == quantity.parse(other)
    except ValueError:
        return False  # what somebody wrote into the annotation


def _is_lowered(resource: str, now: str, *, noted: str | None) -> bool:
    """Whether a request is what a sleeping pod's is lowered to.

    Or as low as that can be: bounds may have fallen since that was noted.
    """
    least = LEAST.get(resource)
    is_least = least is not None and _is_same(now, _render(resource, least))
    return is_least or (noted is not None and _is_same(now, noted))


def _is_below(now: str, original: str) -> bool:
    try:
        return quantity.parse(now) < quantity.parse(original)
    except ValueError:
        return False  # somebody wrote into the annotation: what is not a quantity is not restored
