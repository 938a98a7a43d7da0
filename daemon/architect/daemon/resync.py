"""What has to change in the API so that it says what is true on the node. Pure.

The keeper's list and the API's pods in, actions out. Every action is idempotent, and the plan of a
pod for which all have been carried out is empty, so the same function serves each event, the
daemon's own restart and the end of an outage of the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from architect.api import names
from architect.daemon import resize, status
from architect.daemon.autoscalers import NOBODY, Counted
from architect.daemon.observation import KeeperPod
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Reason
from architect.kube.conditions import Condition


@dataclass(frozen=True, kw_only=True)
class SetMetadata:
    """Set labels and annotations; None removes one."""

    labels: Mapping[str, str | None] = field(default_factory=lambda: MappingProxyType({}))
    annotations: Mapping[str, str | None] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Set requests in place."""

    requests: Mapping[str, Mapping[str, str]]
    is_lowering: bool


@dataclass(frozen=True, kw_only=True)
class SetCondition:
    """Set the pod condition."""

    condition: Condition


@dataclass(frozen=True, kw_only=True)
class EnsureCheckpoint:
    """Create the Checkpoint object of a sleeping pod and write its status."""


@dataclass(frozen=True, kw_only=True)
class DropCheckpoint:
    """Delete the Checkpoint object of an awake pod: its image is gone."""


Action = SetMetadata | Resize | SetCondition | EnsureCheckpoint | DropCheckpoint


@dataclass(frozen=True, kw_only=True)
class PodFacts:
    """All that is known of one pod."""

    pod: ManagedPod
    keeper: KeeperPod | None
    """None: the keeper answers and does not know the pod."""
    reasons: tuple[Reason, ...] = ()
    """Why it is awake."""
    has_checkpoint: bool = False
    may_update_reason: bool = True
    bounds: resize.Bounds = field(default_factory=resize.Bounds)
    counted: Counted = NOBODY
    """By which of its requests autoscalers divide."""
    is_lowering_refused: bool = False
    """The API refused to lower requests of this pod; it is not asked again while it sleeps."""
    is_raising_refused: bool = False
    """The API refused to raise them; it is not asked again for a while."""


def plan(facts: PodFacts) -> tuple[Action, ...]:
    """Return what to do, in order.

    A pod between two states, or on its way out, is left alone: the event that ends the transition
    brings it here again, and nobody reads the labels of a pod that goes.
    """
    pod, keeper = facts.pod, facts.keeper
    if pod.is_terminating or pod.is_terminal or not pod.managed:
        return ()
    if keeper is not None and keeper.state not in status.SETTLED_STATES:
        return ()
    is_asleep = keeper is not None and keeper.state in status.ASLEEP_STATES
    if keeper is None and not _has_run(pod):
        return ()
    actions = _asleep(facts) if is_asleep else _awake(facts)
    condition = status.condition(keeper, reasons=facts.reasons)
    if status.is_condition_due(pod, condition, may_update_reason=facts.may_update_reason):
        actions.append(SetCondition(condition=condition))
    if is_asleep and not facts.has_checkpoint:
        actions.append(EnsureCheckpoint())
    if not is_asleep and facts.has_checkpoint:
        actions.append(DropCheckpoint())
    return tuple(actions)


def _asleep(facts: PodFacts) -> list[Action]:
    """Originals are noted before anything is lowered, in the same request as the labels.

    What comes back though the pod sleeps is first: an autoscaler looks every 15 s.
    """
    resizing = resize.lower(facts.pod, bounds=facts.bounds, counted=facts.counted)
    lowered = {} if facts.is_lowering_refused else resizing.requests
    annotations: dict[str, str | None] = {}
    if resizing.original is not None and lowered:
        annotations[names.ORIGINAL_REQUESTS] = resize.annotation(resizing.original)
    actions: list[Action] = []
    labels = status.labels(facts.pod, is_asleep=True)
    if labels or annotations:
        actions.append(SetMetadata(labels=labels, annotations=annotations))
    if resizing.returned and not facts.is_raising_refused:
        actions.append(Resize(requests=resizing.returned, is_lowering=False))
    if lowered:
        actions.append(Resize(requests=lowered, is_lowering=True))
    return actions


def _awake(facts: PodFacts) -> list[Action]:
    """Requests are back before the note of the originals goes, in the same request as the labels.

    A refused increase leaves the note, so that nothing is forgotten.
    """
    resizing = resize.restore(facts.pod)
    annotations: dict[str, str | None] = {}
    actions: list[Action] = []
    if resizing.requests and not facts.is_raising_refused:
        actions.append(Resize(requests=resizing.requests, is_lowering=False))
    if resizing.is_annotation_to_be_removed and not (
        resizing.requests and facts.is_raising_refused
    ):
        annotations[names.ORIGINAL_REQUESTS] = None
    labels = status.labels(facts.pod, is_asleep=False)
    if labels or annotations:
        actions.append(SetMetadata(labels=labels, annotations=annotations))
    return actions


def _has_run(pod: ManagedPod) -> bool:
    """Whether there is anything to say about a pod that the keeper does not know."""
    return bool(pod.labels) or pod.original_requests is not None
