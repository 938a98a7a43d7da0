"""What each kind of owner does when one of its pods leaves: replace it as itself, or not.

Both mistakes cost: a pod that is moved and has no successor never hears SIGTERM, and its memory is
thrown away; one that has a successor and is not moved starts fresh. The first is worse, since
nobody would notice, so what is unclear is not moved: then everything is as without Architect.

The owner's desired state tells, read *after* the pod was seen to leave. A ReplicaSet is scaled down
(or replaced in a rollout) before its pods are deleted, and it is short of nothing then; a
StatefulSet's status may be behind its spec for a moment, which :class:`Succession` says
(``is_settled``). The rules are those of the controllers of Kubernetes 1.36.

Pure: objects are plain JSON as the API server sends them, and one that is none of theirs raises
FormatError.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architect.core import identity, podspec
from architect.core.errors import FormatError
from architect.core.identity import Identity, Owner
from architect.core.podspec import Object

EXPECTED: Final = "Expected"
"""The reason of a pod whose successor will come, or has."""

DISRUPTION: Final = "DisruptionTarget"
"""The pod condition of somebody who disrupts a pod: eviction, preemption, taints."""

RECENT_SECONDS: Final = 60
"""A pod that left longer than this before another one has its replacement, if it gets any.

Replica sets replace within seconds. Failed pods lie about for days, and must not be counted against
those that leave now.
"""

_TERMINAL: Final = frozenset({"Succeeded", "Failed"})
_REVISION: Final = "controller-revision-hash"
_JOB_FINALIZER: Final = "batch.kubernetes.io/job-tracking"
_INDEX_FAILURES: Final = "batch.kubernetes.io/job-index-failure-count"
_JOB_CONTROLLER: Final = "kubernetes.io/job-controller"
_JOB_ENDS: Final = ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")
_DEFAULT_BACKOFF_LIMIT: Final = 6
_SAVED_STATUS: Final = 143
"""Exit status of a saved pod's containers (``architect.shim.keeper.moving``)."""


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """A pod that goes away, and what the API says about its owner."""

    pod: Object
    """As it was seen to leave. One without deletionTimestamp (the node goes) counts as leaving."""
    owner: Object | None
    """What the API has under the controller's kind and name now; None: nothing."""
    pods: Sequence[Object] = ()
    """The owner's pods, this one may be among them; needed for ReplicaSets,
    ReplicationControllers and Jobs."""


@dataclass(frozen=True, kw_only=True)
class Succession:
    """Whether somebody comes after the pod, and why."""

    is_expected: bool
    reason: str
    """A stable CamelCase word for events, conditions and metrics."""
    message: str
    is_settled: bool = True
    """False: the owner's status is behind its spec; look again, and take it as it is if time is
    short."""


def succession(leaving: Leaving) -> Succession:
    """Return whether the pod's owner replaces it with one of the same identity."""
    pod = leaving.pod
    if (refusal := never(pod)) is not None:
        return refusal
    controller = identity.owner_of(pod)
    assert controller is not None  # never() refuses a pod without one
    rule = _RULES[controller.group_kind]
    what = f"{controller.kind} {controller.name}"
    metadata = podspec.fields((leaving.owner or {}).get("metadata"), "metadata")
    if leaving.owner is None or metadata.get("uid") != controller.uid:
        return _no("OwnerGone", f"{what} is gone")
    if metadata.get("deletionTimestamp"):
        return _no("OwnerGone", f"{what} is being deleted")
    who = identity.identity_of(pod)
    if who is None:
        return _no("NoOrdinal", f"{what} looks after no pod whose number is not in its name")
    return rule(leaving, leaving.owner, who)


def never(pod: Object) -> Succession | None:
    """Return why nobody replaces *pod*, whatever its owner is asked; None if somebody may."""
    if (end := _end_of(pod)) is not None:
        return _no("PodFinished", end)
    controller = identity.owner_of(pod)
    if controller is None:
        return _no("NoController", "nobody replaces a pod without a controller")
    if controller.group_kind == identity.DAEMON_SET:
        return _no("DaemonSet", f"DaemonSet {controller.name} replaces its pods on their own nodes")
    if controller.group_kind not in _RULES:
        return _no(
            "UnknownOwner",
            f"whether {controller.api_version} {controller.kind} {controller.name} replaces its "
            "pods is not known",
        )
    return None


def deletion_time(pod: Object) -> int | None:
    """Return when the pod's deletion was asked for, in Unix seconds; None if it was not.

    ``deletionTimestamp`` is when the grace period ends. A grace period that is shortened later
    moves both, so that their difference stays, but for one that is shortened to less than has
    passed already: then this is later than the truth by at most that.
    """
    metadata = podspec.fields(pod.get("metadata"), "metadata")
    at = unix_seconds(metadata.get("deletionTimestamp"))
    return None if at is None else at - _count(metadata.get("deletionGracePeriodSeconds"), 0)


def unix_seconds(timestamp: Any) -> int | None:
    """Return a metav1.Time or MicroTime in whole Unix seconds; None for an absent one.

    Raises FormatError.
    """
    text = podspec.text(timestamp, "timestamp")
    if text is None:
        return None
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise FormatError(f"timestamp {text:.40} cannot be read: {error}") from error
    return math.floor((at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp())


# Replica sets: any pod of theirs is as good as another.


def _of_replicas(leaving: Leaving, owner: Object, who: Identity) -> Succession:
    desired = _count(_spec(owner).get("replicas"), 1)
    what = f"{who.owner.kind} {who.owner.name}"
    if desired == 0:
        return _no("ScaledDown", f"{what} is scaled to 0")
    mine = podspec.fields(leaving.pod.get("metadata"), "metadata")
    others = list(_pods_of(leaving.pods, who.owner, but=mine.get("uid")))
    short = max(0, desired - sum(1 for p in others if _is_active(p)))
    if _is_replaced(leaving.pod, others, short=short):
        return _yes(f"{what} wants {desired} pods and replaces this one")
    return _no("ScaledDown", f"{what} has the {desired} pods that it wants without this one")


def _is_replaced(pod: Object, others: Sequence[Object], *, short: int) -> bool:
    """Whether one of the pods that came since, or of the *short* ones to come, is for *pod*.

    Each pod that left accounts for at most one that came no earlier than it left (in whole seconds,
    which is what the API keeps). The disrupted ones come first: whom somebody evicted was not
    scaled down. A pod that came and left within one second is passed over, so that it does not
    count as its own replacement. Another one's it may have been, as where a node is drained to
    which the pods of one came that was drained just before.
    """
    left_at = deletion_time(pod)
    # A pod that is not deleted yet is the last of those that leave.
    own: float = math.inf if left_at is None else left_at
    came: list[float] = [math.inf] * short
    mine = podspec.fields(pod.get("metadata"), "metadata")
    if (begun := unix_seconds(mine.get("creationTimestamp")) or 0) < own:
        came.append(begun)
    rivals: list[tuple[tuple[bool, float, str], float]] = []
    for other in others:
        metadata = podspec.fields(other.get("metadata"), "metadata")
        created = unix_seconds(metadata.get("creationTimestamp")) or 0
        gone = _left_at(other)
        if gone is not None and gone <= created:
            continue
        came.append(created)
        if gone is not None and gone >= own - RECENT_SECONDS:
            rivals.append((_precedence(other, gone), gone))
    served: list[float] = []
    turn = _precedence(pod, own)
    for precedence, rival in sorted(rivals):
        if precedence < turn and _suffice(came, [*served, rival]):
            served.append(rival)
    return _suffice(came, [*served, own])


def _suffice(came: Iterable[float], left: Sequence[float]) -> bool:
    """Whether each of *left* can have one of *came* for itself that is no earlier."""
    latest = sorted(came, reverse=True)
    return len(latest) >= len(left) and all(
        c >= gone for c, gone in zip(latest, sorted(left, reverse=True), strict=False)
    )


def _precedence(pod: Object, gone: float) -> tuple[bool, float, str]:
    metadata = podspec.fields(pod.get("metadata"), "metadata")
    status = podspec.fields(pod.get("status"), "status")
    return (true_condition(status, DISRUPTION) is None, gone, str(metadata.get("uid")))


def _left_at(pod: Object) -> int | None:
    """Return when its owner stopped counting on *pod*; None if it still does.

    One of which no container ended is one that its node has refused: at once, by all that is known.
    """
    deleted = deletion_time(pod)
    if deleted is not None:
        return deleted
    status = podspec.fields(pod.get("status"), "status")
    if status.get("phase") not in _TERMINAL:
        return None
    ends = [
        unix_seconds(terminated.get("finishedAt"))
        for _, terminated in _container_ends(status)
        if terminated is not None
    ]
    created = unix_seconds(podspec.fields(pod.get("metadata"), "metadata").get("creationTimestamp"))
    return max((end for end in ends if end is not None), default=created)


# Stateful sets: the successor has the same ordinal.


def _of_stateful_set(leaving: Leaving, owner: Object, who: Identity) -> Succession:
    spec, status = _spec(owner), podspec.fields(owner.get("status"), "status")
    what = f"StatefulSet {who.owner.name}"
    ordinal = who.ordinal if who.ordinal is not None else -1
    start = _count(podspec.fields(spec.get("ordinals"), "ordinals").get("start"), 0)
    replicas = _count(spec.get("replicas"), 1)
    if not start <= ordinal < start + replicas:
        return _no("ScaledDown", f"{what} has {replicas} pods from {start} on, not {ordinal}")
    if _is_behind(owner):
        return _unsettled(f"the status of {what} does not tell of its latest change yet")
    wanted = _next_revisions(spec, status, ordinal - start)
    has = podspec.labels_of(leaving.pod).get(_REVISION)
    if not has or "" in wanted:
        return _unsettled(f"the revision of pod {ordinal} of {what} is not known")
    if wanted != {has}:
        return _no(
            "Rollout", f"{what} makes pod {ordinal} of revision {min(wanted - {has})}, not of {has}"
        )
    return _yes(f"{what} makes pod {ordinal} again, of the same revision")


def _next_revisions(spec: Object, status: Object, index: int) -> set[str]:
    """Return the revisions that a new pod at *index* may get.

    Pods below the partition are made of the current revision, whatever the strategy. Without any
    ``rollingUpdate`` (its defaults are filled in only when the strategy's type was left out), the
    controller goes by the number of pods that still have the current revision; whether the pod that
    leaves is in that number already is not known, so near the border both revisions are possible.
    """
    current = str(status.get("currentRevision") or "")
    update = str(status.get("updateRevision") or "")
    strategy = podspec.fields(spec.get("updateStrategy"), "updateStrategy")
    rolling = strategy.get("rollingUpdate")
    if rolling is None:
        if strategy.get("type") != "RollingUpdate":
            return {update}
        counted = _count(status.get("currentReplicas"), 0)
        if index < counted - 1:
            return {current}
        return {current, update} if index < counted else {update}
    partition = _count(podspec.fields(rolling, "rollingUpdate").get("partition"), 0)
    return {current} if index < partition else {update}


# Jobs: the successor works on the same index.


def _of_job(leaving: Leaving, owner: Object, who: Identity) -> Succession:
    spec, status = _spec(owner), podspec.fields(owner.get("status"), "status")
    what = f"Job {who.owner.name}"
    if spec.get("managedBy") not in (None, "", _JOB_CONTROLLER):
        return _no("UnknownOwner", f"{what} is managed by {spec['managedBy']!s:.80}")
    if spec.get("completionMode") != "Indexed" or who.ordinal is None:
        return _no("JobNotIndexed", f"{what} is not indexed: each of its pods is another one")
    for kind in _JOB_ENDS:
        if true_condition(status, kind) is not None:
            return _no("JobFinished", f"{what} is finished ({kind})")
    if spec.get("suspend"):
        return _no("JobSuspended", f"{what} is suspended")
    index, completions = who.ordinal, _count(spec.get("completions"), 0)
    if index >= completions:
        return _no("ScaledDown", f"{what} has {completions} indexes, not {index}")
    for key in ("completedIndexes", "failedIndexes"):
        if _holds(podspec.text(status.get(key), key) or "", index):
            return _no("IndexFinished", f"index {index} of {what} is finished ({key})")
    return _job_gives_up(leaving.pod, spec, status, what) or _job_makes_room(
        leaving, spec, status, who
    )


def _job_gives_up(pod: Object, spec: Object, status: Object, what: str) -> Succession | None:
    """Return why the pod's end is one failure too many; None if it is not.

    A deleted pod is a failed one to a Job, unless its failure policy ignores disruptions.
    """
    action = _failure_action(pod, spec)
    if action == "Ignore":
        return None
    if action in ("FailJob", "FailIndex"):
        return _no(
            "JobGivesUp", f"{what} has a podFailurePolicy by which this is the end: {action}"
        )
    limit = spec.get("backoffLimitPerIndex")
    if limit is not None:
        failures = podspec.annotations_of(pod).get(_INDEX_FAILURES) or "0"
        before = int(failures) if failures.isdecimal() else 0
    else:
        limit = spec.get("backoffLimit")
        limit = _DEFAULT_BACKOFF_LIMIT if limit is None else limit
        uncounted = podspec.fields(status.get("uncountedTerminatedPods"), "uncounted")
        failed = _names(uncounted.get("failed"), "uncountedTerminatedPods.failed")
        metadata = podspec.fields(pod.get("metadata"), "metadata")
        # The finalizer is taken away once the pod has been counted.
        is_counted = _JOB_FINALIZER not in _names(metadata.get("finalizers"), "finalizers")
        before = _count(status.get("failed"), 0) - int(is_counted)
        before += len(failed - {str(metadata.get("uid"))})
    if before < _count(limit, 0):
        return None
    return _no("JobGivesUp", f"{what} had {before} failures, and this is one more than it bears")


def _failure_action(pod: Object, spec: Object) -> str:
    """Return what the failure policy says about the pod once it was saved, as it is disrupted now.

    The first rule that matches counts.
    """
    policy = podspec.fields(spec.get("podFailurePolicy"), "podFailurePolicy")
    status = podspec.fields(pod.get("status"), "status")
    held = {
        (c.get("type"), c.get("status")) for c in podspec.items(status.get("conditions"), "status")
    }
    for rule in podspec.items(policy.get("rules"), "podFailurePolicy.rules"):
        exits = podspec.fields(rule.get("onExitCodes"), "onExitCodes")
        if exits and (exits.get("operator") == "In") == (
            _SAVED_STATUS in (exits.get("values") or ())
        ):
            return str(rule.get("action"))
        patterns = podspec.items(rule.get("onPodConditions"), "onPodConditions")
        if any((p.get("type"), p.get("status") or "True") in held for p in patterns):
            return str(rule.get("action"))
    return "Count"


def _job_makes_room(leaving: Leaving, spec: Object, status: Object, who: Identity) -> Succession:
    """Return whether the Job runs the index again now: it may have been told to run fewer pods."""
    what = f"Job {who.owner.name}"
    mine = podspec.fields(leaving.pod.get("metadata"), "metadata")
    others = [p for p in _pods_of(leaving.pods, who.owner, but=mine.get("uid")) if _is_active(p)]
    since = deletion_time(leaving.pod)
    same_index = [
        unix_seconds(podspec.fields(p.get("metadata"), "metadata").get("creationTimestamp")) or 0
        for p in others
        if (other := identity.identity_of(p)) is not None and other.ordinal == who.ordinal
    ]
    if since is not None and any(created >= since for created in same_index):
        return _yes(f"{what} runs index {who.ordinal} again")
    if same_index:
        return _no("DuplicateIndex", f"{what} has another pod for index {who.ordinal}")
    left = _count(spec.get("completions"), 0) - _count(status.get("succeeded"), 0)
    wanted = max(0, min(_count(spec.get("parallelism"), 1), left))
    if len(others) < wanted:
        return _yes(f"{what} runs index {who.ordinal} again")
    return _no("ScaledDown", f"{what} runs the {wanted} pods that it wants without this one")


def _holds(intervals: str, index: int) -> bool:
    """Whether *index* is in a Job's text of indexes, such as ``1,3-5,7``."""
    for part in filter(None, intervals.split(",")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal():
            raise FormatError(f"indexes {intervals:.80} cannot be read")
        if int(first) <= index <= int(last):
            return True
    return False


_Rule = Callable[[Leaving, Object, Identity], Succession]
_RULES: Final[Mapping[tuple[str, str], _Rule]] = {
    ("apps", "ReplicaSet"): _of_replicas,
    ("", "ReplicationController"): _of_replicas,
    identity.STATEFUL_SET: _of_stateful_set,
    identity.JOB: _of_job,
}


# Pods.


def _end_of(pod: Object) -> str | None:
    """Return how the pod ended; None if it has processes, or will have again."""
    status = podspec.fields(pod.get("status"), "status")
    if status.get("phase") in _TERMINAL:
        return f"the pod has ended ({status['phase']})"
    policy = podspec.spec(pod).get("restartPolicy") or "Always"
    ends = _container_ends(status)
    count = len(podspec.containers(pod))
    if policy == "Always" or len(ends) < count or any(end is None for _, end in ends):
        return None
    if policy == "OnFailure" and any(end and end.get("exitCode") for _, end in ends):
        return None
    return "all of the pod's containers have ended"


def _container_ends(status: Object) -> list[tuple[str, Object | None]]:
    """Return name and ``state.terminated`` of each app container that has a status."""
    found: list[tuple[str, Object | None]] = []
    for container in podspec.items(status.get("containerStatuses"), "containerStatuses"):
        state = podspec.fields(container.get("state"), "state")
        end = podspec.fields(state["terminated"], "terminated") if state.get("terminated") else None
        found.append((str(container.get("name")), end))
    return found


def _is_active(pod: Object) -> bool:
    """Whether an owner counts on the pod."""
    metadata = podspec.fields(pod.get("metadata"), "metadata")
    status = podspec.fields(pod.get("status"), "status")
    return not metadata.get("deletionTimestamp") and status.get("phase") not in _TERMINAL


def _pods_of(pods: Iterable[Object], owner: Owner, *, but: Any) -> Iterator[Object]:
    """Yield the pods of *owner*, each once, without the one of uid *but*."""
    seen = {but}
    for pod in pods:
        uid = podspec.fields(pod.get("metadata"), "metadata").get("uid")
        controller = identity.owner_of(pod)
        if uid not in seen and controller is not None and controller.uid == owner.uid:
            seen.add(uid)
            yield pod


def true_condition(status: Object, kind: str) -> Object | None:
    """Return the condition *kind* of a status if it holds."""
    for condition in podspec.items(status.get("conditions"), "status.conditions"):
        if condition.get("type") == kind and condition.get("status") == "True":
            return condition
    return None


# Owners.


def _spec(owner: Object) -> Object:
    return podspec.fields(owner.get("spec"), "spec")


def _is_behind(owner: Object) -> bool:
    """Whether the controller has yet to look at the owner's latest spec.

    It deletes pods of an old revision *before* it writes the status that names the new one.
    """
    metadata = podspec.fields(owner.get("metadata"), "metadata")
    status = podspec.fields(owner.get("status"), "status")
    return _count(status.get("observedGeneration"), 0) < _count(metadata.get("generation"), 0)


def _count(value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"{value!r:.40} is not a whole number")
    return value


def _names(value: Any, path: str) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list):
        raise FormatError(f"{path} is a {type(value).__name__}, not a list")
    return frozenset(map(str, value))


def _yes(message: str) -> Succession:
    return Succession(is_expected=True, reason=EXPECTED, message=message)


def _no(reason: str, message: str) -> Succession:
    return Succession(is_expected=False, reason=reason, message=message)


def _unsettled(message: str) -> Succession:
    return Succession(is_expected=False, reason="OwnerUnsettled", message=message, is_settled=False)
