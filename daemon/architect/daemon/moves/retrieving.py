"""A claimed checkpoint out of the object store: the operator gives the key to who has claimed it.

The key travels in the Checkpoint itself, encrypted for a key pair that is made for this claim and
whose private half never leaves this process's memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from architect.checkpoint import keys
from architect.checkpoint.keys import Claimant, PrivateKey
from architect.checkpoint.manifest import Manifest
from architect.core.errors import NodeError, Rejected, Unavailable
from architect.daemon.moves import objects
from architect.daemon.moves.latest import Latest
from architect.daemon.vault.service import Vault
from architect.kube import checkpoints, conditions
from architect.kube.api import Api, JsonObject
from architect.kube.conditions import Status
from architect.kube.errors import Conflict
from architect.kube.resources import CHECKPOINTS, ObjectRef

log = logging.getLogger(__name__)

KEY_SECONDS: Final = 45.0
"""How long the operator is waited for. One that was lost with its node comes back after its lease,
15 s."""

KEY_STEP_SECONDS: Final = 0.1
LOOKS_PER_WAIT: Final = 20


class Retrieving:
    """Of one node. Safe to use from several threads."""

    def __init__(self, api: Api, *, node: str, vault: Vault, latest: Latest) -> None:
        self._api = api
        self._latest = latest
        self._node = node
        self._vault = vault

    def retrieve(
        self,
        checkpoint: JsonObject,
        pod: ObjectRef,
        target: Path,
        *,
        accept: Callable[[Manifest], None],
        timeout_seconds: float,
    ) -> None:
        """Get what *pod* has claimed into the directory *target*, whole.

        *accept* may raise to refuse the manifest. Raises Rejected with the operator's reason if it
        gives no key; Unavailable if it gives no answer; what the store says; FormatError.
        """
        ends_at = time.monotonic() + timeout_seconds
        s3 = checkpoints.stored_in(checkpoint)
        if s3["bucket"] != self._vault.bucket:
            raise NodeError(
                f"checkpoint {checkpoint['metadata']['name']} lies in bucket {s3['bucket']}, "
                f"node {self._node} is configured for {self._vault.bucket}",
                reason="OtherBucket",
            )
        private = keys.make_key()
        asked = self._ask(checkpoint, pod, private)
        described = self._vault.describe(s3["key"], sha256=s3.get("manifestSha256", ""))
        accept(described.manifest)
        sealed = self._await(asked, private, ends_at=min(ends_at, time.monotonic() + KEY_SECONDS))
        claimant = Claimant(pod_uid=pod.uid, node=self._node)
        data_key = keys.accept(sealed, private, described.binding, claimant=claimant)
        found = self._vault.download(
            described,
            data_key,
            target,
            # After a power cut the store still has it, and this pod is another one.
            is_durable=False,
            timeout_seconds=max(1.0, ends_at - time.monotonic()),
        )
        log.info(
            "%s came from bucket %s in %.2f s; %d shards had come before",
            asked, s3["bucket"], found.seconds, found.resumed_shards,
        )  # fmt: skip

    def _ask(self, checkpoint: JsonObject, pod: ObjectRef, private: PrivateKey) -> ObjectRef:
        """Write our public key into the claim. Raises Rejected if it is not ours any more."""
        ref, value = ObjectRef.of(CHECKPOINTS, checkpoint), checkpoint
        public = keys.public_to_text(private.public_key())
        for _ in range(objects.CONFLICTS):
            claim = (value.get("status") or {}).get("claimedBy") or {}
            if claim.get("uid") != pod.uid:
                raise Rejected(f"{ref} is claimed by another pod", reason="Taken")
            try:
                fields: dict[str, Any] = {"claimedBy": {**claim, "publicKey": public}}
                checkpoints.set_status(self._api, value, fields=fields)
            except Conflict:
                time.sleep(objects.CONFLICT_SECONDS)
                value = self._api.get(CHECKPOINTS, ref.name, namespace=ref.namespace)
            else:
                return ref
        raise Conflict(f"{ref} is being changed by others all the time")

    def _await(self, ref: ObjectRef, private: PrivateKey, *, ends_at: float) -> bytes:
        """Return the key that the operator gave, as it gave it."""
        public = keys.public_to_text(private.public_key())
        began = time.monotonic()
        while True:
            # Less often the longer it takes: a whole node's pods may wait for the operator.
            time.sleep(max(KEY_STEP_SECONDS, (time.monotonic() - began) / LOOKS_PER_WAIT))
            value = self._api.get(CHECKPOINTS, ref.name, namespace=ref.namespace)
            given = (value.get("status") or {}).get("keyRelease") or {}
            if given.get("publicKey") == public:
                self._latest.note(value)
                return keys.sealed_from_text(given["sealedKey"])
            said = conditions.said(value, checkpoints.KEY_RELEASED)
            if is_refusal(said, public):
                raise Rejected(
                    f"{ref}: the operator gives no key: {said['message']}", reason=said["reason"]
                )
            if time.monotonic() > ends_at:
                raise _unanswered(ref, said, public)


def is_refusal(said: Mapping[str, Any], public: str) -> bool:
    """Whether condition KeyReleased *said* refuses the key of the claim with key *public*."""
    return said.get("status") == Status.FALSE.value and _is_about(said, public)


def _unanswered(ref: ObjectRef, said: Mapping[str, Any], public: str) -> Unavailable:
    """Return that the operator gave no answer, with what kept it from that if it has said so."""
    if said.get("status") == Status.UNKNOWN.value and _is_about(said, public):
        text = f"the operator could give no key: {said['reason']}: {said['message']}"
        return Unavailable(f"{ref}: {text}")
    return Unavailable(f"{ref}: the operator gave no key", hint="does it run?")


def _is_about(said: Mapping[str, Any], public: str) -> bool:
    return str(said.get("message")).startswith(keys.claim_mark(public))
