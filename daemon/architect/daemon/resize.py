"""Requests of a sleeping pod: lowered in place, so that its node has room for others.

Pure. Limits stay as they are: a lowered memory limit would make waking depend on the API server.
The QoS class must not change (Kubernetes forbids it, and the cgroup's place hangs on it), so a
Guaranteed pod keeps its requests, and a BestEffort one has none. The originals go into an
annotation before anything is lowered, and the annotation goes after they are back.

Requests by which an autoscaler divides stay, or come back while the pod sleeps
(:mod:`architect.daemon.autoscalers`).
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
from architect.daemon import autoscalers
from architect.daemon.autoscalers import NOBODY, Counted
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
    AUTOSCALER = "Autoscaler"
    UNKNOWN_AUTOSCALERS = "UnknownAutoscalers"


SKIP_TEXT: Final = {
    Skip.GUARANTEED: "the pod is Guaranteed, whose requests equal its limits; its memory is free,"
    " its requests stay reserved",
    Skip.RESTART_POLICY: "resizePolicy RestartContainer would restart it; its requests stay",
    Skip.POD_RESOURCES: "requests are set for the pod as a whole; they stay reserved",
}
"""What is said of each: nothing where there are no requests, and of autoscalers their names."""


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
    returned: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    """Container to the requests that it gets back though it sleeps. Their note stays."""
    original: Mapping[str, Mapping[str, str]] | None = None
    """What the annotation must hold before; None: leave it."""
    is_annotation_to_be_removed: bool = False
    """After the requests are back."""
    skipped: Mapping[str, Skip] = field(default_factory=lambda: MappingProxyType({}))
    """Container to why it keeps its requests, or one of them."""
    kept: tuple[str, ...] = ()
    """Why the requests stay, for people, each reason once."""

    @property
    def is_empty(self) -> bool:
        """Whether everything is as it should be."""
        return (
            not self.requests
            and not self.returned
            and self.original is None
            and not self.is_annotation_to_be_removed
        )


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


def may_be_lowered(pod: ManagedPod) -> bool:
    """Whether requests of *pod* are lowered while it sleeps, if nobody divides by them."""
    return _skip_of_pod(pod) is None


def lower(pod: ManagedPod, *, bounds: Bounds, counted: Counted = NOBODY) -> ResizePlan:
    """Return what to do for a sleeping *pod*; repeated after it was done, nothing.

    Requests by which is divided (*counted*) come back, if they were lowered before that was known.
    Where it is not known they stay as they are.
    """
    whole = _skip_of_pod(pod)
    requests: dict[str, Mapping[str, str]] = {}
    returned: dict[str, Mapping[str, str]] = {}
    skipped: dict[str, Skip] = {}
    divided: dict[str, set[str]] = {}
    for name in pod.managed:
        container = pod.containers[name]
        if whole is not None:
            skipped[name] = whole
            continue
        wanted: dict[str, str] = {}
        back: dict[str, str] = {}
        lowered_from = _to_be_restored(pod, container) if counted.by else {}
        for resource, now in container.requests.items():
            if resource in container.restarts_on_resize:
                skipped.setdefault(name, Skip.RESTART_POLICY)
                continue
            if counted.unknown:
                skipped[name] = Skip.UNKNOWN_AUTOSCALERS
                continue
            if dividing := counted.names(name, resource):
                skipped[name] = Skip.AUTOSCALER
                divided.setdefault(resource, set()).update(dividing)
                if resource in lowered_from:
                    back[resource] = lowered_from[resource]
                continue
            target = _target(container, resource, bounds=bounds)
            if quantity.parse(now) > quantity.parse(target):
                wanted[resource] = target
        if wanted:
            requests[name] = wanted
        if back:
            returned[name] = back
    kept = _why_kept(skipped, divided=divided, unknown=counted.unknown)
    if not requests:
        return ResizePlan(returned=returned, skipped=skipped, kept=kept)
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
        returned=returned,
        original=None if noted == known else noted,
        skipped=skipped,
        kept=kept,
    )


def _why_kept(
    skipped: Mapping[str, Skip], *, divided: Mapping[str, Iterable[str]], unknown: str
) -> tuple[str, ...]:
    texts = {SKIP_TEXT[skip] for skip in skipped.values() if skip in SKIP_TEXT}
    if divided:
        names = sorted({name for each in divided.values() for name in each})
        texts.add(
            f"its requests for {' and '.join(sorted(divided))} stay, since what it uses is divided"
            f" by them: {autoscalers.KIND} {', '.join(names)}"
        )
    if Skip.UNKNOWN_AUTOSCALERS in skipped.values():
        texts.add(f"its requests stay: which {autoscalers.KIND} counts it is not known: {unknown}")
    return tuple(sorted(texts))


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
    requests = {
        name: wanted
        for name in pod.original_requests
        if (container := pod.containers.get(name)) is not None
        and (wanted := _to_be_restored(pod, container))
    }
    return ResizePlan(requests=requests, is_annotation_to_be_removed=True)


def _to_be_restored(pod: ManagedPod, container: PodContainer) -> dict[str, str]:
    """Return those requests of *container* that are lowered, as they were before."""
    noted = pod.original_requests or {}
    lowered = noted.get(container.name + LOWERED, {})
    return {
        resource: value
        for resource, value in noted.get(container.name, {}).items()
        if (now := container.requests.get(resource)) is not None
        and _is_below(now, value)
        and _is_lowered(resource, now, noted=lowered.get(resource))
    }


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
