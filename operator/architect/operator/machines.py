"""Whether a node's machine is gone for good: what the API knows in, decisions out. Pure.

A node that is silent may only be cut off, and its pods run on. So Kubernetes keeps the names and
volumes of a StatefulSet's pods until somebody says that the machine is down, by the taint
``node.kubernetes.io/out-of-service`` (KEP-2268). Of a machine that its cloud has announced to end
it can be known, and is said here:

- its node says an *interruption* (:mod:`architect.core.interruption`), and not maintenance;
- the time that was announced is over since :data:`MARGIN_SECONDS`. Or, where nobody said a time or
  could say anything, since the API server was away, its pods are saved for a machine's end: of
  those no process is left, whatever became of the machine (:func:`are_saved`);
- its node is not ready, and its kubelet has not renewed its Lease for :data:`SILENT_SECONDS`.

No clock is compared with another machine's. The end was announced in the node's own time, and so
are its Lease's renewals written: whoever saw a renewal *s* seconds ago knows that the node's clock
shows at least that much more now (:class:`Heartbeat`). An operator that has just begun waits longer
for it, and never not long enough.

A machine that outlives its end was announced in vain: from then on nothing is concluded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from architect.api import names
from architect.core import interruption, podspec
from architect.core.errors import FormatError
from architect.core.interruption import Interruption
from architect.kube import checkpoints, conditions
from architect.kube.resources import NODES, ObjectRef
from architect.operator import dismissal, plan
from architect.operator.plan import Mark, Report

JsonObject = dict[str, Any]

OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"

TAINT: Final = {"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
"""As Kubernetes documents it for machines that are down."""

INTERRUPTION: Final = "interruption"
"""The kind of notice after which a machine does not come back."""

MARGIN_SECONDS: Final = 5.0
"""After the announced end."""

SILENT_SECONDS: Final = 20.0
"""Without a renewal, of which kubelet makes one every 10 s."""

OUTLIVED_SECONDS: Final = 120.0
"""Clouds are late by seconds. A kubelet that is heard of this long after the end had none."""

_MIRROR: Final = "kubernetes.io/config.mirror"
_REPLACED_AT_ONCE: Final = frozenset({"ReplicaSet", "Job", "ReplicationController"})
"""Owners that do not wait for the end of a pod that is being deleted."""
_OF_CLAIMS: Final = ("persistentVolumeClaim", "ephemeral")


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The latest renewal of a node's Lease, and when it was first seen."""

    renewed: datetime
    """By the node's clock."""
    seen_at: float
    """Monotonic seconds, here."""

    def silent_seconds(self, now: float) -> float:
        """Return for how long, at least, the node has been silent."""
        return now - self.seen_at

    def there(self, now: float) -> datetime:
        """Return what the node's clock shows at least, if it still runs."""
        return self.renewed + timedelta(seconds=self.silent_seconds(now))


def observe(before: Heartbeat | None, lease: Mapping[str, Any] | None, *, now: float) -> Heartbeat:
    """Return the heartbeat once *lease* was read. Raises FormatError if it has no renewal."""
    renewed = renewed_at(lease)
    if renewed is None:
        raise FormatError("it has no Lease that was ever renewed")
    if before is not None and before.renewed == renewed:
        return before
    return Heartbeat(renewed=renewed, seen_at=now)


def renewed_at(lease: Mapping[str, Any] | None) -> datetime | None:
    """Return when a node's Lease was renewed last, by the node's clock; None: nobody knows."""
    text = ((lease or {}).get("spec") or {}).get("renewTime")
    try:
        found = datetime.fromisoformat(text) if text else None
    except (TypeError, ValueError):
        return None
    return found if found is not None and found.tzinfo is not None else None


def is_ready(node: Mapping[str, Any]) -> bool:
    """Whether kubelet was heard, and fine, by the word of Kubernetes: up to 50 s late."""
    return conditions.is_true(node, "Ready")


def is_talking(node: Mapping[str, Any], lease: Mapping[str, Any] | None, *, now: datetime) -> bool:
    """Whether a node's daemon can be expected to speak for itself. A guess: by two clocks."""
    renewed = renewed_at(lease)
    is_late = renewed is not None and (now - renewed).total_seconds() > SILENT_SECONDS
    return is_ready(node) and not is_late


def notice_of(node: Mapping[str, Any]) -> Interruption | None:
    """Return the notice by which a machine ends for good; None: there is none that can be read."""
    try:
        found = interruption.of_node(node)
    except FormatError:
        return None
    return found if found is not None and found.kind == INTERRUPTION else None


def boot_id(node: Mapping[str, Any]) -> str:
    """Return which run of the machine its kubelet told of last."""
    info = (node.get("status") or {}).get("nodeInfo") or {}
    return str(info.get("bootID") or "")


def given_up(node: Mapping[str, Any]) -> str | None:
    """Return the run of the machine that was said to be over; None: none was."""
    annotations = (node.get("metadata") or {}).get("annotations") or {}
    found = annotations.get(names.OUT_OF_SERVICE)
    return None if found is None else str(found)


def is_of_interest(node: Mapping[str, Any]) -> bool:
    """Whether a node is to be looked at again and again."""
    return dismissal.is_ending(node) or given_up(node) is not None or not is_ready(node)


def why_gone(
    node: Mapping[str, Any],
    *,
    heartbeat: Heartbeat,
    are_saved: bool,
    now: float,
) -> str | None:
    """Return by what it is known that a node's machine is gone; None: it is not known.

    *are_saved*: what :func:`are_saved` says of its pods.
    """
    notice = notice_of(node)
    if is_ready(node) or (notice is None and dismissal.is_ending(node)):
        return None
    silent = heartbeat.silent_seconds(now)
    if silent < SILENT_SECONDS:
        return None
    said = f"its kubelet is silent since {heartbeat.renewed:%H:%M:%S}"
    if notice is None or notice.ends is None:
        if not are_saved:
            return None
        who = "nobody could be told of" if notice is None else f"{notice.source} announced"
        return f"{who} its end, {said}, and its pods are saved"
    if heartbeat.there(now) < notice.ends + timedelta(seconds=MARGIN_SECONDS):
        return None
    if heartbeat.renewed > notice.ends + timedelta(seconds=OUTLIVED_SECONDS):
        return None
    return f"{notice.source} announced its end for {notice.ends:%H:%M:%S}, and {said}"


def give_up(node: JsonObject, why: str) -> Mark | None:
    """Return how a node is marked whose machine is gone; None: it is, or was."""
    if given_up(node) is not None or any(t.get("key") == OUT_OF_SERVICE for t in _taints(node)):
        return None
    return Mark(
        node=ObjectRef.of(NODES, node),
        resource_version=node["metadata"]["resourceVersion"],
        taints=(*_taints(node), dict(TAINT)),
        boot_id=boot_id(node),
        why=f"its machine is gone: {why}. Its pods and volumes are let go ({OUT_OF_SERVICE})",
    )


def take_back(node: JsonObject) -> Mark | Report | None:
    """Return what is done about a node that was given up and is ready again."""
    gone = given_up(node)
    if gone is None or not is_ready(node):
        return None
    ref = ObjectRef.of(NODES, node)
    if gone == boot_id(node):
        # Its processes may have run on all the time: who decides that is not a program.
        return Report(
            regarding=ref,
            reason=names.EVENT_MACHINE_BACK,
            note="it is the same run of the machine that was taken for gone. Look what runs there, "
            f"then: kubectl taint node {ref.name} {OUT_OF_SERVICE}- and kubectl annotate node "
            f"{ref.name} {names.OUT_OF_SERVICE}-",
            action="Check",
        )
    return Mark(
        node=ref,
        resource_version=node["metadata"]["resourceVersion"],
        taints=tuple(taint for taint in _taints(node) if not _is_ours(taint)),
        boot_id=None,
        why="its machine was started again, and takes pods",
    )


def are_saved(pods: Iterable[JsonObject], known: Iterable[JsonObject], *, node: str) -> bool:
    """Whether no pod on *node* can run on to anybody's harm, as far as that is in saving them.

    One at least is saved for its machine's end. So is each that Kubernetes lets run once only, or
    that has a volume of its own, whether it is one of ours or not; and each of ours that nobody
    deletes: if the machine comes back, it has lost nothing. *known* are all Checkpoints.
    """
    captured = set()
    for value in known:
        ref = dismissal.pod_of(value)
        is_true = conditions.is_true(value, checkpoints.CAPTURED)
        if ref is not None and is_true and dismissal.saver_of(value) == node:
            captured.add(ref.uid)
    there = [pod for pod in pods if _may_run(pod, node)]
    unsaved = [pod for pod in there if pod["metadata"]["uid"] not in captured]
    return len(unsaved) < len(there) and not any(map(_is_harmful, unsaved))


def _may_run(pod: JsonObject, node: str) -> bool:
    metadata = pod["metadata"]
    return (
        (pod.get("spec") or {}).get("nodeName") == node
        and (pod.get("status") or {}).get("phase") not in podspec.FINISHED_PHASES
        and _MIRROR not in (metadata.get("annotations") or {})
        and not plan.is_of_daemon_set(pod)
    )


def _is_harmful(pod: JsonObject) -> bool:
    """Whether a pod that runs on must not be let go."""
    metadata = pod["metadata"]
    owner = next((o for o in metadata.get("ownerReferences") or () if o.get("controller")), None)
    if owner is not None and owner.get("kind") not in _REPLACED_AT_ONCE:
        return True
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    if any(kind in volume for volume in volumes for kind in _OF_CLAIMS):
        return True
    is_ours = names.POLICY in (metadata.get("annotations") or {})
    return is_ours and not metadata.get("deletionTimestamp")


def _taints(node: Mapping[str, Any]) -> tuple[JsonObject, ...]:
    return tuple((node.get("spec") or {}).get("taints") or ())


def _is_ours(taint: Mapping[str, Any]) -> bool:
    return all(taint.get(key) == value for key, value in TAINT.items())
