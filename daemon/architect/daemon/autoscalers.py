"""Which autoscalers divide what a pod uses by its requests, and by which of them.

A HorizontalPodAutoscaler with a target of the type ``Utilization`` divides what its pods use by
what they request. Of a sleeping pod whose requests are lowered that is a large multiple, or none of
the sum by which what the others use is divided, and it makes as many pods as it may. Targets of
other types do not look at requests.

It counts the pods of whatever its ``scaleTargetRef`` names: here those that have that in the chain
of their controllers. A chain whose end nobody here may read could go on, to an owner of a kind that
is not Kubernetes' own; an autoscaler of such a kind is taken to count its namespace's pods of such
chains. The mistakes do not weigh the same: a pod too many keeps some room reserved, and a pod too
few is scaled to the most that there may be.

Pure: objects are plain JSON as the API server sends them. What cannot be read of an autoscaler is
taken for all that it could be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from architect.core import podspec
from architect.core.errors import FormatError
from architect.core.podspec import Object

KIND: Final = "HorizontalPodAutoscaler"

UTILIZATION: Final = "Utilization"

OWN_GROUPS: Final = frozenset({"", "apps", "batch"})
"""Of the kinds that are Kubernetes' own, none of which owns what is above the end of a chain."""


class Link(NamedTuple):
    """One owner in a pod's chain of controllers, in its namespace."""

    group: str
    """Without the version: an autoscaler may name another one than the pod's owner reference."""
    kind: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A pod's controller, its controller, and so on."""

    links: tuple[Link, ...] = ()
    is_whole: bool = True
    """False: whether the last one has an owner is not known."""


class Share(NamedTuple):
    """One resource by whose requests is divided."""

    resource: str
    container: str = ""
    """The one container whose request that is; "": those of all containers of the pod."""


ALL: Final = frozenset({Share("cpu"), Share("memory")})

DEFAULT: Final = frozenset({Share("cpu")})
"""Without metrics it is 80 % of the requested processor time (autoscaling/v2)."""


@dataclass(frozen=True, kw_only=True)
class Autoscaler:
    """One that divides by requests."""

    namespace: str
    name: str
    target: Link
    shares: frozenset[Share]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """By which requests of a pod is divided, and by whom."""

    by: frozenset[tuple[Share, str]] = frozenset()
    """With the autoscaler, as people are told of it."""
    unknown: str = ""
    """Why it is not known; then all requests may be."""

    def names(self, container: str, resource: str) -> tuple[str, ...]:
        """Return who divides by this request of *container*."""
        shares = (Share(resource), Share(resource, container))
        return tuple(sorted({name for share, name in self.by if share in shares}))


NOBODY: Final = Counted()


def read_all(values: Iterable[Any]) -> Mapping[str, tuple[Autoscaler, ...]]:
    """Return namespace → autoscalers that divide by requests, of all that the API has."""
    found: dict[str, tuple[Autoscaler, ...]] = {}
    for value in values:
        autoscaler = read(value)
        if autoscaler is not None:
            before = found.get(autoscaler.namespace, ())
            found[autoscaler.namespace] = (*before, autoscaler)
    return found


def read(value: Any) -> Autoscaler | None:
    """Return an autoscaler; None for one that does not divide by requests.

    So is one whose target cannot be read: nothing is scaled by it.
    """
    try:
        whole = podspec.fields(value, "autoscaler")
        metadata = podspec.fields(whole.get("metadata"), "metadata")
        namespace = podspec.text(metadata.get("namespace"), "metadata.namespace")
        name = podspec.text(metadata.get("name"), "metadata.name")
        spec = podspec.spec(whole)
        target = _target(podspec.fields(spec.get("scaleTargetRef"), "spec.scaleTargetRef"))
    except FormatError:
        return None
    if namespace is None or name is None or target is None:
        return None
    shares = _shares(spec.get("metrics"))
    if not shares:
        return None
    return Autoscaler(namespace=namespace, name=name, target=target, shares=shares)


def counted(chain: Chain, autoscalers: Iterable[Autoscaler]) -> Counted:
    """Return by which requests of a pod is divided; *autoscalers* are those of its namespace."""
    by: set[tuple[Share, str]] = set()
    for each in autoscalers:
        if each.target in chain.links:
            by |= {(share, each.name) for share in each.shares}
        elif not chain.is_whole and each.target.group not in OWN_GROUPS:
            told = f"{each.name} (of {each.target.kind} {each.target.name}, which may own it)"
            by |= {(share, told) for share in each.shares}
    return Counted(by=frozenset(by)) if by else NOBODY


def group_of(api_version: str) -> str:
    """Return the API group of an ``apiVersion``."""
    group, slash, _ = api_version.partition("/")
    return group if slash else ""


def _target(reference: Object) -> Link | None:
    kind = podspec.text(reference.get("kind"), "scaleTargetRef.kind")
    name = podspec.text(reference.get("name"), "scaleTargetRef.name")
    version = podspec.text(reference.get("apiVersion"), "scaleTargetRef.apiVersion") or ""
    return None if kind is None or name is None else Link(group_of(version), kind, name)


def _shares(metrics: Any) -> frozenset[Share]:
    try:
        listed = podspec.items(metrics, "spec.metrics")
    except FormatError:
        return ALL
    return frozenset().union(*map(_shares_of, listed)) if listed else DEFAULT


def _shares_of(metric: Object) -> frozenset[Share]:
    """Return by which requests one metric divides."""
    kind = metric.get("type")
    if kind not in ("Resource", "ContainerResource"):
        return frozenset()
    key = "resource" if kind == "Resource" else "containerResource"
    try:
        source = podspec.fields(metric.get(key), key)
        target = podspec.fields(source.get("target"), f"{key}.target")
        if target.get("type") != UTILIZATION:
            return frozenset()
        resource = podspec.text(source.get("name"), f"{key}.name")
        container = podspec.text(source.get("container"), f"{key}.container")
    except FormatError:
        return ALL
    if resource is None:
        return ALL
    if kind == "Resource" or container is None:
        return frozenset({Share(resource)})
    return frozenset({Share(resource, container)})
