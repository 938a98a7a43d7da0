"""What a pod has claimed is brought to its node: from this node's disk, another's, or the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from architect.checkpoint.manifest import Manifest
from architect.core.errors import ArchitectError, NodeError, Rejected
from architect.daemon.checkpoint import contents
from architect.daemon.inits import Inits
from architect.daemon.moves import objects
from architect.daemon.moves.depot import Depot
from architect.kube import checkpoints
from architect.kube.api import Api, JsonObject
from architect.kube.checkpoints import Trigger
from architect.kube.resources import CHECKPOINTS, ObjectRef

log = logging.getLogger(__name__)

STORED_PATIENCE_SECONDS: Final = 3.0
"""How long a predecessor's node may give nothing if the object store has it all, too."""


class Fetch(Protocol):
    """Brings a saved pod from another node."""

    def __call__(
        self,
        node: str,
        checkpoint_id: str,
        target: Path,
        *,
        accept: Callable[[Manifest], None],
        is_durable: bool,
        patience_seconds: float | None,
        timeout_seconds: float,
    ) -> object:
        """See :meth:`architect.daemon.peer.service.Peer.fetch`."""


class Retrieve(Protocol):
    """Brings a saved pod from the object store."""

    def __call__(
        self,
        checkpoint: JsonObject,
        pod: ObjectRef,
        target: Path,
        *,
        accept: Callable[[Manifest], None],
        timeout_seconds: float,
    ) -> None:
        """See :meth:`architect.daemon.moves.retrieving.Retrieving.retrieve`."""


class Bringing:
    """Of one node. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        depot: Depot,
        inits: Inits,
        fetch: Fetch,
        retrieve: Retrieve | None,
    ) -> None:
        self._api = api
        self._node = node
        self._depot = depot
        self._inits = inits
        self._fetch = fetch
        self._retrieve = retrieve

    def bring(self, checkpoint: JsonObject, ref: ObjectRef, *, seconds: float) -> None:
        """Have what *ref* has claimed lie ready for it. Raises ArchitectError or OSError.

        The node that saved is asked first, and the object store where that fails or never had it.
        A node whose machine is about to end is asked last: others are still to be sent from there.
        """
        self._bring(checkpoint, ref, seconds=seconds)
        self._inits.take_from(self._depot.arrival_of(ref.uid))

    def _bring(self, checkpoint: JsonObject, ref: ObjectRef, *, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        if not (peer := checkpoints.peer_of(checkpoint)):
            self._bring_from_store(checkpoint, ref, ends_at=ends_at)
            return
        if self._spares_node(checkpoint):
            try:
                self._bring_from_store(checkpoint, ref, ends_at=ends_at)
            except (NodeError, OSError):
                raise
            except ArchitectError as error:
                log.warning("%s comes from node %s: %s", ref, peer["node"], error)
            else:
                return
        try:
            if peer["node"] == self._node:
                self._take_own(checkpoint, peer["id"], ref)
            else:
                self._bring_from_peer(checkpoint, ref, ends_at=ends_at)
        except (NodeError, OSError):
            raise  # this node's own, which the other way shares
        except ArchitectError as error:
            found = self._stored_since(checkpoint)
            if found is None:
                raise
            log.warning("%s comes from the object store: %s", ref, error)
            self._bring_from_store(found, ref, ends_at=ends_at)

    def _spares_node(self, checkpoint: JsonObject) -> bool:
        """Whether the store is asked before another node, whose machine may be about to end."""
        if self._retrieve is None or checkpoints.peer_of(checkpoint).get("node") == self._node:
            return False
        is_spot = checkpoint["spec"].get("trigger") == Trigger.SPOT_INTERRUPTION.value
        return is_spot and bool(checkpoints.stored_in(checkpoint))

    def _take_own(self, checkpoint: JsonObject, checkpoint_id: str, ref: ObjectRef) -> None:
        directory = self._depot.departure(checkpoint_id)
        if directory is None:
            raise Rejected(
                f"checkpoint {checkpoint_id} is not on this node any more", reason="NoLocation"
            )
        manifest = contents.read(directory)
        _accept(manifest, checkpoint, sha256=checkpoints.peer_of(checkpoint).get("manifestSha256"))
        contents.verify(directory, manifest)
        self._depot.move_here(checkpoint_id, to=ref.uid)

    def _bring_from_peer(self, checkpoint: JsonObject, ref: ObjectRef, *, ends_at: float) -> None:
        peer = checkpoints.peer_of(checkpoint)
        # Not durable: after a power cut the source still has it, and this pod is another one.
        self._fetch(
            peer["node"],
            peer["id"],
            self._depot.arrival_of(ref.uid),
            accept=lambda found: _accept(found, checkpoint, sha256=peer.get("manifestSha256")),
            is_durable=False,
            patience_seconds=STORED_PATIENCE_SECONDS if checkpoints.stored_in(checkpoint) else None,
            timeout_seconds=max(1.0, ends_at - time.monotonic()),
        )

    def _bring_from_store(self, checkpoint: JsonObject, ref: ObjectRef, *, ends_at: float) -> None:
        name = checkpoint["metadata"]["name"]
        if not checkpoints.stored_in(checkpoint):
            raise NodeError(f"checkpoint {name} lies nowhere", reason="NoLocation")
        if self._retrieve is None:
            raise NodeError(
                f"checkpoint {name} lies in an object store, and this node is configured for none",
                reason="NoStore",
            )
        self._retrieve(
            checkpoint,
            ref,
            self._depot.arrival_of(ref.uid),
            # What holds it was compared with the checkpoint already.
            accept=lambda found: _accept(found, checkpoint, sha256=found.sha256),
            timeout_seconds=max(1.0, ends_at - time.monotonic()),
        )

    def _stored_since(self, checkpoint: JsonObject) -> JsonObject | None:
        """Return the checkpoint as it is now if it lies in the object store, too."""
        if self._retrieve is None:
            return None
        found = self._api.find(ObjectRef.of(CHECKPOINTS, checkpoint))
        return found if found is not None and checkpoints.stored_in(found) else None


def _accept(manifest: Manifest, checkpoint: JsonObject, *, sha256: str | None) -> None:
    """Raise Rejected unless *manifest* is the one of *checkpoint*: that is what was claimed."""
    spec, about = checkpoint["spec"], manifest.about
    needs = (checkpoint.get("status") or {}).get("requirements") or {}
    ran = objects.images_in(manifest)
    for what, said, claimed in (
        ("SHA-256", manifest.sha256, sha256),
        ("namespace", about.namespace, checkpoint["metadata"]["namespace"]),
        ("pod", about.pod_uid, spec["podRef"]["uid"]),
        ("template", about.template_hash, spec.get("templateHash", "")),
        ("containers", sorted(about.containers), sorted(spec["containers"])),
        # What an earlier version saved does not name them.
        ("images", ran, needs.get("images", ran)),
    ):
        if said != claimed:
            raise Rejected(
                f"the manifest is of {what} {said}, the checkpoint of {claimed}",
                reason="WrongCheckpoint",
            )
