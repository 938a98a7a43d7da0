"""Who is given the key of a checkpoint in the object store: objects in, decisions out.

A daemon that claims a checkpoint says for which pod, and gives a public key that it made for this
claim. What it says is compared with the pod as the API server has it: the pod is there, runs on the
node that claims, and belongs to the owner of the one that was saved. The key then opens with that
claim's private key only, which no other node has.

Each public key is answered once: with the key, or with a refusal whose message begins with a mark
of the public key. A new claim comes with a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from architect.checkpoint import keys
from architect.checkpoint.keys import Binding, Claimant, PublicKey
from architect.core.errors import FormatError
from architect.kube import checkpoints, conditions
from architect.kube.conditions import Condition, Status
from architect.kube.resources import PODS, ObjectRef
from architect.operator import plan
from architect.operator.keyring import Keyring


@dataclass(frozen=True, kw_only=True)
class Release:
    """Encrypt the data's key for the claimant."""

    public_text: str
    public: PublicKey
    key_id: str
    wrapped: bytes
    binding: Binding
    claimant: Claimant


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """Give nothing, and say why."""

    public_text: str
    """Of the claim that this is about."""
    reason: str
    """A CamelCase word for conditions and metrics."""
    message: str


Decision: TypeAlias = Release | Refuse


def claimant_of(checkpoint: Mapping[str, Any]) -> ObjectRef | None:
    """Return the pod for which a key is asked; None: nobody asks, or who asked has his answer."""
    status = checkpoint.get("status") or {}
    claim, stored = status.get("claimedBy") or {}, _stored(status)
    public_text = claim.get("publicKey")
    if not stored.get("wrappedKey") or not public_text:
        return None
    if (status.get("keyRelease") or {}).get("publicKey") == public_text:
        return None
    last = conditions.find(status.get("conditions") or (), checkpoints.KEY_RELEASED)
    if (
        last is not None
        and last.get("status") == Status.FALSE.value
        and str(last.get("message")).startswith(keys.claim_mark(public_text))
    ):
        return None
    return ObjectRef(
        resource=PODS,
        namespace=checkpoint["metadata"]["namespace"],
        name=claim["name"],
    )


def decide(checkpoint: Mapping[str, Any], *, pod: Mapping[str, Any] | None) -> Decision | None:
    """Decide about one claim; *pod* is what the API has under the claimant's name now.

    None: nothing is asked, or it was answered. Raises FormatError for an object that names no pod.
    """
    if claimant_of(checkpoint) is None:
        return None
    status = checkpoint["status"]
    claim, stored = status["claimedBy"], _stored(status)
    public_text = claim["publicKey"]
    refused = _what_ended(checkpoint) or _what_differs(checkpoint, claim, pod)
    if refused is not None:
        return Refuse(public_text=public_text, reason=refused[0], message=refused[1])
    try:
        return Release(
            public_text=public_text,
            public=keys.public_from_text(public_text),
            key_id=stored.get("keyID") or "",
            wrapped=keys.sealed_from_text(stored["wrappedKey"]),
            binding=binding_of(checkpoint),
            claimant=Claimant(pod_uid=claim["uid"], node=claim["node"]),
        )
    except FormatError as error:
        return Refuse(public_text=public_text, reason="BadKey", message=str(error))


def answer(release: Release, keyring: Keyring) -> str | Refuse:
    """Return the data's key for the claimant, encrypted, as base64; or why it cannot be had."""
    private = keyring.find(release.key_id)
    if private is None:
        return Refuse(
            public_text=release.public_text,
            reason="UnknownKey",
            message=f"the operator does not have key {release.key_id or 'without id'}, for which "
            "it was encrypted: its Secret was lost, or this is another cluster's",
        )
    try:
        data_key = keys.unwrap(release.wrapped, private, release.binding)
        sealed = keys.release(data_key, release.public, release.binding, claimant=release.claimant)
    except FormatError as error:
        return Refuse(public_text=release.public_text, reason="BadKey", message=str(error))
    return keys.sealed_to_text(sealed)


def binding_of(checkpoint: Mapping[str, Any]) -> Binding:
    """Return of which checkpoint a key is, by what never changes: its place and its ``spec``.

    What daemons write into ``status`` has no part in it. Raises FormatError.
    """
    pod = checkpoints.pod_of(dict(checkpoint))
    return Binding(
        namespace=pod.namespace or "",
        pod_uid=pod.uid,
        owner_uid=(checkpoint["spec"].get("owner") or {}).get("uid", ""),
        checkpoint_id=pod.uid,
    )


def said(decision: Release | Refuse) -> Condition:
    """Return the condition that tells of the decision."""
    if isinstance(decision, Refuse):
        return Condition(
            type=checkpoints.KEY_RELEASED,
            status=Status.FALSE,
            reason=decision.reason,
            message=f"{keys.claim_mark(decision.public_text)}{decision.message}",
        )
    return Condition(
        type=checkpoints.KEY_RELEASED,
        status=Status.TRUE,
        reason="Released",
        message=f"{keys.claim_mark(decision.public_text)}to node {decision.claimant.node}",
    )


def _stored(status: Mapping[str, Any]) -> Mapping[str, Any]:
    stored: Mapping[str, Any] = (status.get("location") or {}).get("s3") or {}
    return stored


def _what_ended(checkpoint: Mapping[str, Any]) -> tuple[str, str] | None:
    if checkpoint["metadata"].get("deletionTimestamp"):
        return "BeingDeleted", "the checkpoint is being deleted"
    existing = checkpoint["status"].get("conditions") or ()
    restored = conditions.find(existing, checkpoints.RESTORED)
    if restored is not None and restored.get("status") == Status.TRUE.value:
        return "AlreadyRestored", "a pod goes on from it already, and it restores one only"
    return None


def _what_differs(
    checkpoint: Mapping[str, Any], claim: Mapping[str, Any], pod: Mapping[str, Any] | None
) -> tuple[str, str] | None:
    """Return what about the pod is not as the claim says."""
    name, node = claim["name"], claim["node"]
    if pod is None:
        return "PodGone", f"pod {name} is not there"
    if (uid := pod["metadata"].get("uid")) != claim["uid"]:
        return "PodReplaced", f"pod {name} is another one (uid {uid} instead of {claim['uid']})"
    if (bound := (pod.get("spec") or {}).get("nodeName")) != node:
        where = f"on node {bound}" if bound else "on no node"
        return "WrongNode", f"pod {name} is {where}, and node {node} claims for it"
    if (phase := (pod.get("status") or {}).get("phase")) in plan.FINISHED_PHASES:
        return "PodEnded", f"pod {name} has ended ({phase})"
    owner = (checkpoint["spec"].get("owner") or {}).get("uid")
    controllers = [
        o.get("uid") for o in pod["metadata"].get("ownerReferences") or () if o.get("controller")
    ]
    if not owner or controllers != [owner]:
        return "WrongOwner", f"pod {name} is not controlled by the owner of the pod that was saved"
    return None
