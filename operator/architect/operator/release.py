"""Who is given the key of a checkpoint in the object store: objects in, decisions out.

A daemon that claims a checkpoint says for which pod, and gives a public key that it made for this
claim. What it says is compared with the pod as the API server has it: the pod is there, runs on the
node that claims, and belongs to the owner of the one that was saved. The key then opens with that
claim's private key only, which no other node has. Who starts from a PersistentCheckpoint claims a
Checkpoint made for it: :mod:`architect.operator.starts`.

Each public key is answered once: with the key, or with a refusal whose message begins with a mark
of the public key. A new claim comes with a new one. What keeps an answer back for now is said in
the same place, and is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from architect.checkpoint import keys
from architect.checkpoint.keys import Binding, Claimant, PublicKey
from architect.core.errors import ArchitectError, FormatError, Rejected
from architect.kube import checkpoints, claimants, conditions
from architect.kube.access import Question
from architect.kube.conditions import Condition, Status
from architect.kube.resources import PODS, ObjectRef
from architect.operator import starts
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


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Ask the API server, and decide again with its answer."""

    question: Question


Decision: TypeAlias = Release | Refuse | Ask


def claimant_of(checkpoint: Mapping[str, Any]) -> ObjectRef | None:
    """Return the pod for which a key is asked; None: nobody asks, or who asked has his answer."""
    status = checkpoint.get("status") or {}
    claim = status.get("claimedBy") or {}
    public_text = claim.get("publicKey")
    # The wrapped key of a PersistentCheckpoint is read from there.
    has_key = starts.source_of(checkpoint) or checkpoints.stored_in(checkpoint).get("wrappedKey")
    if not has_key or not public_text:
        return None
    if (status.get("keyRelease") or {}).get("publicKey") == public_text:
        return None
    refusal = conditions.said(checkpoint, checkpoints.KEY_RELEASED)
    is_refused = conditions.is_false(checkpoint, checkpoints.KEY_RELEASED)
    if is_refused and str(refusal.get("message")).startswith(keys.claim_mark(public_text)):
        return None
    return ObjectRef(
        resource=PODS,
        namespace=checkpoint["metadata"]["namespace"],
        name=claim["name"],
    )


def decide(
    checkpoint: Mapping[str, Any],
    *,
    pod: Mapping[str, Any] | None,
    persistent: Mapping[str, Any] | None = None,
    is_allowed: bool | None = None,
) -> Decision | None:
    """Decide about one claim; *pod* is what the API has under the claimant's name now.

    For a Checkpoint that names a PersistentCheckpoint, *persistent* is what the API has under that
    name, and *is_allowed* the answer to the question that an :class:`Ask` holds. None: nothing is
    asked, or it was answered. Raises FormatError for an object that names no pod.
    """
    if claimant_of(checkpoint) is None:
        return None
    claim = checkpoint["status"]["claimedBy"]
    public_text = claim["publicKey"]
    is_start = starts.source_of(checkpoint) is not None
    refused = _what_ended(checkpoint) or claimants.what_differs(claim, pod)
    if refused is None and pod is not None:
        if not is_start:
            owner = checkpoint["spec"].get("owner") or {}
            refused = claimants.wrong_owner(pod, owner_uid=owner.get("uid") or "")
        else:
            refused = starts.what_differs(checkpoint, pod=pod, persistent=persistent)
            if refused is None:
                asked = starts.question(checkpoint, pod=pod)
                if is_allowed is None:
                    return Ask(question=asked)
                refused = None if is_allowed else starts.refused(asked)
    if refused is not None:
        return Refuse(public_text=public_text, reason=refused[0], message=refused[1])
    # Whose the key is, and where it is: of what was saved, not of who claims.
    source = persistent if is_start and persistent is not None else checkpoint
    stored = checkpoints.stored_in(source)
    try:
        return Release(
            public_text=public_text,
            public=keys.public_from_text(public_text),
            key_id=stored.get("keyID") or "",
            wrapped=keys.sealed_from_text(stored["wrappedKey"]),
            binding=starts.binding_of(source) if is_start else binding_of(checkpoint),
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


def delayed(checkpoint: Mapping[str, Any], error: ArchitectError) -> Condition:
    """Return the condition that tells why a claim has no answer yet.

    The daemon that waits repeats it if it has to give up.
    """
    public_text = checkpoint["status"]["claimedBy"]["publicKey"]
    return Condition(
        type=checkpoints.KEY_RELEASED,
        status=Status.UNKNOWN,
        reason=error.reason if isinstance(error, Rejected) else type(error).__name__,
        message=f"{keys.claim_mark(public_text)}{error}",
    )


def _what_ended(checkpoint: Mapping[str, Any]) -> tuple[str, str] | None:
    if checkpoint["metadata"].get("deletionTimestamp"):
        return "BeingDeleted", "the checkpoint is being deleted"
    if conditions.is_true(checkpoint, checkpoints.RESTORED):
        return "AlreadyRestored", "a pod goes on from it already, and it restores one only"
    return None
