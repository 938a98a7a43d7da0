"""Claims of pods whose node is lost: given back, so that the next pod goes on. Pure.

A claim is given up by the daemon that made it. Where that daemon's machine is gone for good, nobody
does. Whether it is, is not guessed from silence: a machine that is only cut off may run the pod,
and memory runs once. It is gone when its Node object is, or when an administrator, or whoever
manages machines, has said so with the taint ``node.kubernetes.io/out-of-service`` (KEP-2268), by
which Kubernetes itself lets go of a pod's name and volumes. The pod must be gone as well, or over.

A daemon says that a pod goes on (``Restored`` is ``Unknown``) before its first instruction. Of a
pod that was lost after that, nobody knows whether it ran: nothing goes on from there any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.core.podspec import FINISHED_PHASES
from architect.kube import checkpoints, conditions
from architect.kube.checkpoints import Trigger
from architect.kube.conditions import Condition, Status
from architect.operator.machines import OUT_OF_SERVICE

REASON: Final = "ClaimantLost"

MAY_HAVE_RUN: Final = "MayHaveRun"
"""Reason of ``Available``: nobody will go on from it."""


@dataclass(frozen=True, kw_only=True)
class Claimant:
    """Who has claimed a checkpoint and not gone on from it yet."""

    name: str
    uid: str
    node: str


def claimant_of(checkpoint: Mapping[str, Any]) -> Claimant | None:
    """Return who has a checkpoint that another pod may want; None: nobody, or it is over."""
    status = checkpoint.get("status") or {}
    claim = status.get("claimedBy") or {}
    trigger = (checkpoint.get("spec") or {}).get("trigger")
    if trigger in (Trigger.SLEEP.value, Trigger.REQUEST.value) or not claim:
        return None
    is_over = conditions.is_true(checkpoint, checkpoints.RESTORED) or conditions.is_false(
        checkpoint, checkpoints.AVAILABLE
    )
    if is_over or checkpoint["metadata"].get("deletionTimestamp"):
        return None
    return Claimant(name=claim["name"], uid=claim["uid"], node=claim["node"])


def may_go_on(claimant: Claimant, *, pod: Mapping[str, Any] | None) -> bool:
    """Whether *claimant* is there, and not over; *pod* is what the API has by its name."""
    is_same = pod is not None and pod["metadata"].get("uid") == claimant.uid
    # One that is over, or was refused by its node, may lie about for days.
    return is_same and ((pod or {}).get("status") or {}).get("phase") not in FINISHED_PHASES


def is_lost(
    claimant: Claimant, *, pod: Mapping[str, Any] | None, node: Mapping[str, Any] | None
) -> bool:
    """Whether *claimant* will never go on; *pod* and *node* are what the API has by these names."""
    if may_go_on(claimant, pod=pod):
        return False
    return node is None or is_out_of_service(node)


def is_out_of_service(node: Mapping[str, Any]) -> bool:
    """Whether somebody has said that a node's machine is gone."""
    taints = (node.get("spec") or {}).get("taints") or ()
    return any(taint.get("key") == OUT_OF_SERVICE for taint in taints)


def freed(checkpoint: Mapping[str, Any], claimant: Claimant) -> tuple[Condition, dict[str, Any]]:
    """Return what the checkpoint says, with the fields, once its claimant is lost."""
    gone = f"pod {claimant.name} is gone with node {claimant.node}"
    if conditions.said(checkpoint, checkpoints.RESTORED).get("status") == Status.UNKNOWN.value:
        said = Condition(
            type=checkpoints.AVAILABLE,
            status=Status.FALSE,
            reason=MAY_HAVE_RUN,
            message=f"{gone}, and may have gone on before: memory runs once",
        )
        return said, {}
    return Condition(type=checkpoints.CLAIMED, status=Status.FALSE, reason=REASON, message=gone), {
        "claimedBy": None
    }
