"""What becomes of a PersistentCheckpoint: objects in, actions out, nothing read or written.

A user asks for one by a pod's name or by labels. Here the pod is chosen, once: condition
``Accepted`` is then True, with ``podRef`` and ``node``, and the daemon of that node does the rest.
Until then ``Accepted`` says why not yet (Unknown: such a pod may still come) or why not (False: the
pod that is there cannot be saved), and every look decides anew: the pod may be replaced, and the
cluster may get an object store.

``Available`` says the same until the daemon knows better: the printed columns show it.

Once it was captured, ``spec.retention`` says when the object goes, and with it what was saved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from architect.api import names
from architect.api.policy import Policy, PolicyError, Storage
from architect.core import durations, podspec, volumes
from architect.core import pods as admission
from architect.core.errors import FormatError
from architect.kube import checkpoints, conditions
from architect.kube.conditions import Condition, Status
from architect.kube.resources import PERSISTENT_CHECKPOINTS, PODS, ObjectRef
from architect.operator.plan import Declare, Expire

JsonObject = dict[str, Any]

CHOSEN: Final = "PodChosen"
WAITING: Final = "WaitingForPod"
NO_STORE: Final = "NoObjectStore"
POD_GONE: Final = "PodGone"
STAYS_ON_NODE: Final = "StaysOnNode"

RUNTIME_CLASSES: Final = frozenset(names.NODE_LABELS.values())
"""Those whose pods can be saved."""

_LABEL_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY: Final = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL_NAME}")
_LABEL_VALUE: Final = re.compile(rf"({_LABEL_NAME})?")


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which pods are to be read: the one of a name, or all of some labels."""

    namespace: str
    name: str = ""
    labels: str = ""
    """As a selector of the API; empty where there is a name."""


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """What is said of one pod."""

    status: Status
    reason: str
    message: str


def is_chosen(value: Mapping[str, Any]) -> bool:
    """Whether the pod is chosen: then no other one will be."""
    return conditions.is_true(value, checkpoints.ACCEPTED)


def is_waiting(value: Mapping[str, Any]) -> bool:
    """Whether a pod that comes, or changes, could be chosen."""
    return not value["metadata"].get("deletionTimestamp") and not is_chosen(value)


def state_of(value: Mapping[str, Any]) -> str:
    """Return in a word how far it has come, for the metric."""
    if conditions.is_true(value, checkpoints.AVAILABLE):
        return "available"
    if conditions.is_true(value, checkpoints.FAILED):
        return "failed"
    if is_chosen(value):
        return "saving"
    return "refused" if conditions.is_false(value, checkpoints.ACCEPTED) else "waiting"


STATES: Final = ("waiting", "refused", "saving", "available", "failed")


def query_of(value: Mapping[str, Any], *, has_store: bool) -> Query | None:
    """Return which pods :func:`choose` needs; None: it needs none, or nothing is to be chosen."""
    if not is_waiting(value) or not has_store:
        return None
    namespace, spec = value["metadata"]["namespace"], value.get("spec") or {}
    if name := spec.get("podName"):
        return Query(namespace=namespace, name=name)
    labels = _wanted_labels(value)
    if not labels or _wrong_label(labels):
        return None
    pairs = ",".join(f"{key}={text}" for key, text in sorted(labels.items()))
    return Query(namespace=namespace, labels=pairs)


def is_wanted(value: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether *value* asks for *pod*, by its name or by its labels: a cheap look."""
    metadata = pod["metadata"]
    if metadata.get("namespace") != value["metadata"]["namespace"]:
        return False
    if name := (value.get("spec") or {}).get("podName"):
        return bool(metadata.get("name") == name)
    wanted = _wanted_labels(value)
    return bool(wanted) and wanted.items() <= (metadata.get("labels") or {}).items()


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether kubelet calls the pod ready."""
    return conditions.is_true(pod, "Ready")


def choose(
    value: JsonObject, *, pods: Iterable[JsonObject], has_store: bool, now: datetime
) -> Declare | None:
    """Decide about one that has no pod yet; *pods* are what the API has for its :class:`Query`.

    Of several pods the one that has been there longest: it is the warmest. None: it is said
    already, or a pod was chosen.
    """
    if not is_waiting(value):
        return None
    if not has_store:
        return _said(value, _refused(NO_STORE, _NO_STORE_MESSAGE), now=now)
    labels = _wanted_labels(value)
    if wrong := _wrong_label(labels):
        return _said(value, _refused("BadSelector", f"{wrong} is no label"), now=now)
    name = (value.get("spec") or {}).get("podName")
    # Those of a Job lie about when they have ended: who asks by labels means none of them.
    candidates = sorted(
        (p for p in pods if is_wanted(value, p) and (name or not _has_ended(p))), key=_seniority
    )
    verdicts = [(pod, _judge(value, pod)) for pod in candidates]
    for pod, verdict in verdicts:
        if verdict.status is Status.TRUE:
            return _said(value, verdict, now=now, pod=pod)
    # A pod that may be chosen soon says more than one that never will be.
    for wanted in (Status.UNKNOWN, Status.FALSE):
        for _, verdict in verdicts:
            if verdict.status is wanted:
                return _said(value, verdict, now=now)
    nobody = f"pod {name} is not there" if name else "no pod has these labels"
    return _said(value, _waiting(nobody), now=now)


def chosen_pod_of(value: Mapping[str, Any]) -> ObjectRef | None:
    """Return the chosen pod, as long as nothing is known to have been captured of it."""
    if value["metadata"].get("deletionTimestamp") or not is_chosen(value):
        return None
    if any(
        conditions.is_true(value, kind)
        for kind in (checkpoints.CAPTURED, checkpoints.AVAILABLE, checkpoints.FAILED)
    ):
        return None
    pod = (value.get("status") or {}).get("podRef") or {}
    if not pod.get("name") or not pod.get("uid"):
        return None
    return ObjectRef(
        resource=PODS,
        namespace=value["metadata"]["namespace"],
        name=pod["name"],
        uid=pod["uid"],
    )


def follow(value: JsonObject, *, pod: JsonObject | None, now: datetime) -> Declare | None:
    """Decide about one whose pod is chosen; *pod* is what the API has of it, by name and uid.

    A node that is lost tells nothing. It is not called failed: the daemon may have captured it and
    be without the API server, and will say so.
    """
    ref = chosen_pod_of(value)
    if ref is None or (pod is not None and not _has_ended(pod)):
        return None
    gone = "is gone" if pod is None else "has ended"
    said = Condition(
        type=checkpoints.AVAILABLE,
        status=Status.FALSE,
        reason=POD_GONE,
        message=f"pod {ref.name} {gone}, and its node has not said that it was captured",
    )
    return _declare(value, (said,), now=now)


def echo(value: JsonObject, *, now: datetime) -> Declare | None:
    """Let ``Available`` say why it failed, if the daemon has said it in ``Failed`` only."""
    available = conditions.said(value, checkpoints.AVAILABLE)
    is_ours = available.get("reason") in (None, CHOSEN, POD_GONE)
    if not conditions.is_true(value, checkpoints.FAILED) or not is_ours:
        return None
    failed = conditions.said(value, checkpoints.FAILED)
    repeated = Condition(
        type=checkpoints.AVAILABLE,
        status=Status.FALSE,
        reason=failed["reason"],
        message=failed.get("message", ""),
    )
    return _declare(value, (repeated,), now=now)


def expire(value: Mapping[str, Any], *, now: datetime) -> Expire | None:
    """Decide whether its time is over. What was never captured stays, to be read."""
    metadata = value["metadata"]
    status = value.get("status") or {}
    captured = _time(status.get("capturedAt"))
    if metadata.get("deletionTimestamp") or captured is None:
        return None
    used = max(captured, _time(status.get("lastUsedAt")) or captured)
    retention = (value.get("spec") or {}).get("retention") or {}
    for key, since, what in (
        ("ttl", captured, "was captured"),
        ("unusedFor", used, "was last used, or captured,"),
    ):
        limit = _seconds(retention.get(key))
        age = (now - since).total_seconds()
        if limit is not None and age >= limit:
            return Expire(
                persistent=ObjectRef.of(PERSISTENT_CHECKPOINTS, dict(value)),
                resource_version=metadata.get("resourceVersion", ""),
                why=f"it {what} {durations.render(age)} ago (retention.{key} is {retention[key]})",
            )
    return None


_NO_STORE_MESSAGE: Final = (
    "this cluster has no object store (objectStore.bucket of the chart), and nothing else keeps it"
)


def _judge(value: JsonObject, pod: JsonObject) -> _Verdict:
    """Return what is to be said of one pod. Whatever it is, it is no error of ours."""
    try:
        return next(_against(value, pod), None) or _for(pod)
    except FormatError as error:
        return _refused("BadPod", f"pod {pod['metadata']['name']} cannot be read: {error}")


def _against(value: JsonObject, pod: JsonObject) -> Iterator[_Verdict]:
    """Yield what speaks against a pod, what will never change first."""
    name = pod["metadata"]["name"]
    if pod["metadata"].get("deletionTimestamp"):
        yield _waiting(f"pod {name} is being deleted")
    if _has_ended(pod):
        phase = (pod.get("status") or {}).get("phase")
        yield _refused("PodFinished", f"pod {name} has ended ({phase})")
    verdict = admission.check_admitted(pod)
    if isinstance(verdict, admission.Unmanaged):
        said = "; ".join(f"{o.reason}: {o.text}" for o in verdict.obstacles)
        yield _refused("PodNotManaged", f"pod {name} runs as without Architect. {said}")
    policy = _policy_of(pod)
    if policy is None:
        yield _refused(
            "PodNotManaged",
            f"pod {name} runs as without Architect: no annotation such as {names.IDLE} opts it in",
        )
    else:
        managed = frozenset(policy.containers)
        wanted = frozenset((value.get("spec") or {}).get("containers") or managed)
        if wanted != managed:
            yield _refused(
                "ContainersDiffer",
                f"pod {name} is saved as a whole: its managed containers are "
                f"{', '.join(sorted(managed))}, not {', '.join(sorted(wanted))}",
            )
        if policy.storage is Storage.NODE:
            yield _refused(
                STAYS_ON_NODE,
                f"pod {name} is not for the object store, where alone it would be kept: its "
                f"{names.STORAGE} is {policy.storage.value}",
            )
    if podspec.runtime_class(pod) == names.RUNTIME_CLASS_GVISOR and (
        first := podspec.items(podspec.spec(pod).get("initContainers"), "initContainers")
    ):
        yield _refused(
            "InitContainers",
            f"pod {name} has init container {first[0].get('name')}: a gVisor pod goes on with all "
            "its containers at once, and none can run before",
        )
    if data := volumes.named(pod):
        yield _refused(
            volumes.PERSISTENT_VOLUME,
            f"memory of pod {name} would meet newer data: writable volume {data}",
        )
    if not podspec.spec(pod).get("nodeName") or not is_ready(pod):
        yield _waiting(f"pod {name} is not ready")


def _for(pod: JsonObject) -> _Verdict:
    name, node = pod["metadata"]["name"], podspec.spec(pod)["nodeName"]
    return _Verdict(status=Status.TRUE, reason=CHOSEN, message=f"pod {name} on node {node}")


def _waiting(message: str) -> _Verdict:
    return _Verdict(status=Status.UNKNOWN, reason=WAITING, message=message)


def _refused(reason: str, message: str) -> _Verdict:
    return _Verdict(status=Status.FALSE, reason=reason, message=message)


def _said(
    value: JsonObject, verdict: _Verdict, *, now: datetime, pod: JsonObject | None = None
) -> Declare | None:
    is_yes = verdict.status is Status.TRUE
    message = f"{verdict.message}: not saved yet" if is_yes else verdict.message
    said = (
        Condition(
            type=checkpoints.ACCEPTED,
            status=verdict.status,
            reason=verdict.reason,
            message=verdict.message,
        ),
        Condition(
            type=checkpoints.AVAILABLE,
            status=Status.FALSE,
            reason=verdict.reason,
            message=message,
        ),
    )
    fields: JsonObject = {}
    if pod is not None:
        metadata = pod["metadata"]
        fields = {
            "podRef": {"name": metadata["name"], "uid": metadata["uid"]},
            "node": podspec.spec(pod)["nodeName"],
        }
    return _declare(value, said, now=now, fields=fields)


def _declare(
    value: JsonObject,
    said: Sequence[Condition],
    *,
    now: datetime,
    fields: Mapping[str, Any] | None = None,
) -> Declare | None:
    """Return the action, or None if the object says all of it already."""
    if checkpoints.status_patch(value, *said, fields=fields, now=now) is None:
        return None
    return Declare(value=value, conditions=tuple(said), fields=fields or {})


def _policy_of(pod: Mapping[str, Any]) -> Policy | None:
    """Return the policy that the pod was created with, if it runs in our runtime class."""
    text = podspec.annotations_of(pod).get(names.POLICY)
    if text is None or podspec.runtime_class(pod) not in RUNTIME_CLASSES:
        return None
    try:
        policy = Policy.from_json(text)
    except PolicyError:
        return None
    return policy if policy.containers else None


def _has_ended(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in podspec.FINISHED_PHASES


def _seniority(pod: Mapping[str, Any]) -> tuple[str, str]:
    metadata = pod["metadata"]
    return metadata.get("creationTimestamp") or "", metadata["name"]


def _wanted_labels(value: Mapping[str, Any]) -> dict[str, str]:
    return dict(((value.get("spec") or {}).get("selector") or {}).get("matchLabels") or {})


def _wrong_label(labels: Mapping[str, str]) -> str:
    """Return one that the API would not read as one label; empty if all are fine."""
    return next(
        (
            f"{key}={text}"
            for key, text in sorted(labels.items())
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(text)
        ),
        "",
    )


def _time(text: Any) -> datetime | None:
    """Return a time as the API writes it; None for none."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _seconds(text: Any) -> float | None:
    try:
        return durations.parse(text)
    except (TypeError, ValueError):
        return None
