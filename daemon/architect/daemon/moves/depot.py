"""Saved pods on this node's disk: those that wait for a successor, and those that have come.

::

    checkpoints/<id>/            a pod that left, named by its uid
    uploads/<uid>.json           how far its way into the object store has come
    uploads/<uid>.unannounced    no Checkpoint says yet that it leaves: why it does
    arrivals/<uid>.json          what was decided for the pod <uid> of this node
    arrivals/<uid>.fresh         its runtime had no answer and has started it, or part of it
    arrivals/<uid>.partial/      what has come for it so far
    arrivals/<uid>/              what came for it
        manifest.json            written last
        containers/<name>/image/, meta.json, layer.tar
        volumes/<name>.tar

A directory with another ending (``.partial``) is half of one. That of a departure with a manifest
lacks only its name: whether its pod has left for good tells which of the two copies counts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from architect.api import names, saved
from architect.api.keeper import PodState
from architect.checkpoint import manifest as manifests
from architect.core import fields, files
from architect.core.errors import FormatError, NodeError
from architect.daemon.checkpoint import landing

log = logging.getLogger(__name__)

PARTIAL: Final = ".partial"
GOING: Final = ".gone"
FRESH: Final = ".fresh"
"""Ending of what the runtime leaves (``architect.shim.arrivals``)."""
UNANNOUNCED: Final = ".unannounced"
APPLIED: Final = ".applied"
"""Ending of an archive that was applied (``architect.shim.luggage``)."""
IMAGE_VERSION: Final = 1
"""Of ``meta.json`` (``architect.shim.keeper.images.VERSION``)."""
POD_VERSION: Final = 1
"""Of ``pod.json`` (``architect.shim.keeper.podstate.VERSION``)."""
DECISION_VERSION: Final = 1
UNANNOUNCED_VERSION: Final = 1
_OF_RESTORES: Final = frozenset({"restore.log", "restore.exit", "stats-restore"})
"""In an image, what a restore writes, over what an earlier one that was cut has left."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What a pod of this node starts from: decided once, whatever becomes of the daemon."""

    namespace: str
    name: str
    reason: str
    message: str = ""
    checkpoint: str = ""
    """Name of the Checkpoint that it claimed; empty: it starts fresh."""
    departed: str = ""
    """Uid of the pod that was saved."""
    predecessor: str = ""
    """Its name."""
    is_local: bool = False
    """Whether it was saved on this node."""
    asked_at: float = 0.0
    """Unix seconds of the first question."""
    has_come: bool = False
    """Whether all of it lay here once: then what is not there any more has been used."""
    is_held: bool = False
    """Whether it does not start, for its policy wants its memory: reason and message say why."""
    has_given_up: bool = False
    """Whether it starts fresh in spite of its claim: reason and message say why."""
    is_announced: bool = False
    """Whether its Checkpoint says that the pod is about to go on, or nobody else can have it."""
    is_told: bool = False
    """Whether its Checkpoint says how it ended."""

    @property
    def is_fresh(self) -> bool:
        """Whether the pod starts without what came before."""
        return self.has_given_up or not (self.checkpoint or self.is_held)


class Depot:
    """The directories of saved pods. Safe to use from several threads, one pod a thread."""

    def __init__(
        self,
        *,
        pods: Path = names.PODS,
        checkpoints: Path = names.CHECKPOINTS,
        arrivals: Path = names.ARRIVALS,
        uploads: Path = names.UPLOADS,
    ) -> None:
        self._pods = pods
        self._checkpoints = checkpoints
        self._arrivals = arrivals
        self._uploads = uploads

    # Pods that left

    def begin_departure(self, uid: str) -> Path:
        """Return an empty directory for what is saved of pod *uid*. Raises OSError."""
        return _empty(self._checkpoints / f"{safe_name(uid)}{PARTIAL}")

    def link_images(self, uid: str, containers: Iterable[str], *, into: Path) -> None:
        """Give the images of a captured pod a second name; nothing is copied or taken away.

        Until the pod has left for good a wake needs them where they are. It writes nothing that has
        a second name, and removes the first one only. Raises NodeError if one is missing, OSError.
        """
        for name in containers:
            source = self._pods / safe_name(uid) / safe_name(name)
            target = into / saved.container(safe_name(name))
            files.make_private(target)
            try:
                _link_tree(source / "image", target / "image")
                os.link(source / "meta.json", target / "meta.json")
            except FileNotFoundError as error:
                raise NodeError(
                    f"pod {uid} has no image of container {name}: {error}", reason="ImageMissing"
                ) from error

    def images_of(self, uid: str, containers: Iterable[str]) -> list[Path]:
        """Return where the keeper writes, or has written, the images of a pod's containers."""
        return [self._pods / safe_name(uid) / safe_name(name) / "image" for name in containers]

    def init_of(self, uid: str, container: str) -> str:
        """Return the SHA-256 of the init to which a sleeping container's image refers.

        Raises FileNotFoundError if it has no image, FormatError.
        """
        path = self._meta_of(uid, container)
        found = files.read_json(path, version=IMAGE_VERSION).get("init_sha")
        if not isinstance(found, str):
            raise FormatError(f"{path} names no init")
        return found

    def criu_of(self, uid: str, container: str) -> str:
        """Return the version of the CRIU that wrote a sleeping container's image; empty: unknown.

        Raises FileNotFoundError if it has no image, FormatError.
        """
        path = self._meta_of(uid, container)
        found = files.read_json(path, version=IMAGE_VERSION).get("criu", "")
        if not isinstance(found, str):
            raise FormatError(f"{path} names no CRIU")
        return found

    def _meta_of(self, uid: str, container: str) -> Path:
        return self._pods / safe_name(uid) / safe_name(container) / saved.META

    def finish_departure(self, uid: str) -> Path:
        """Make what was saved of pod *uid* whole; return where it lies. Raises OSError.

        The images' names among those of the node's pods go: old memory has one place.
        """
        whole = self._checkpoints / safe_name(uid)
        (self._checkpoints / f"{safe_name(uid)}{PARTIAL}").rename(whole)
        for image in files.matching(self._pods / safe_name(uid), "*/image"):
            shutil.rmtree(image, ignore_errors=True)
        return whole

    def half_departures(self) -> dict[str, bool]:
        """Return the uids of half departures; True: all of it lies there."""
        found = {}
        for name in _names(self._checkpoints):
            uid = name.removesuffix(PARTIAL)
            if uid != name and not uid.endswith(GOING):
                found[uid] = (self._checkpoints / name / manifests.NAME).is_file()
        return found

    def half_departure(self, uid: str) -> Path:
        """Return where half a departure of pod *uid* lies, if it does."""
        return self._checkpoints / f"{safe_name(uid)}{PARTIAL}"

    def has_left(self, uid: str) -> bool:
        """Whether the keeper wrote down that pod *uid* never runs here again."""
        return self._phase(uid) == PodState.CAPTURED.value

    def runs_again(self, uid: str) -> bool:
        """Whether pod *uid* is saved here, and began anew: its node ended before that was told."""
        phase = self._phase(uid)
        is_back = phase is not None and phase != PodState.CAPTURED.value
        return is_back and self.departure(uid) is not None

    def _phase(self, uid: str) -> str | None:
        """Return where the keeper wrote down that pod *uid* is; None: it did not."""
        path = self._pods / safe_name(uid) / "pod.json"
        try:
            return str(files.read_json(path, version=POD_VERSION).get("phase"))
        except (FileNotFoundError, FormatError):
            return None

    def give_up_departure(self, uid: str) -> None:
        """Remove half a departure."""
        shutil.rmtree(self._checkpoints / f"{safe_name(uid)}{PARTIAL}", ignore_errors=True)

    def sweep_departures(self) -> None:
        """Remove what is left of those that were being removed."""
        for path in self._checkpoints.glob(f"*{GOING}{PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)

    def departure(self, uid: str) -> Path | None:
        """Return where the saved pod *uid* lies whole; None if it does not."""
        found = self._checkpoints / safe_name(uid)
        return found if found.is_dir() else None

    def departures(self) -> list[str]:
        """Return the uids of the pods that are saved here."""
        return _whole(self._checkpoints)

    def saved_at(self, uid: str) -> float:
        """Return when pod *uid* was saved here, in Unix seconds. Raises OSError."""
        return (self._checkpoints / safe_name(uid)).stat().st_mtime

    def drop_departure(self, uid: str) -> None:
        """Remove a saved pod: it goes on elsewhere, or nobody wants it any more."""
        _remove(self._checkpoints / safe_name(uid))

    def upload_notes(self, uid: str) -> Path:
        """Return the file that says how far the way of pod *uid* into the object store has come."""
        return self._uploads / f"{safe_name(uid)}.json"

    def forget_uploads(self, *, but: Collection[str]) -> None:
        """Remove what was noted about uploads of all pods but these, and of half departures."""
        keep = {*but, *self.half_departures()}
        for name in _names(self._uploads):
            if name.removesuffix(".json").removesuffix(UNANNOUNCED) not in keep:
                (self._uploads / name).unlink(missing_ok=True)

    def note_unannounced(self, uid: str, why: str) -> None:
        """Write down that pod *uid* is saved before anybody could be told. Raises OSError."""
        files.make_private(self._uploads)
        value = {"version": UNANNOUNCED_VERSION, "why": why}
        files.write_json(self._unannounced(uid), value, durable=False)

    def note_announced(self, uid: str) -> None:
        """Write down that the Checkpoint of pod *uid* is there, or was."""
        self._unannounced(uid).unlink(missing_ok=True)

    def unannounced(self, uid: str) -> str | None:
        """Return why pod *uid* leaves, of which nobody could be told; None: somebody was."""
        path = self._unannounced(uid)
        try:
            return str(files.read_json(path, version=UNANNOUNCED_VERSION).get("why"))
        except FileNotFoundError:
            return None
        except FormatError as error:
            log.error("why pod %s leaves cannot be read: %s", uid, error)
            return ""

    def _unannounced(self, uid: str) -> Path:
        return self._uploads / f"{safe_name(uid)}{UNANNOUNCED}"

    # Pods that come

    def arrival(self, uid: str) -> Path | None:
        """Return where lies, whole, what came for pod *uid*; None if nothing did."""
        found = self._arrivals / safe_name(uid)
        return found if found.is_dir() else None

    def has_come(self, uid: str, container: str) -> bool:
        """Whether something came for a container of pod *uid* that it has not taken yet."""
        return (self._arrivals / safe_name(uid) / saved.image(safe_name(container))).is_dir()

    def has_sandbox_come(self, uid: str) -> bool:
        """Whether a sandbox of gVisor came for pod *uid*, which it has not taken yet."""
        return (self._arrivals / safe_name(uid) / saved.SANDBOX_IMAGE).is_dir()

    def arrival_of(self, uid: str) -> Path:
        """Return where what comes for pod *uid* is to lie once it is whole."""
        files.make_private(self._arrivals)
        return self._arrivals / safe_name(uid)

    def move_here(self, departed: str, *, to: str) -> Path:
        """Make what was saved of pod *departed* on this node what came for pod *to*. OSError."""
        files.make_private(self._arrivals)
        whole = self._arrivals / safe_name(to)
        (self._checkpoints / safe_name(departed)).rename(whole)
        return whole

    def arrivals(self) -> list[str]:
        """Return the uids of the pods for which something came."""
        return [
            n
            for n in _whole(self._arrivals)
            if (self._arrivals / n).is_dir() and not n.endswith(GOING)
        ]

    def is_untouched(self, uid: str) -> bool:
        """Whether everything that came for pod *uid* still lies there: none of it has run."""
        return _is_untouched(self._arrivals / safe_name(uid))

    def is_used_up(self, uid: str) -> bool:
        """Whether every container of pod *uid*, or its sandbox, has taken what came for it."""
        whole = self._arrivals / safe_name(uid)
        left = [
            *files.matching(whole, saved.image("*")),
            *files.matching(whole, saved.SANDBOX_IMAGE),
        ]
        return whole.is_dir() and not left

    def has_refused(self, uid: str) -> bool:
        """Whether a container of pod *uid* keeps an image of its predecessor that failed."""
        for path in files.matching(self._pods / safe_name(uid), "*/failed-*/meta.json"):
            with contextlib.suppress(FileNotFoundError, FormatError):
                if files.read_json(path, version=IMAGE_VERSION).get("is_moved"):
                    return True
        return False

    def drop_arrival(self, uid: str) -> None:
        """Remove what came for pod *uid*: it is used, or the pod is gone."""
        for ending in ("", GOING):
            _remove(self._arrivals / f"{safe_name(uid)}{ending}")

    def give_back(self, uid: str, *, departed: str | None) -> bool:
        """Take what came for pod *uid* away from it, unless part of it has run; whether it was.

        It becomes what was saved of pod *departed* on this node again; None: it lies elsewhere.
        """
        whole = self._arrivals / safe_name(uid)
        going = self._arrivals / f"{safe_name(uid)}{GOING}"  # not half of one, which is swept
        if whole.is_dir():
            shutil.rmtree(going, ignore_errors=True)
            whole.rename(going)
        elif not going.is_dir():
            return False
        # Else whoever did this before was killed here: it may be the only one there is.
        if not _is_untouched(going):
            going.rename(whole)
            return False
        there = None if departed is None else self._checkpoints / safe_name(departed)
        if there is None or there.is_dir():
            # What is there could not be used, so this came from elsewhere, and lies there.
            shutil.rmtree(going, ignore_errors=True)
            return True
        for applied in going.rglob(f"*{APPLIED}"):
            applied.rename(applied.with_name(applied.name.removesuffix(APPLIED)))
        going.rename(there)
        return True

    # What was decided for the pods that come

    def note(self, uid: str, decision: Decided) -> None:
        """Write down what was decided for pod *uid*. Raises OSError."""
        files.make_private(self._arrivals)
        value = {"version": DECISION_VERSION, **asdict(decision)}
        if not decision.has_given_up:
            del value["has_given_up"]  # which an earlier daemon cannot read
        files.write_json(self._arrivals / f"{safe_name(uid)}.json", value, durable=False)

    def decided(self, uid: str) -> Decided | None:
        """Return what was decided for pod *uid*; None: nothing yet, or by another version."""
        path = self._arrivals / f"{safe_name(uid)}.json"
        try:
            return fields.read(Decided, files.read_json(path, version=DECISION_VERSION), path)
        except FileNotFoundError:
            return None
        except FormatError as error:
            log.error("what was decided for pod %s cannot be read: %s", uid, error)
            return None

    def all_decided(self) -> list[str]:
        """Return the uids of the pods for which something was decided, or that had no answer."""
        found = set()
        for path in map(Path, _names(self._arrivals)):
            if path.suffix in (".json", FRESH) and not path.name.startswith("."):
                found.add(path.stem)
        return sorted(found)

    def forget_decision(self, uid: str) -> None:
        """Let go of what was decided for a pod that is gone."""
        for ending in (".json", FRESH):
            (self._arrivals / f"{safe_name(uid)}{ending}").unlink(missing_ok=True)

    def began_without_us(self, uid: str) -> bool:
        """Whether the runtime started a container of pod *uid* while nobody answered it."""
        return (self._arrivals / f"{safe_name(uid)}{FRESH}").exists()

    def sweep_arrivals(self) -> list[Path]:
        """Remove what interrupted arrivals left; return what was removed.

        What a pod waits for stays: its daemon goes on with it.
        """
        return landing.sweep(self._arrivals, is_wanted=self._is_awaited)

    def drop_half_arrival(self, uid: str) -> None:
        """Remove what has come of what pod *uid* claimed: it waits for it no longer."""
        _remove(self._arrivals / f"{safe_name(uid)}{PARTIAL}")

    def _is_awaited(self, uid: str) -> bool:
        found = self.decided(uid)
        return (
            found is not None
            and bool(found.checkpoint)
            and not (found.is_fresh or found.has_come or found.is_told)
            and not self.began_without_us(uid)
        )


def safe_name(name: str) -> str:
    """Return *name* if it can be one of a file. Raises NodeError."""
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(name) > 253:
        raise NodeError(f"{name!r:.80} is not usable as a file name", reason="BadName")
    return name


def _empty(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    files.make_private(path.parent)
    path.mkdir(mode=0o700)
    return path


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _whole(directory: Path) -> list[str]:
    return [n for n in _names(directory) if not n.endswith(PARTIAL)]


def _is_untouched(whole: Path) -> bool:
    found = [*files.matching(whole, saved.container("*")), *files.matching(whole, saved.SANDBOX)]
    return bool(found) and all((directory / saved.IMAGE).is_dir() for directory in found)


def _link_tree(source: Path, target: Path) -> None:
    """Make the files of *source* appear below *target* too. Raises OSError."""
    target.mkdir(mode=0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _link_tree(source / entry.name, target / entry.name)
            elif entry.name not in _OF_RESTORES:
                os.link(entry.path, target / entry.name, follow_symlinks=False)


def _remove(path: Path) -> None:
    # Under another name first: half a removal must not look whole.
    going = path.with_name(f"{path.name}{GOING}{PARTIAL}")
    try:
        path.rename(going)
    except FileNotFoundError:
        return
    except OSError:  # an earlier removal was cut
        shutil.rmtree(going, ignore_errors=True)
        path.rename(going)
    shutil.rmtree(going, ignore_errors=True)
