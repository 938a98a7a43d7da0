"""Whether the pod that a claim names is one that may have what was saved. Pure.

A claim is what a daemon wrote into a Checkpoint: for which pod, on which node. Here it is compared
with the pod as the API server has it. Two ask: the operator, before it gives the key of what lies
in the object store, and the daemon that has a checkpoint, before it serves it to another node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from architect.core.podspec import FINISHED_PHASES


def what_differs(claim: Mapping[str, Any], pod: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Return what about *pod* is not as *claim* says, as reason and text; None: nothing.

    *pod* is what the API has under the claimant's name now.
    """
    name, node = claim["name"], claim["node"]
    if pod is None:
        return "PodGone", f"pod {name} is not there"
    if (uid := pod["metadata"].get("uid")) != claim["uid"]:
        return "PodReplaced", f"pod {name} is another one (uid {uid} instead of {claim['uid']})"
    if (bound := (pod.get("spec") or {}).get("nodeName")) != node:
        where = f"on node {bound}" if bound else "on no node"
        return "WrongNode", f"pod {name} is {where}, and node {node} claims for it"
    if (phase := (pod.get("status") or {}).get("phase")) in FINISHED_PHASES:
        return "PodEnded", f"pod {name} has ended ({phase})"
    return None


def wrong_owner(pod: Mapping[str, Any], *, owner_uid: str) -> tuple[str, str] | None:
    """Return that *pod* is not the owner's of the pod that was saved; None: it is.

    *owner_uid* empty: nobody replaces that pod.
    """
    controllers = [
        o.get("uid") for o in pod["metadata"].get("ownerReferences") or () if o.get("controller")
    ]
    if owner_uid and controllers == [owner_uid]:
        return None
    name = pod["metadata"].get("name")
    return "WrongOwner", f"pod {name} is not controlled by the owner of the pod that was saved"
