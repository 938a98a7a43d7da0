"""A pod that slept when its machine went down goes on in the containers that kubelet makes anew.

After a reboot it is the same pod to everybody, while its containers, their network and all that lay
in memory are new. What it was lies on the disk: the images, and what its old containers wrote. That
becomes what came for the pod, as if from another node (:mod:`.arrivals`), and it sleeps on.

A pod that ran, fell asleep or woke at that moment starts anew, as under the lower runtime.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from architect.api import saved
from architect.api.keeper import PodState
from architect.core import files
from architect.core.errors import NodeError
from architect.shim.keeper import images, machinerun, podstate
from architect.shim.keeper.images import Meta
from architect.shim.layers.archive import Kind
from architect.shim.layers.pack import pack
from architect.shim.oci import Identity

VERSION: Final = 1
FILES_LOST: Final = "FilesLost"
"""Reason of a fresh start: files that the memory knows were in the machine's memory, too."""


def take_up(identity: Identity) -> bool:
    """Make what slept here in an earlier run of the machine what came for its pod.

    Return whether there is something for this container. May be repeated, and cut at any moment.
    Raises NodeError, FormatError, OSError.
    """
    uid = identity.pod
    arrival = images.arrival_of_pod(uid)
    left = _left(uid)
    if not images.has_returned(uid):
        if not left or not _slept(uid) or _has_come(arrival):
            return False
        arrival.mkdir(mode=0o700, parents=True, exist_ok=True)
        note = {"version": VERSION, "lost": _lost(left.values())}
        files.write_json(arrival / saved.RETURNED, note, durable=False)
    if left:
        files.write_json(arrival / saved.ASLEEP, {"version": VERSION}, durable=False)
    for name, meta in left.items():
        _move(uid, name, meta)
    return (arrival / saved.image(identity.container)).is_dir()


def check(pod: str) -> None:
    """See that nothing of what has returned for *pod* was lost with the machine's memory.

    Raises NodeError with reason ``FilesLost``, FormatError.
    """
    try:
        value = files.read_json(images.arrival_of_pod(pod) / saved.RETURNED, version=VERSION)
    except FileNotFoundError:
        return
    if lost := value.get("lost"):
        raise NodeError(
            f"the machine was rebooted, and with its memory went files: {', '.join(lost)}",
            reason=FILES_LOST,
            hint="files that are to outlive a reboot lie on a disk",
        )


def _has_come(arrival: Path) -> bool:
    """Whether something came from elsewhere, which goes first."""
    # What begins with a dot is left of a call that was cut.
    return arrival.is_dir() and any(not e.name.startswith(".") for e in arrival.iterdir())


def _slept(uid: str) -> bool:
    """Whether the pod slept for itself when it was last written down."""
    try:
        was = podstate.read(uid)
    except FileNotFoundError:
        return False
    is_asleep = was.phase in (PodState.ASLEEP, PodState.FAILED)
    return is_asleep and not (was.is_leaving or was.goes_on)


def _left(uid: str) -> dict[str, Meta]:
    """Return what is known of the images of an earlier run of the machine; none if one has run."""
    now = machinerun.current()
    found: dict[str, Meta] = {}
    for image in files.matching(images.pod_directory(uid), "*/image"):
        directory = image.parent
        if not images.is_complete(directory):
            continue
        if images.is_restored(directory):
            return {}
        meta = Meta.read(directory)
        if meta.run and meta.run != now:
            found[directory.name] = meta
    return found


def _lost(left: Iterable[Meta]) -> list[str]:
    lost: set[str] = set()
    for meta in left:
        lost.update(meta.volatile)
        if meta.upper and not Path(meta.upper).is_dir():
            lost.add("/")
    return sorted(lost)


def _move(uid: str, name: str, meta: Meta) -> None:
    """Put the image of a container, and what it wrote, where it finds what came for it."""
    target = images.arrival(uid, name)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    layer = images.arrival_of_pod(uid) / saved.layer(name)
    if meta.upper and Path(meta.upper).is_dir():
        half = layer.with_name(f"{layer.name}.half")
        fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            pack(Path(meta.upper), fd, kind=Kind.LAYER)
        finally:
            os.close(fd)
        half.rename(layer)
    meta.write(target)
    # Last: until it is there, nothing has come.
    (images.container_directory(uid, name) / "image").rename(target / "image")
