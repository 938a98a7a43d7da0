"""One pod, saved on this node's disk: asleep for good, its files packed, its manifest written.

All that can fail comes before the keeper lets the pod go; until then :meth:`Captures.undo` has it
awake again as if nobody had tried.
"""

from __future__ import annotations

import datetime
import logging
import time
from pathlib import Path
from typing import Final

from architect.api import names, saved
from architect.checkpoint.manifest import About, Container, Manifest
from architect.core.errors import ArchitectError, Rejected, Unavailable
from architect.core.identity import Identity
from architect.daemon.checkpoint import contents
from architect.daemon.host import Host
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.moves import objects
from architect.daemon.moves.depot import Depot
from architect.daemon.node_facts import NodeFacts
from architect.daemon.patience import patiently
from architect.daemon.pods import ManagedPod
from architect.kube import checkpoints
from architect.kube.api import JsonObject
from architect.kube.checkpoints import Trigger

log = logging.getLogger(__name__)

PACK_SECONDS: Final = 600.0
"""For the files of one pod."""
KEEPER_SECONDS: Final = 30.0
"""How long a keeper that was killed is waited for: its parent starts another one within a second,
which then looks at every pod of the node."""
KEEPER_STEP_SECONDS: Final = 0.5
CAPTURES: Final = 3
"""How often a capture is tried that another one's work (a wake, a killed keeper) undid."""


class Captures:
    """Of one node. Safe to use from several threads, one pod a thread."""

    def __init__(
        self,
        *,
        node: str,
        keeper: KeeperLink,
        host: Host,
        facts: NodeFacts,
        depot: Depot,
        patience_seconds: float,
    ) -> None:
        self._node = node
        self._keeper = keeper
        self._host = host
        self._node_facts = facts
        self._depot = depot
        self._patience_seconds = patience_seconds

    def save(
        self, pod: ManagedPod, value: JsonObject, who: Identity, *, trigger: Trigger
    ) -> Manifest:
        """Save the pod on the disk; when it returns, the pod has left for good.

        Raises ArchitectError or OSError: then :meth:`undo` is to follow.
        """
        for attempt in range(1, CAPTURES + 1):
            try:
                return self._save_once(pod, value, who, trigger=trigger)
            except (Unavailable, Rejected) as error:
                is_undone = isinstance(error, Unavailable) or error.reason == "NotCaptured"
                if not is_undone or attempt == CAPTURES:
                    raise
                log.warning("%s is captured once more: %s", pod.full_name, error)
                time.sleep(KEEPER_STEP_SECONDS)
        raise AssertionError("the last attempt returns or raises")

    def _save_once(
        self, pod: ManagedPod, value: JsonObject, who: Identity, *, trigger: Trigger
    ) -> Manifest:
        reason = f"its successor goes on with its memory ({trigger.value})"
        self._keeper.capture(
            pod.uid,
            reason=reason,
            patience_seconds=self._patience_seconds,
            ends_with=_hooks(value),
        )
        directory = self._depot.begin_departure(pod.uid)
        self._pack(pod.uid, directory)
        about = self._about(pod, value, who, directory=directory)
        self._depot.link_images(pod.uid, pod.managed, into=directory)
        # All that can fail comes before the pod leaves. Then only a name is missing, which the next
        # daemon can give as well.
        manifest = contents.build(directory, about)
        contents.write(directory, manifest)
        self._leave(pod.uid, reason=reason)
        return manifest

    def _leave(self, uid: str, *, reason: str) -> None:
        """Make the keeper let the pod go for good, also one that is killed when it is asked."""
        patiently(
            lambda: self._keeper.depart(uid, reason=reason),
            seconds=KEEPER_SECONDS,
            step_seconds=KEEPER_STEP_SECONDS,
            again=(Unavailable,),
        )

    def _pack(self, uid: str, directory: Path) -> None:
        program = names.CURRENT / "bin" / "architect-runtime"
        self._host.run(
            [str(program), "save-files", uid, "--into", str(directory)],
            timeout_seconds=PACK_SECONDS,
        )

    def undo(self, pod: ManagedPod) -> None:
        """Have the pod awake again, so that its signal reaches it, and keep nothing of it."""
        try:
            patiently(
                lambda: self._keeper.wake(pod.uid, reason="it cannot be saved"),
                seconds=KEEPER_SECONDS,
                step_seconds=KEEPER_STEP_SECONDS,
                again=(Unavailable,),
            )
        except (ArchitectError, OSError) as error:
            # An answer is one: a restore that failed went as the pod's policy says.
            log.error("%s is not woken: %s", pod.full_name, error)
        self._depot.give_up_departure(pod.uid)

    def _about(
        self, pod: ManagedPod, value: JsonObject, who: Identity, *, directory: Path
    ) -> About:
        digests = {
            status["name"]: str(status.get("imageID") or "").rpartition("@")[2]
            for status in value["status"].get("containerStatuses") or ()
        }
        return About(
            id=pod.uid,
            namespace=pod.namespace,
            pod_name=pod.name,
            pod_uid=pod.uid,
            node=self._node,
            created=datetime.datetime.now(tz=datetime.UTC).replace(microsecond=0),
            template_hash=who.template_hash,
            owner=objects.owner_of(who),
            containers={
                name: Container(
                    image_digest=digests.get(name, ""),
                    init_sha256=self._depot.init_of(pod.uid, name),
                    tree=saved.image(name),
                    layer=_layer_in(directory, name),
                )
                for name in pod.managed
            },
            requirements=self._node_facts.requirements,
            format_version=checkpoints.FORMAT_VERSION,
        )


def _layer_in(directory: Path, container: str) -> str | None:
    """Return the name of a container's packed layer; None: its root can only be read."""
    name = saved.layer(container)
    return name if (directory / name).exists() else None


def _hooks(pod: JsonObject) -> list[list[str]]:
    """Return the commands of the pod's preStop hooks."""
    found = []
    for container in pod["spec"]["containers"]:
        hook = (container.get("lifecycle") or {}).get("preStop") or {}
        if argv := (hook.get("exec") or {}).get("command"):
            found.append([str(word) for word in argv])
    return found
