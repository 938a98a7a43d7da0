"""Saved pods on this node's disk: those that wait for a successor, and those that have come.

::

    checkpoints/<id>/            a pod that left, named by its uid
    arrivals/<uid>/              what came for the pod <uid> of this node
        manifest.json            written last
        containers/<name>/image/, meta.json, layer.tar
        volumes/<name>.tar

A directory with another ending (``.partial``) is half of one, and is swept.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from architect.api import names
from architect.core import files
from architect.core.errors import FormatError, NodeError

log = logging.getLogger(__name__)

PARTIAL: Final = ".partial"
IMAGE_VERSION: Final = 1
"""Of ``meta.json`` (``architect.shim.keeper.images.VERSION``)."""


class Depot:
    """The directories of saved pods. Safe to use from several threads, one pod a thread."""

    def __init__(
        self,
        *,
        pods: Path = names.PODS,
        checkpoints: Path = names.CHECKPOINTS,
        arrivals: Path = names.ARRIVALS,
    ) -> None:
        self._pods = pods
        self._checkpoints = checkpoints
        self._arrivals = arrivals

    # Pods that left

    def begin_departure(self, uid: str) -> Path:
        """Return an empty directory for what is saved of pod *uid*. Raises OSError."""
        return _empty(self._checkpoints / f"{_safe(uid)}{PARTIAL}")

    def link_images(self, uid: str, containers: Iterable[str], *, into: Path) -> None:
        """Give the images of a sleeping pod a second name each: nothing is lost if it wakes.

        Raises NodeError if one is missing, OSError.
        """
        for name in containers:
            source = self._pods / _safe(uid) / _safe(name)
            target = into / "containers" / _safe(name)
            (target / "image").mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                os.link(source / "meta.json", target / "meta.json")
                for entry in os.listdir(source / "image"):
                    os.link(source / "image" / entry, target / "image" / entry)
            except FileNotFoundError as error:
                raise NodeError(
                    f"pod {uid} has no image of container {name}", reason="ImageMissing"
                ) from error

    def init_of(self, uid: str, container: str) -> str:
        """Return the SHA-256 of the init to which a sleeping container's image refers.

        Raises FileNotFoundError if it has no image, FormatError.
        """
        path = self._pods / _safe(uid) / _safe(container) / "meta.json"
        found = files.read_json(path, version=IMAGE_VERSION).get("init_sha")
        if not isinstance(found, str):
            raise FormatError(f"{path} names no init")
        return found

    def finish_departure(self, uid: str) -> Path:
        """Make what was saved of pod *uid* whole; return where it lies. Raises OSError."""
        whole = self._checkpoints / _safe(uid)
        (self._checkpoints / f"{_safe(uid)}{PARTIAL}").rename(whole)
        return whole

    def give_up_departure(self, uid: str) -> None:
        """Remove half a departure."""
        shutil.rmtree(self._checkpoints / f"{_safe(uid)}{PARTIAL}", ignore_errors=True)

    def departure(self, uid: str) -> Path | None:
        """Return where the saved pod *uid* lies whole; None if it does not."""
        found = self._checkpoints / _safe(uid)
        return found if found.is_dir() else None

    def departures(self) -> list[str]:
        """Return the uids of the pods that are saved here."""
        return _whole(self._checkpoints)

    def drop_departure(self, uid: str) -> None:
        """Remove a saved pod: it goes on elsewhere, or nobody wants it any more."""
        _remove(self._checkpoints / _safe(uid))

    # Pods that come

    def arrival(self, uid: str) -> Path | None:
        """Return where lies, whole, what came for pod *uid*; None if nothing did."""
        found = self._arrivals / _safe(uid)
        return found if found.is_dir() else None

    def has_come(self, uid: str, container: str) -> bool:
        """Whether something came for a container of pod *uid* that it has not taken yet."""
        return (self._arrivals / _safe(uid) / "containers" / _safe(container) / "image").is_dir()

    def arrival_of(self, uid: str) -> Path:
        """Return where what comes for pod *uid* is to lie once it is whole."""
        self._arrivals.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._arrivals / _safe(uid)

    def move_here(self, departed: str, *, to: str) -> Path:
        """Make what was saved of pod *departed* on this node what came for pod *to*. OSError."""
        self._arrivals.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole = self._arrivals / _safe(to)
        (self._checkpoints / _safe(departed)).rename(whole)
        return whole

    def arrivals(self) -> list[str]:
        """Return the uids of the pods for which something came."""
        return _whole(self._arrivals)

    def drop_arrival(self, uid: str) -> None:
        """Remove what came for pod *uid*: it is used, or the pod is gone."""
        for ending in ("", PARTIAL):
            _remove(self._arrivals / f"{_safe(uid)}{ending}")


def _safe(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(name) > 253:
        raise NodeError(f"{name!r:.80} is not usable as a file name", reason="BadName")
    return name


def _empty(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700, parents=True)
    return path


def _whole(directory: Path) -> list[str]:
    try:
        return sorted(n for n in os.listdir(directory) if not n.endswith(PARTIAL))
    except FileNotFoundError:
        return []


def _remove(path: Path) -> None:
    # Under another name first: half a removal must not look whole.
    going = path.with_name(f"{path.name}.gone{PARTIAL}")
    try:
        path.rename(going)
    except FileNotFoundError:
        return
    except OSError:  # an earlier removal was cut
        shutil.rmtree(going, ignore_errors=True)
        path.rename(going)
    shutil.rmtree(going, ignore_errors=True)
