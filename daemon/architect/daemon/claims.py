"""What a pod's ``create`` does: claim a checkpoint, wait for one, or start fresh.

The pods that ask are new ones, whose containers wait to be created: every wait is bounded, and a
pod that can have no checkpoint is told so before anything is read (:func:`never`).

A checkpoint is for whoever replaces the pod that it was taken of: a pod of the same namespace,
owner, ordinal and template, on a node that can restore it (:mod:`architect.daemon.offers`), that
nobody was faster than. The claim itself is a write under the resourceVersion that is returned here,
and who loses asks again. What is in the way is said by name.

Of an owner that does not count its pods, any new pod may have any checkpoint, and the newest goes
first: each new pod comes for one that left, so where one is left over, a pod has begun anew without
it, and what that pod did since is in newer ones only. With an ordinal there is one line of
succession, and only its newest checkpoint counts, whatever has become of it: the ordinal has lived
on after any older one.

Pure: objects are plain JSON as the API server sends them, and the order of lists means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from architect.api import names
from architect.api.policy import Migrate, Policy, PolicyError
from architect.core import identity, podspec
from architect.core.errors import FormatError
from architect.core.identity import Identity
from architect.core.podspec import Object
from architect.daemon import offers, owners, succession
from architect.daemon.offers import Misfit, Node, Offer
from architect.kube import checkpoints


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How long is waited for what."""

    capture_seconds: float = 60.0
    """For captures in progress, since the pod asked first.

    Kubelet gives the creation of a container two minutes (``runtimeRequestTimeout``), in which the
    image has to be fetched and unpacked besides.
    """
    sibling_seconds: float = 5.0
    """For the Checkpoint object of a pod that leaves, since its deletion: its daemon makes it as
    soon as it has seen the deletion and read the owner."""
    abandoned_seconds: float = 45.0
    """For a claim whose pod leaves or is gone: its node's daemon gives it back, or tells that it
    was used; the operator does, if the node is gone, too. Of a node that is out of service,
    Kubernetes removes the pods up to 20 s after they were to leave."""
    late_seconds: float = 900.0
    """A pod that was created this much later than the checkpoint does not replace its pod: the one
    that did came long ago, and without it, and its owner has gone on since."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Take this checkpoint, by a write under this resourceVersion."""

    name: str
    uid: str
    resource_version: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Ask again when a Checkpoint or a sibling has changed, and at the latest after *seconds*."""

    for_what: str
    seconds: float
    """More than 0, and not more than the largest of the bounds."""


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """Start without a checkpoint."""

    reason: str
    """A stable CamelCase word for events, conditions and metrics."""
    message: str
    misfit: str = ""
    """Name of the Checkpoint that it could have had, if that fitted; empty: there is none."""


LEAVING: Final = Fresh(reason="Leaving", message="the pod is being deleted")
"""Of a pod that is gone before it has begun: what it could have had is another one's."""


Decision = Claim | Wait | Fresh


@dataclass(frozen=True, kw_only=True)
class Newcomer:
    """A pod whose containers are about to be created."""

    namespace: str
    name: str
    uid: str
    created: int
    """Its ``creationTimestamp`` in Unix seconds, by the API server's clock."""
    identity: Identity | None
    containers: frozenset[str]
    """The managed ones."""
    parts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What its template consists of, to name a difference: :func:`identity.parts`."""
    has_started: bool = False
    """Whether a managed container of it ran before: then this is a restart, not a succession."""
    images: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    """Container to all digests of the image that it will run, where they are known."""
    wish: Fresh | None = None
    """Why it wants no checkpoint of a predecessor."""


@dataclass(frozen=True, kw_only=True)
class Sibling:
    """A pod that leaves, or has just gone, and may still be captured."""

    uid: str
    name: str
    identity: Identity
    deleted: int
    """When its deletion was asked for, in Unix seconds by the API server's clock."""


def newcomer_of(pod: Object, *, has_started: bool) -> Newcomer:
    """Return what is decided upon of a new pod. Raises FormatError if it is not a pod."""
    metadata = podspec.fields(pod.get("metadata"), "metadata")
    policy = _policy_of(pod)
    return Newcomer(
        namespace=_text(metadata, "namespace"),
        name=_text(metadata, "name"),
        uid=_text(metadata, "uid"),
        created=owners.unix_seconds(metadata.get("creationTimestamp")) or 0,
        identity=identity.identity_of(pod),
        containers=_managed(pod, policy),
        parts=MappingProxyType(identity.parts(pod)),
        has_started=has_started,
        wish=_wish(pod, policy),
    )


def sibling_of(pod: Object) -> Sibling | None:
    """Return a pod that leaves as one that may still be captured; None if it will not be.

    Whether its owner replaces it is judged by the daemon of its node, which knows more. Here is
    seen only what is in its way for certain, so as not to wait for nothing. Raises FormatError if
    it is not a pod.
    """
    metadata = podspec.fields(pod.get("metadata"), "metadata")
    status = podspec.fields(pod.get("status"), "status")
    policy = _policy_of(pod)
    deleted = owners.deletion_time(pod)
    if deleted is None or policy is None or not _managed(pod, policy):
        return None
    if status.get("phase") in ("Succeeded", "Failed"):
        return None
    trigger = succession.trigger_of(pod)
    who = identity.identity_of(pod)
    if (
        who is None
        or succession.refused_by_policy(pod, policy.migrate, trigger) is not None
        or succession.refused_by_volumes(pod, _managed(pod, policy)) is not None
    ):
        return None
    return Sibling(
        uid=_text(metadata, "uid"), name=_text(metadata, "name"), identity=who, deleted=deleted
    )


def never(newcomer: Newcomer) -> Fresh | None:
    """Return why no checkpoint can be for this pod, whatever the API has; None if one may.

    Asked first, so that a pod that cannot have one does not wait for the API.
    """
    who = newcomer.identity
    if newcomer.wish is not None:
        return newcomer.wish
    if not newcomer.containers:
        return Fresh(reason="NotManaged", message="no container of the pod is managed")
    if who is None:
        return Fresh(reason="NoController", message="no controller made it to replace another pod")
    if who.owner.group_kind == identity.DAEMON_SET:
        return Fresh(
            reason="DaemonSet",
            message=f"DaemonSet {who.owner.name} replaces its pods on their own nodes",
        )
    if who.owner.group_kind == identity.JOB and who.ordinal is None:
        return Fresh(
            reason="JobNotIndexed",
            message=f"Job {who.owner.name} is not indexed: each of its pods is another one",
        )
    return None


def decide(
    newcomer: Newcomer,
    *,
    node: Node,
    found: Iterable[Object],
    siblings: Iterable[Sibling],
    living: Collection[str],
    waited_seconds: float,
    bounds: Bounds | None = None,
) -> Decision:
    """Return what *newcomer* does now.

    *found* are the Checkpoints of its namespace, *siblings* its owner's pods that leave, *living*
    the uids of all pods of its owner that neither leave nor are over.
    *waited_seconds* is how long ago it asked first: by a monotonic clock, since those of the node
    and of the API server need not agree. Asked again it gives the same answer until something
    changes; a pod whose claim was written gets that checkpoint again until it is restored. Fresh is
    for the pod, not for one of its containers: remember it.
    """
    refusal = never(newcomer)
    if refusal is not None:
        return refusal
    who = newcomer.identity
    assert who is not None, "never() refuses a pod without an identity"
    limits = bounds or Bounds()
    waited = max(0.0, waited_seconds)
    line, unreadable = _line_of(newcomer, who, found)
    own = [offer for offer in line if offer.claimed_by == newcomer.uid]
    if own:
        return _again(newcomer, who, own, node)
    if newcomer.has_started:
        return Fresh(reason="Restarted", message="the pod has run before: it succeeds nobody")
    awaited = _awaited(newcomer, who, line, siblings)
    if who.ordinal is not None:
        # A sibling that is leaving was there after what was captured before it left.
        since = max((s.deleted for s in awaited), default=None)
        line = [o for o in line[-1:] if since is None or o.created > since]
    refused: list[tuple[Offer, Fresh]] = []
    fitting: list[Offer] = []
    abandoned: list[Offer] = []
    for offer in line:
        if offer.claimed_by and offer.claimed_by not in living:
            freed = replace(offer, claimed_by="")
            if offer.is_available and _why_not(newcomer, who, freed, node, limits) is None:
                abandoned.append(offer)
        why = _why_not(newcomer, who, offer, node, limits)
        if why is None:
            fitting.append(offer)
        else:
            refused.append((offer, why))
    ready = [offer for offer in fitting if offer.is_available]
    if ready:
        return _claim(min(ready, key=_newest_first))
    return _wait(newcomer, fitting, awaited, abandoned, waited, limits) or _fresh(
        fitting, awaited, abandoned, refused, unreadable, limits
    )


def _newest_first(offer: Offer) -> tuple[bool, float, float, str, str]:
    is_unknown = math.isinf(offer.captured)
    return is_unknown, -offer.captured, -offer.created, offer.name, offer.uid


def _line_of(
    newcomer: Newcomer, who: Identity, found: Iterable[Object]
) -> tuple[list[Offer], list[str]]:
    """Return the offers of the pod's predecessors, by age, and what could not be read.

    One unreadable object must not keep a namespace's pods from starting.
    """
    line: list[Offer] = []
    unreadable: list[str] = []
    for value in found:
        try:
            offer = offers.read(value)
        except FormatError as error:
            unreadable.append(str(error))
            continue
        if (
            offer is not None
            and offer.namespace == newcomer.namespace == who.namespace
            and offer.owner_uid == who.owner.uid
            and offer.ordinal == who.ordinal
            and offer.pod_uid != newcomer.uid
        ):
            line.append(offer)
    return sorted(line, key=lambda o: o.age), sorted(unreadable)


def _again(newcomer: Newcomer, who: Identity, own: Sequence[Offer], node: Node) -> Decision:
    """Return what becomes of a checkpoint that this pod has claimed before."""
    for offer in own:
        if offer.is_restored:
            return Fresh(
                reason="AlreadyRestored",
                message=f"the pod went on from checkpoint {offer.name} and has run since",
            )
    refused = [_failure(offer) or _misfit(newcomer, who, offer, node) for offer in own]
    for offer, why in zip(own, refused, strict=True):
        if why is None:
            return _claim(offer)
    return next(why for why in refused if why is not None)


def _awaited(
    newcomer: Newcomer, who: Identity, line: Iterable[Offer], siblings: Iterable[Sibling]
) -> list[Sibling]:
    """Return the siblings whose memory would fit and that have no Checkpoint yet."""
    captured = {offer.pod_uid for offer in line}
    awaited = [
        s
        for s in siblings
        if s.identity.namespace == who.namespace
        and s.identity.owner.uid == who.owner.uid
        and s.identity.ordinal == who.ordinal
        and s.identity.template_hash == who.template_hash
        and s.uid not in captured
        and s.uid != newcomer.uid
    ]
    return sorted(awaited, key=lambda s: (s.deleted, s.name, s.uid))


def _why_not(
    newcomer: Newcomer, who: Identity, offer: Offer, node: Node, limits: Bounds
) -> Fresh | None:
    """Return why a checkpoint that the pod has not claimed is not for it; None if it is."""
    is_lost = offer.is_over and not offer.is_restored
    if offer.claimed_by and not is_lost:
        return _about(offer, "Taken", f"pod {offer.claimed_by_name} has claimed it")
    if offer.is_restored:
        return _about(offer, "Taken", "a pod went on from it")
    failure = _failure(offer)
    if failure is not None:
        return failure
    if offer.is_over:
        return _about(offer, "NotAvailable", offer.told(checkpoints.AVAILABLE))
    if newcomer.created - offer.created > limits.late_seconds:
        late = newcomer.created - offer.created
        return _about(offer, "Late", f"the pod was created {late} s after it: it replaces another")
    return _misfit(newcomer, who, offer, node)


def _failure(offer: Offer) -> Fresh | None:
    if not offer.is_failed:
        return None
    return _about(offer, "CheckpointFailed", offer.told(checkpoints.FAILED))


def _misfit(newcomer: Newcomer, who: Identity, offer: Offer, node: Node) -> Fresh | None:
    try:
        misfit = offers.template_misfit(
            offer,
            template_hash=who.template_hash,
            parts=newcomer.parts,
            containers=newcomer.containers,
            images=newcomer.images,
        ) or offers.node_misfit(offer, node)
    except FormatError as error:
        misfit = Misfit("Unreadable", str(error))
    if misfit is None:
        return None
    return replace(_about(offer, misfit.reason, misfit.message), misfit=offer.name)


def _wait(
    newcomer: Newcomer,
    captures: Sequence[Offer],
    awaited: Sequence[Sibling],
    abandoned: Sequence[Offer],
    waited: float,
    limits: Bounds,
) -> Wait | None:
    """Return for how long the pod waits yet; None if there is nothing to wait for any more."""
    waits: list[tuple[float, str]] = []
    if captures:
        text = f"the capture of pod {captures[0].pod_name} (checkpoint {captures[0].name})"
        waits.append((limits.capture_seconds - waited, text))
    for sibling in awaited:
        # By the API server's clock up to the pod's creation, by the node's from the first question
        # on; what lies between (scheduling, the sandbox) is given on top.
        since = max(0, newcomer.created - sibling.deleted) + waited
        text = f"a Checkpoint of pod {sibling.name}, which is leaving"
        waits.append((limits.sibling_seconds - since, text))
    for offer in abandoned:
        text = f"the claim of pod {offer.claimed_by_name}, which goes or is gone, on {offer.name}"
        waits.append((limits.abandoned_seconds - waited, text))
    seconds, text = max(waits, key=lambda w: w[0], default=(0.0, ""))
    return Wait(for_what=text, seconds=seconds) if seconds > 0 else None


def _fresh(
    captures: Sequence[Offer],
    awaited: Sequence[Sibling],
    abandoned: Sequence[Offer],
    refused: Sequence[tuple[Offer, Fresh]],
    unreadable: Sequence[str],
    limits: Bounds,
) -> Fresh:
    """Return the reason that says most: of several checkpoints, that of the newest."""
    if captures:
        text = f"it was not complete within {limits.capture_seconds:g} s"
        return _about(captures[0], "CaptureTooSlow", text)
    if abandoned:
        text = (
            f"pod {abandoned[0].claimed_by_name}, which goes or is gone, has claimed it, and "
            f"nobody gave it back within {limits.abandoned_seconds:g} s"
        )
        return _about(abandoned[0], "NotGivenBack", text)
    told = [why for _, why in refused]
    for why in reversed(told):
        if why.reason not in ("Taken", "Late"):
            return why
    if awaited:
        return Fresh(
            reason="NoCheckpointInTime",
            message=f"pod {awaited[0].name}, which is leaving, had no Checkpoint within "
            f"{limits.sibling_seconds:g} s of its deletion",
        )
    if told:
        return told[-1]
    if unreadable:
        return Fresh(reason="Unreadable", message=f"a Checkpoint cannot be read: {unreadable[0]}")
    return Fresh(reason="NoCheckpoint", message="no pod that it replaces was captured")


def _claim(offer: Offer) -> Claim:
    return Claim(name=offer.name, uid=offer.uid, resource_version=offer.resource_version)


def _about(offer: Offer, reason: str, text: str) -> Fresh:
    return Fresh(reason=reason, message=f"checkpoint {offer.name}: {text}")


def _wish(pod: Object, policy: Policy | None) -> Fresh | None:
    if podspec.labels_of(pod).get(names.FRESH) == "true":
        return Fresh(reason="Fresh", message=f"label {names.FRESH}=true asks for a fresh start")
    if policy is None:
        return None
    if policy.migrate is Migrate.NEVER:
        return Fresh(reason="MigrationOff", message=f"{names.MIGRATE} is {policy.migrate.value}")
    if policy.start_from is not None:
        return Fresh(
            reason="StartFrom",
            message=f"{names.START_FROM} is {policy.start_from:.253}, its only source",
        )
    return None


def _policy_of(pod: Object) -> Policy | None:
    """Return the policy; None without one, or with one that this version cannot read."""
    text = podspec.annotations_of(pod).get(names.POLICY)
    if text is None:
        return None
    try:
        return Policy.from_json(text)
    except PolicyError:
        return None


def _managed(pod: Object, policy: Policy | None) -> frozenset[str]:
    if policy is None:
        return frozenset()
    return frozenset(policy.containers) & {name for name, _ in podspec.containers(pod)}


def _text(value: Object, key: str) -> str:
    text = podspec.text(value.get(key), key)
    if text is None:
        raise FormatError(f"{key} is empty")
    return text
