"""Which pods of a machine that ends are deleted, and when: objects in, decisions out. Pure.

The daemon of a node that was given notice saves its pods by itself, and says of each what became of
it in a Checkpoint. It may not delete them. So their replacements come once the operator deletes
them: one by one, as soon as nothing is won by waiting, while others are still on their way into the
object store.

Captured
    The pod's processes are gone for good, whatever becomes of the node: it is to be replaced. Its
    node is not to lose it before it lies in the object store, or is known never to. Where another
    pod of its owner was faster and goes on with it, nothing is to be kept any more.
Not captured
    It runs on, and is best told so (SIGTERM) while there is time. Not if the notice was withdrawn.

Any daemon can make a Checkpoint of any pod, but the API server lets none name another node than its
own as the one that saves it (``admissionPolicy`` of the chart). So the word of the pod's own node
counts, and nobody else's: a daemon that was stolen has no pods of other nodes deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from architect.api import names
from architect.api.policy import Storage
from architect.core.errors import FormatError
from architect.kube import checkpoints, conditions
from architect.kube.checkpoints import Trigger
from architect.kube.resources import ObjectRef
from architect.operator import plan
from architect.operator.plan import Dismiss

JsonObject = dict[str, Any]


def pod_of(checkpoint: JsonObject) -> ObjectRef | None:
    """Return the pod that may have to go; None: this says nothing of one, or not yet.

    Cheap: what is asked before anything is read.
    """
    if (checkpoint.get("spec") or {}).get("trigger") != Trigger.SPOT_INTERRUPTION.value:
        return None
    if not conditions.is_decided(checkpoint, checkpoints.CAPTURED):
        return None
    try:
        return checkpoints.pod_of(checkpoint)
    except FormatError:
        return None


def decide(
    checkpoint: JsonObject,
    *,
    pod: Mapping[str, Any] | None,
    node: Mapping[str, Any] | None,
    is_deleted: bool = False,
) -> Dismiss | None:
    """Decide about the pod of *checkpoint*; *is_deleted*: which has been deleted just now.

    *pod* is what the API has under the pod's name, *node* under that of the pod's node.
    """
    ref = pod_of(checkpoint)
    if ref is None or pod is None or pod["metadata"].get("uid") != ref.uid:
        return None
    if plan.is_settled(dict(pod)) or saver_of(checkpoint) != (pod.get("spec") or {}).get(
        "nodeName"
    ):
        return None
    is_interrupted = is_ending(node)
    if conditions.is_false(checkpoint, checkpoints.CAPTURED):
        # Once the notice is withdrawn, the daemon takes such a Checkpoint back. A DaemonSet makes
        # the same pod there again, for as long as the node lives.
        if not is_interrupted or is_deleted or plan.is_of_daemon_set(pod):
            return None
        said = conditions.said(checkpoint, checkpoints.CAPTURED)
        why = f"it could not be saved before its node's end: {_words(said)}"
        return Dismiss(pod=ref, is_saved=False, why=why)
    available = conditions.said(checkpoint, checkpoints.AVAILABLE)
    if available.get("reason") == checkpoints.RUNS_AGAIN:
        return None
    if is_deleted:
        return Dismiss(pod=ref, is_saved=False, why="what was saved of it was deleted")
    reason = _why_now(checkpoint, is_interrupted=is_interrupted)
    return None if reason is None else Dismiss(pod=ref, is_saved=True, why=f"it is saved, {reason}")


def saver_of(checkpoint: Mapping[str, Any]) -> str:
    """Return the node that saves the pod, or saved it; empty: none says so."""
    status = checkpoint.get("status") or {}
    return str(status.get("node") or checkpoints.peer_of(checkpoint).get("node") or "")


def is_ending(node: Mapping[str, Any] | None) -> bool:
    """Whether a node says that its machine ends. Of one that is gone nothing is said any more."""
    annotations = ((node or {}).get("metadata") or {}).get("annotations") or {}
    return names.INTERRUPTION in annotations


def _why_now(checkpoint: JsonObject, *, is_interrupted: bool) -> str | None:
    """Return why a saved pod is not to stay any longer; None: its upload is waited for."""
    if conditions.is_true(checkpoint, checkpoints.STORED):
        return "and lies in the object store"
    if conditions.is_false(checkpoint, checkpoints.STORED):
        said = _words(conditions.said(checkpoint, checkpoints.STORED))
        return f"and will not lie in the object store: {said}"
    if conditions.is_true(checkpoint, checkpoints.RESTORED):
        # By the replacement of another pod of its owner: its own does not come while it is there.
        return "and another pod goes on with it"
    if conditions.is_true(checkpoint, checkpoints.FAILED):
        said = _words(conditions.said(checkpoint, checkpoints.FAILED))
        return f"and nobody can go on with it any more: {said}"
    if checkpoints.storage_of(checkpoint) is Storage.NODE:
        return "and stays with nodes"
    if not is_interrupted:
        return "and its node stays, or is gone"
    return None


def _words(said: Mapping[str, Any]) -> str:
    return ": ".join(str(said[key]) for key in ("reason", "message") if said.get(key))
