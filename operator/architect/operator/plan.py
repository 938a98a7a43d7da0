"""What is to be done about an object: objects in, actions out, nothing read or written.

PersistentCheckpoints have a module of their own, :mod:`architect.operator.persistent`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from architect.api import names
from architect.core import pods as admission
from architect.core.errors import FormatError
from architect.core.podspec import FINISHED_PHASES
from architect.kube import checkpoints
from architect.kube.checkpoints import Trigger
from architect.kube.conditions import Condition
from architect.kube.resources import CHECKPOINTS, NODES, PODS, ObjectRef

JsonObject = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Delete a checkpoint whose pod is gone."""

    checkpoint: ObjectRef
    resource_version: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Expire:
    """Delete a PersistentCheckpoint whose time is over."""

    persistent: ObjectRef
    resource_version: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Declare:
    """Set conditions, and with them fields, of the status of one of our objects."""

    value: JsonObject
    conditions: tuple[Condition, ...]
    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Tell about an object, once."""

    regarding: ObjectRef
    reason: str
    note: str
    action: str


@dataclass(frozen=True, kw_only=True)
class Unlabel:
    """Take labels of ours off a node that nobody serves."""

    node: ObjectRef
    labels: tuple[str, ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class Dismiss:
    """Delete a pod, with its own grace period, so that its replacement comes."""

    pod: ObjectRef
    is_saved: bool
    """Whether its replacement goes on with its memory."""
    why: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Say of a node that its machine is gone, or is there again: taints and our annotation."""

    node: ObjectRef
    resource_version: str
    taints: tuple[JsonObject, ...]
    """All that it is to have."""
    boot_id: str | None
    """The annotation's value: the run of the machine that is over; None: it is there again."""
    why: str


Action: TypeAlias = Collect | Expire | Declare | Report | Unlabel | Dismiss | Mark


def pod_it_goes_with(value: JsonObject) -> ObjectRef | None:
    """Return the pod with which a checkpoint goes; None: it is meant to outlive it, or goes.

    Cheap: what is asked before anything is read. Raises FormatError for one that names no pod.
    """
    metadata = value["metadata"]
    if metadata.get("deletionTimestamp"):
        return None
    ref = checkpoints.pod_of(value)
    is_owned = any(o.get("uid") == ref.uid for o in metadata.get("ownerReferences") or ())
    if not is_owned and value["spec"].get("trigger") != Trigger.SLEEP.value:
        return None
    return ref


def for_checkpoint(value: JsonObject, *, pod: JsonObject | None) -> Collect | None:
    """Decide about one checkpoint; *pod* is what the API has under its pod's name now.

    One that belongs to its pod goes with it. The cluster's garbage collector does the same by the
    ownerReference; this is for an object without one, and for a pod that was replaced under its
    name (a StatefulSet's). One that is meant to outlive its pod is left alone.
    """
    metadata = value["metadata"]
    ref = pod_it_goes_with(value)
    if ref is None:
        return None
    if pod is None:
        why = f"pod {ref.name} is gone"
    elif (uid := pod["metadata"]["uid"]) != ref.uid:
        why = f"pod {ref.name} was replaced (uid {uid} instead of {ref.uid})"
    elif (phase := (pod.get("status") or {}).get("phase")) in FINISHED_PHASES:
        why = f"pod {ref.name} has ended ({phase})"
    else:
        return None
    return Collect(
        checkpoint=ObjectRef.of(CHECKPOINTS, value),
        resource_version=metadata.get("resourceVersion", ""),
        why=why,
    )


def is_of_interest(pod: Mapping[str, Any]) -> bool:
    """Whether a pod says anything about Architect: a cheap look before the thorough one."""
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    return any(key.startswith((f"{names.GROUP}/", names.VENDOR_PREFIX)) for key in annotations)


def is_settled(pod: JsonObject) -> bool:
    """Whether nothing that is said about this pod can change anything any more."""
    return bool(pod["metadata"].get("deletionTimestamp")) or is_finished(pod)


def is_finished(pod: JsonObject) -> bool:
    """Whether nothing of this pod runs again."""
    return (pod.get("status") or {}).get("phase") in FINISHED_PHASES


def is_of_daemon_set(pod: Mapping[str, Any]) -> bool:
    """Whether another pod like it comes to the same node."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(o.get("controller") and o.get("kind") == "DaemonSet" for o in owners)


def for_pod(pod: JsonObject, *, has_gvisor: bool = True) -> Report | None:
    """Decide about one pod: whether its owner wants it managed and it is not, or not so.

    *has_gvisor*: this cluster has the runtime class of gVisor.
    """
    if is_settled(pod) or not is_of_interest(pod):
        return None
    ref = ObjectRef.of(PODS, pod)
    try:
        verdict = admission.check_admitted(pod, has_gvisor=has_gvisor)
    except FormatError as error:
        return _report(ref, names.EVENT_UNMANAGED, f"runs as without Architect: {error}")
    match verdict:
        case admission.Unmanaged(obstacles=obstacles):
            said = "; ".join(f"{o.reason}: {o.text}" for o in obstacles)
            note = f"runs as without Architect. {said}. {remedy(pod)}"
            return _report(ref, names.EVENT_UNMANAGED, note)
        case admission.Drifted(differences=differences):
            note = f"is managed by the policy it was created with. {'; '.join(differences)}"
            return _report(ref, names.EVENT_POLICY_DRIFTED, note)
        case _:
            return None


def remedy(pod: JsonObject) -> str:
    """Return the command that has a pod admitted anew."""
    metadata = pod["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    owner: dict[str, Any] = next(
        (o for o in metadata.get("ownerReferences") or () if o.get("controller")), {}
    )
    kind, owner_name = owner.get("kind"), str(owner.get("name", ""))
    if kind in ("StatefulSet", "DaemonSet"):
        target = f"{str(kind).lower()}/{owner_name}"
        return f"To have it managed: kubectl rollout restart -n {namespace} {target}"
    pod_hash = (metadata.get("labels") or {}).get("pod-template-hash")
    if kind == "ReplicaSet" and pod_hash and owner_name.endswith(f"-{pod_hash}"):
        deployment = owner_name.removesuffix(f"-{pod_hash}")
        return f"To have it managed: kubectl rollout restart -n {namespace} deployment/{deployment}"
    if owner:
        return f"To have it managed: kubectl delete pod -n {namespace} {name}"
    return f"To have it managed: delete pod {name} and create it again"


@dataclass(frozen=True, kw_only=True)
class NodesView:
    """Which labelled nodes somebody serves, and what follows."""

    actions: tuple[Unlabel | Report, ...]
    labelled: int
    unserved: frozenset[str]
    """Names of labelled nodes without a daemon's pod: suspects, for the next look."""


def for_nodes(
    nodes: Iterable[JsonObject],
    *,
    daemons: Iterable[JsonObject],
    pods: Iterable[JsonObject],
    suspects: frozenset[str],
) -> NodesView:
    """Decide about our labels of all nodes.

    A node without a daemon keeps no promise to new pods, so its labels go if the last look found
    the same: a DaemonSet that is rolled out leaves a node without a pod for moments. A label
    stays where pods run in its runtime class, which copied it into their nodeSelector: a kubelet
    that restarts would fail them. And where there is no daemon at all, somebody has changed its
    labels or is uninstalling: nothing is touched.
    """
    serving = {(p.get("spec") or {}).get("nodeName") for p in daemons}
    used = {
        (spec.get("nodeName"), spec.get("runtimeClassName"))
        for p in pods
        if (spec := p.get("spec") or {}) and not is_settled(p)
    }
    actions: list[Unlabel | Report] = []
    unserved: set[str] = set()
    labelled = 0
    for node in nodes:
        metadata = node["metadata"]
        name = metadata["name"]
        existing = metadata.get("labels") or {}
        labels = [label for label in names.NODE_LABELS if existing.get(label) == "true"]
        if not labels:
            continue
        labelled += 1
        if name in serving:
            continue
        unserved.add(name)
        if name not in suspects or not serving:
            continue
        ref = ObjectRef.of(NODES, node)
        kept = [label for label in labels if (name, names.NODE_LABELS[label]) in used]
        if kept:
            note = (
                "has no daemon: its managed pods run and wake, but do not sleep. While they run, "
                f"this stays: label {', '.join(kept)}"
            )
            actions.append(_report(ref, names.EVENT_NODE_UNSERVED, note))
        if gone := tuple(label for label in labels if label not in kept):
            actions.append(Unlabel(node=ref, labels=gone, why="no daemon runs there"))
    return NodesView(actions=tuple(actions), labelled=labelled, unserved=frozenset(unserved))


def _report(ref: ObjectRef, reason: str, note: str) -> Report:
    return Report(regarding=ref, reason=reason, note=note, action="Check")
