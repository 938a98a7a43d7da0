"""One pod, saved on this node's disk: asleep, its files packed, its manifest written.

One that leaves is saved for good. All that can fail comes before the keeper lets the pod go; until
then :meth:`Captures.undo` has it awake again as if nobody had tried. One that is copied goes on as
soon as nothing of what it could change is needed any more, however that ends.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from architect.api import names, saved
from architect.api.keeper import PodState
from architect.checkpoint.manifest import About, Container, Manifest
from architect.core import files, volumes
from architect.core.errors import ArchitectError, NodeError, Rejected, Unavailable
from architect.core.identity import Identity
from architect.core.volumes import Mount
from architect.daemon.checkpoint import contents
from architect.daemon.checkpoint.following import Following
from architect.daemon.engine_images import EngineImages
from architect.daemon.host import Cued, Host
from architect.daemon.inits import Inits
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.moves import objects
from architect.daemon.moves.copies import Copies
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.room import Room
from architect.daemon.node_facts import NodeFacts
from architect.daemon.patience import patiently
from architect.daemon.pods import ManagedPod
from architect.kube import checkpoints
from architect.kube.api import JsonObject
from architect.kube.checkpoints import Gvisor, Owner, Requirements, Trigger

log = logging.getLogger(__name__)

T = TypeVar("T")

PACK_SECONDS: Final = 600.0
"""For the files of one pod that leaves."""
COPY_SECONDS: Final = 60.0
"""For those of one that goes on, and whose clients wait meanwhile."""
KEEPER_SECONDS: Final = 30.0
"""How long a keeper that was killed is waited for: its parent starts another one within a second,
which then looks at every pod of the node."""
KEEPER_STEP_SECONDS: Final = 0.5
CAPTURES: Final = 3
"""How often a capture is tried that another one's work (a wake, a killed keeper) undid."""
UNDONE: Final = frozenset({"NotCaptured"})
ASLEEP_VERSION: Final = 1
"""Of a file that says all by being there."""
RESTLESS: Final = frozenset({*UNDONE, "Busy", "InFlight"})
"""Besides, what stays waits for a moment in which nothing is cut."""


@dataclass(frozen=True, kw_only=True)
class Copied:
    """A copy of a pod that goes on."""

    manifest: Manifest
    frozen_seconds: float
    """How long the pod stood still; 0 if it slept."""
    seconds: float
    """How long all of it took."""


class Captures:
    """Of one node. Safe to use from several threads, one pod a thread."""

    def __init__(
        self,
        *,
        node: str,
        keeper: KeeperLink,
        host: Host,
        facts: NodeFacts,
        images: EngineImages,
        inits: Inits,
        depot: Depot,
        copies: Copies,
        room: Room,
        patience_seconds: float,
    ) -> None:
        self._node = node
        self._keeper = keeper
        self._host = host
        self._node_facts = facts
        self._images = images
        self._inits = inits
        self._depot = depot
        self._copies = copies
        self._room = room
        self._patience_seconds = patience_seconds

    def save(
        self, pod: ManagedPod, value: JsonObject, who: Identity, *, trigger: Trigger
    ) -> Manifest:
        """Save the pod on the disk; when it returns, the pod has left for good.

        Raises ArchitectError or OSError: then :meth:`undo` is to follow.
        """
        self._room.check(pod.uid)  # nobody is frozen for what has no room
        return _tried(
            lambda: self._save_once(pod, value, who, trigger=trigger), pod=pod, again=UNDONE
        )

    def copy(self, pod: ManagedPod, value: JsonObject, *, id: str, template_hash: str) -> Copied:
        """Put a copy of the pod, named *id*, on the disk; when it returns, the pod goes on.

        It does so whatever happens, and half a copy is removed. Raises ArchitectError or OSError.
        """
        try:
            return _tried(
                lambda: self._copy_once(pod, value, id=id, template_hash=template_hash),
                pod=pod,
                again=RESTLESS,
            )
        except BaseException:
            self._copies.give_up(id)
            raise

    def _save_once(
        self, pod: ManagedPod, value: JsonObject, who: Identity, *, trigger: Trigger
    ) -> Manifest:
        images = self._images_of(value)
        reason = f"its successor goes on with its memory ({trigger.value})"
        directory = self._depot.begin_departure(pod.uid)
        # What can be done before the pod stands still, is.
        with (
            self._packer(pod, directory, volumes.travelling(value, pod.managed)) as packer,
            Following(self._depot.images_of(pod.uid, pod.managed)) as following,
        ):
            has_slept = self._keeper.capture(
                pod.uid,
                reason=reason,
                patience_seconds=self._patience_seconds,
                ends_with=_hooks(value),
            )
            about = self._fill(
                directory,
                pod,
                packer,
                id=pod.uid,
                template_hash=who.template_hash,
                owner=objects.owner_of(who),
                images=images,
                within_seconds=PACK_SECONDS,
            )
            if has_slept:
                note = directory / saved.ASLEEP
                files.write_json(note, {"version": ASLEEP_VERSION}, durable=False)
            # All that can fail comes before the pod leaves. Then only a name is missing, which the
            # next daemon can give as well.
            manifest = contents.build(directory, about, known=following.hashed())
        with self._room.admitting(pod.uid, manifest.total_bytes):
            # Nor is what it names on the disk yet: the journal would wait for other pods' memory.
            contents.write(directory, manifest, is_durable=False)
        self._leave(pod.uid, reason=reason)
        return manifest

    def _copy_once(
        self, pod: ManagedPod, value: JsonObject, *, id: str, template_hash: str
    ) -> Copied:
        images = self._images_of(value)
        directory = self._copies.begin(id)
        slept = self._keeper.status(pod.uid).state is PodState.ASLEEP
        started = time.monotonic()
        with (
            self._packer(pod, directory, ()) as packer,
            self._keeper.copying(
                pod.uid, reason="it is being copied", patience_seconds=self._patience_seconds
            ),
        ):
            about = self._fill(
                directory,
                pod,
                packer,
                id=id,
                template_hash=template_hash,
                owner=None,
                images=images,
                within_seconds=COPY_SECONDS,
            )
            self._copies.check_room()
        frozen = 0.0 if slept else time.monotonic() - started
        # Nobody writes what lies there, so it is hashed while the pod runs.
        manifest = contents.build(directory, about)
        contents.write(directory, manifest)
        self._copies.finish(id)
        return Copied(manifest=manifest, frozen_seconds=frozen, seconds=time.monotonic() - started)

    def _fill(
        self,
        directory: Path,
        pod: ManagedPod,
        packer: Cued,
        *,
        id: str,
        template_hash: str,
        owner: Owner | None,
        images: Mapping[str, str],
        within_seconds: float,
    ) -> About:
        """Put files and images of a pod that is asleep into *directory*; return what they are."""
        if pod.is_gvisor:
            _save_sandbox(packer, within_seconds=within_seconds)
            containers, requirements = self._sandboxed(directory, pod, images)
        else:
            packer.go(timeout_seconds=within_seconds)
            containers, requirements = self._hollow(directory, pod, images)
        return About(
            id=id,
            namespace=pod.namespace,
            pod_name=pod.name,
            pod_uid=pod.uid,
            node=self._node,
            created=datetime.datetime.now(tz=datetime.UTC).replace(microsecond=0),
            template_hash=template_hash,
            owner=owner,
            containers=containers,
            requirements=requirements,
            format_version=checkpoints.FORMAT_VERSION,
        )

    def _hollow(
        self, directory: Path, pod: ManagedPod, images: Mapping[str, str]
    ) -> tuple[dict[str, Container], Requirements]:
        """Add the images of a pod's containers and the inits to which they refer."""
        inits = {name: self._depot.init_of(pod.uid, name) for name in pod.managed}
        containers = {
            name: Container(
                image_digest=images.get(name, ""),
                init_sha256=inits[name],
                tree=saved.image(name),
                layer=_layer_in(directory, name),
            )
            for name in pod.managed
        }
        self._depot.link_images(pod.uid, pod.managed, into=directory)
        self._inits.put_into(directory, inits.values())
        needs = self._node_facts.requirements
        # A keeper of the version before may have done it, or an earlier keeper before that.
        wrote = {self._depot.criu_of(pod.uid, name) for name in pod.managed} - {""}
        if len(wrote) > 1:
            raise NodeError(
                f"CRIU {' and '.join(sorted(wrote))} wrote the images of {pod.full_name}",
                reason="CriuVersion",
            )
        return containers, dataclasses.replace(needs, criu=wrote.pop() if wrote else needs.criu)

    def _sandboxed(
        self, directory: Path, pod: ManagedPod, images: Mapping[str, str]
    ) -> tuple[dict[str, Container], Requirements]:
        """Describe a pod of gVisor: its sandbox, which is saved as a whole, says what it needs."""
        file = directory / saved.SANDBOX / saved.META
        meta = files.read_json(file, version=saved.SANDBOX_META_VERSION)
        gvisor = Gvisor(version=str(meta["runsc"]), platform=str(meta["platform"]))
        containers = {
            name: Container(
                image_digest=images.get(name, ""),
                init_sha256=None,
                tree=saved.SANDBOX_IMAGE,
                layer=None,
            )
            for name in pod.managed
        }
        return containers, dataclasses.replace(
            self._node_facts.requirements, criu="", gvisor=gvisor
        )

    def _images_of(self, value: JsonObject) -> dict[str, str]:
        """Return what each container runs. Asked before anything stands still."""
        statuses = value["status"].get("containerStatuses") or ()
        return self._images.ids({s["name"]: str(s.get("imageID") or "") for s in statuses})

    def _leave(self, uid: str, *, reason: str) -> None:
        """Make the keeper let the pod go for good, also one that is killed when it is asked."""
        patiently(
            lambda: self._keeper.depart(uid, reason=reason),
            seconds=KEEPER_SECONDS,
            step_seconds=KEEPER_STEP_SECONDS,
            again=(Unavailable,),
        )

    def _packer(
        self, pod: ManagedPod, directory: Path, mounts: Sequence[Mount]
    ) -> AbstractContextManager[Cued]:
        """Have the node's runtime ready to pack the pod's files into *directory*."""
        program = names.CURRENT / "bin" / "architect-runtime"
        argv = [str(program), "save-files", pod.uid, "--into", str(directory), "--on-cue"]
        for mount in mounts:
            name = f"{mount.volume}/{mount.sub_path}".rstrip("/")
            argv += ["--volume", name, mount.container, mount.path]
        return self._host.on_cue(argv)

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


def _save_sandbox(packer: Cued, *, within_seconds: float) -> None:
    """Write a sandbox of gVisor beside its files. Raises NodeError, by a name of its own."""
    try:
        packer.go(timeout_seconds=within_seconds)
    except NodeError as error:
        raise NodeError(error.message, reason="SandboxNotSaved") from error


def _tried(once: Callable[[], T], *, pod: ManagedPod, again: frozenset[str]) -> T:
    """Return what *once* returns, called anew if it was undone, or for the reasons *again*."""
    for attempt in range(1, CAPTURES + 1):
        try:
            return once()
        except (Unavailable, Rejected, NodeError) as error:
            is_undone = isinstance(error, Unavailable) or error.reason in again
            if not is_undone or attempt == CAPTURES:
                raise
            log.warning("%s is captured once more: %s", pod.full_name, error)
            time.sleep(KEEPER_STEP_SECONDS)
    raise AssertionError("the last attempt returns or raises")


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
