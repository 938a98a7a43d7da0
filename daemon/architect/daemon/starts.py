"""What the ``create`` of a pod does that is to start from a PersistentCheckpoint.

It names its one source in an annotation. The memory there was taken of another pod of the same
template, and is given to as many as ask for it: nobody is faster than anybody else. What is not
there yet is waited for, within bounds; what does not fit is said by name.

Pure: objects are plain JSON as the API server sends them.
"""

from __future__ import annotations

from dataclasses import dataclass

from architect.api import names
from architect.api.policy import Policy, PolicyError
from architect.core import identity, podspec
from architect.core.podspec import Object
from architect.daemon import offers
from architect.daemon.claims import Fresh, Newcomer, Wait
from architect.daemon.offers import Node
from architect.kube import checkpoints, conditions


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long is waited for what, since the pod asked first."""

    missing_seconds: float = 10.0
    """For the object itself, which may have been created together with the pod."""
    capture_seconds: float = 60.0
    """For its capture, as of a predecessor's: see :class:`architect.daemon.claims.Bounds`."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start from it."""

    template_hash: str


Decision = Start | Wait | Fresh


def source_of(pod: Object) -> str | None:
    """Return the name of the PersistentCheckpoint that the pod is to start from, if any.

    The label for a fresh start goes before it.
    """
    text = podspec.annotations_of(pod).get(names.POLICY)
    if text is None or podspec.labels_of(pod).get(names.FRESH) == "true":
        return None
    try:
        return Policy.from_json(text).start_from
    except PolicyError:
        return None


def decide(
    pod: Object,
    newcomer: Newcomer,
    *,
    name: str,
    source: Object | None,
    node: Node,
    waited_seconds: float,
    bounds: Bounds,
) -> Decision:
    """Return what *newcomer*, the new *pod*, does about PersistentCheckpoint *name*."""
    if not newcomer.containers:
        return Fresh(reason="NotManaged", message="no container of the pod is managed")
    if newcomer.has_started:
        return Fresh(reason="Restarted", message="the pod has run before: it starts once")
    if source is None or source["metadata"].get("deletionTimestamp"):
        if waited_seconds < bounds.missing_seconds:
            return Wait(
                for_what=f"PersistentCheckpoint {name}",
                seconds=bounds.missing_seconds - waited_seconds,
            )
        return _about(name, "NoPersistentCheckpoint", "it is not there")
    if conditions.is_false(source, checkpoints.ACCEPTED):
        accepted = conditions.said(source, checkpoints.ACCEPTED)
        text = f"it was refused: {accepted.get('reason')}: {accepted.get('message')}"
        return _about(name, "SourceRefused", text)
    if conditions.is_true(source, checkpoints.FAILED):
        failed = conditions.said(source, checkpoints.FAILED)
        text = f"it was not saved: {failed.get('reason')}: {failed.get('message')}"
        return _about(name, "SourceFailed", text)
    if not conditions.is_true(source, checkpoints.AVAILABLE):
        if waited_seconds < bounds.capture_seconds:
            return Wait(
                for_what=f"the capture of PersistentCheckpoint {name}",
                seconds=bounds.capture_seconds - waited_seconds,
            )
        text = f"it was not complete within {bounds.capture_seconds:g} s"
        return _about(name, "CaptureTooSlow", text)
    return _fitting(pod, newcomer, name, source, node)


def _fitting(
    pod: Object, newcomer: Newcomer, name: str, source: Object, node: Node
) -> Start | Fresh:
    ours = identity.template_hash(pod)
    offer = offers.of_persistent(source)
    misfit = offers.template_misfit(
        offer,
        template_hash=ours,
        parts=newcomer.parts,
        containers=newcomer.containers,
        images=newcomer.images,
    ) or offers.node_misfit(offer, node)
    if misfit is not None:
        return _about(name, misfit.reason, misfit.message)
    return Start(template_hash=ours)


def _about(name: str, reason: str, text: str) -> Fresh:
    return Fresh(reason=reason, message=f"PersistentCheckpoint {name}: {text}")
