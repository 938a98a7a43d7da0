"""Who may start from a PersistentCheckpoint: objects in, refusals and a question out. Pure.

A Checkpoint with ``spec.startFrom`` is no saved pod. By it the node of one new pod claims what a
PersistentCheckpoint holds; where that lies, and the wrapped key, are read from the
PersistentCheckpoint itself, and of which checkpoint the key is follows from what the operator wrote
there. What the daemon writes into the Checkpoint has no part in it.

The pod must ask for it, by the policy that it was created with, and its ServiceAccount must be
allowed to ``restore`` it: controllers create pods, so there is nobody else to ask about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from architect.api import names
from architect.api.policy import Policy, PolicyError
from architect.checkpoint.keys import Binding
from architect.core import podspec
from architect.kube import access, checkpoints, conditions
from architect.kube.access import Question
from architect.kube.resources import PERSISTENT_CHECKPOINTS, ObjectRef

VERB: Final = "restore"
"""Of RBAC, on a PersistentCheckpoint: the API server itself does nothing by that name."""

DEFAULT_ACCOUNT: Final = "default"
"""Of a pod that names none. Admission writes it into each; this is for what got by it."""

NOT_ASKED_FOR: Final = "NotAskedFor"
WRONG_PERSISTENT: Final = "WrongPersistentCheckpoint"
NOT_AVAILABLE: Final = "NotAvailable"
NOT_ALLOWED: Final = "NotAllowed"


def source_of(checkpoint: Mapping[str, Any]) -> ObjectRef | None:
    """Return the PersistentCheckpoint from which a pod starts by *checkpoint*, by its name alone.

    Whether it is the one meant is for :func:`what_differs`. None: *checkpoint* is a saved pod.
    """
    start = (checkpoint.get("spec") or {}).get("startFrom")
    if not start:
        return None
    return ObjectRef(
        resource=PERSISTENT_CHECKPOINTS,
        namespace=checkpoint["metadata"]["namespace"],
        name=start["name"],
    )


def what_differs(
    checkpoint: Mapping[str, Any],
    *,
    pod: Mapping[str, Any],
    persistent: Mapping[str, Any] | None,
) -> tuple[str, str] | None:
    """Return why *pod* may not start from it, as reason and text; None so far.

    *persistent* is what the API has under the name now. Raises FormatError for a pod that is none.
    """
    start = checkpoint["spec"]["startFrom"]
    name, who = start["name"], pod["metadata"]["name"]
    wanted = _wanted_by(pod)
    if wanted != name:
        asks = f"asks for {wanted:.253}" if wanted else "asks for none"
        return NOT_ASKED_FOR, f"pod {who} {asks}, not for PersistentCheckpoint {name}"
    if persistent is None:
        return NOT_AVAILABLE, f"PersistentCheckpoint {name} is not there"
    metadata, status = persistent["metadata"], persistent.get("status") or {}
    if (uid := metadata.get("uid")) != start["uid"]:
        return (
            WRONG_PERSISTENT,
            f"PersistentCheckpoint {name} is another one (uid {uid} instead of {start['uid']})",
        )
    if metadata.get("deletionTimestamp"):
        return NOT_AVAILABLE, f"PersistentCheckpoint {name} is being deleted"
    if not conditions.is_true(persistent, checkpoints.AVAILABLE):
        available = conditions.said(persistent, checkpoints.AVAILABLE)
        said = available.get("reason") or "nothing was saved yet"
        return NOT_AVAILABLE, f"PersistentCheckpoint {name} is not available: {said}"
    if not checkpoints.stored_in(persistent).get("wrappedKey"):
        return NOT_AVAILABLE, f"PersistentCheckpoint {name} does not say where it lies"
    saved = status.get("podRef") or {}
    if checkpoint["spec"].get("podRef") != saved or not saved.get("uid"):
        return WRONG_PERSISTENT, f"PersistentCheckpoint {name} is of pod {saved.get('name')}"
    return None


def question(checkpoint: Mapping[str, Any], *, pod: Mapping[str, Any]) -> Question:
    """Return what is to be asked about the pod's ServiceAccount."""
    target = source_of(checkpoint)
    if target is None:
        raise ValueError("not a start from a PersistentCheckpoint")
    account = podspec.spec(pod).get("serviceAccountName") or DEFAULT_ACCOUNT
    return access.of_service_account(
        checkpoint["metadata"]["namespace"], account, verb=VERB, target=target
    )


def refused(asked: Question) -> tuple[str, str]:
    """Return reason and text for an account that may not."""
    return (
        NOT_ALLOWED,
        f"{asked.user} may not {asked.verb} PersistentCheckpoint {asked.target.name}: see "
        "docs/persistent-checkpoints.md",
    )


def binding_of(persistent: Mapping[str, Any]) -> Binding:
    """Return of which checkpoint a key is: what the operator alone writes, and the object's uid."""
    metadata = persistent["metadata"]
    return Binding(
        namespace=metadata["namespace"],
        pod_uid=persistent["status"]["podRef"]["uid"],
        owner_uid="",
        checkpoint_id=metadata["uid"],
    )


def _wanted_by(pod: Mapping[str, Any]) -> str:
    """Return the name that the pod was created with; empty: none, or it is not managed."""
    text = podspec.annotations_of(pod).get(names.POLICY)
    if text is None:
        return ""
    try:
        return Policy.from_json(text).start_from or ""
    except PolicyError:
        return ""
