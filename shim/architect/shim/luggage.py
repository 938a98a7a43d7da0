"""The files that travel with a pod: found, packed at its end, unpacked into its successor.

Where each archive lies is said by :mod:`architect.api.saved`, what is in it by
:mod:`architect.shim.layers`. What is shared by a pod's containers is packed once, and applied once:
by the first container that starts, before any application runs.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.api import saved
from architect.core import files
from architect.core.errors import FormatError, NodeError
from architect.shim import oci, records, returning
from architect.shim.keeper import images, processes
from architect.shim.layers import places, stamp
from architect.shim.layers.apply import apply
from architect.shim.layers.archive import Kind
from architect.shim.layers.pack import pack
from architect.shim.records import Record

DATA_VERSION: Final = 1
VOLUME_CHANGED: Final = "VolumeChanged"
"""Reason of a fresh start."""

_APPLIED: Final = ".applied"
"""Ending of an archive that has been applied."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """Where a container has a volume that goes along by itself, with its claim."""

    volume: str
    """Its name, and the directory of it that is mounted, if not all of it is."""
    container: str
    path: str


def save(pod: str, into: Path, mounts: Sequence[Mount] = ()) -> int:
    """Pack the files of a sleeping pod's managed containers; return the archives' bytes.

    Of the volumes of *mounts* it is written down what they hold. Raises NodeError if the pod is not
    known here, and whatever packing meets.
    """
    members = [record for record in _records() if record.pod == pod]
    if not members:
        raise NodeError(
            f"no managed container of pod {pod!r:.80} on this node", reason="UnknownPod"
        )
    volumes: dict[str, Path] = {}
    shared: Path | None = None
    total = 0
    for record in members:
        spec = _spec(record)
        if not (spec.get("root") or {}).get("readonly"):
            upper = places.upper_directory(_init_pid(record))
            total += _pack(upper, into / saved.layer(record.container), Kind.LAYER)
        volumes |= places.volumes(spec, pod)
        shared = shared or places.shared_memory(spec, pod)
    total += pack_volumes(volumes, into)
    if shared is not None:
        total += _pack(shared, into / saved.SHARED_MEMORY, Kind.VOLUME)
    if mounts:
        _write_data(into / saved.DATA, _known(pod, members, mounts))
    return total


def _known(pod: str, members: Sequence[Record], mounts: Sequence[Mount]) -> list[dict[str, Any]]:
    """Return what the pod's memory knows of its volumes."""
    if any(images.has_moved(pod, record.container) for record in members):
        # What was there when it last ran, on another node: not what is there now.
        kept = _read_data(images.kept_data(pod))
        return [{key: v for key, v in volume.items() if key != "isChecked"} for volume in kept]
    specs = {record.container: _spec(record) for record in members}
    return [_stamped(group, specs) for group in _grouped(mounts)]


def check(record: Record) -> None:
    """See that the volumes of the created, not yet started container hold what its memory knows.

    Each is looked at once, before the first container that mounts it goes on. Raises NodeError with
    reason ``VolumeChanged`` or ``VolumeNotMounted``, or what :func:`.returning.check` raises,
    Rejected or FormatError; nothing was changed.
    """
    returning.check(record.pod)
    file = images.arrival_of_pod(record.pod) / saved.DATA
    if not (told := _read_data(file)):
        return
    for volume in told:
        path = volume["mounts"].get(record.container)
        if path is None or volume.get("isChecked"):
            continue
        _compare(volume, record, path)
        volume["isChecked"] = True
    _write_data(file, told)


def check_kept(pod: str) -> None:
    """See the same of the volumes of a sleeping *pod* that came asleep, before it wakes.

    Those of a container that is not there yet are looked at when that one starts (:func:`check`).
    Raises as it does, and OSError.
    """
    members = {record.container: record for record in _records() if record.pod == pod}
    for volume in _read_data(images.kept_data(pod)):
        mounts = [(members[name], at) for name, at in volume["mounts"].items() if name in members]
        if mounts:
            _compare(volume, *mounts[0])


def _compare(volume: Mapping[str, Any], record: Record, path: str) -> None:
    found = stamp.of(places.bound_at(_spec(record), path))
    if found.sha256 != volume["sha256"]:
        raise NodeError(
            f"volume {volume['name']} was written since the pod was saved: it had "
            f"{volume['entries']} files and directories, and has {found.entries}",
            reason=VOLUME_CHANGED,
            hint="memory does not meet newer data",
        )


def unpack(record: Record) -> None:
    """Bring back what came for the created, not yet started container of *record* and its pod.

    Raises NodeError or FormatError; part of it may then be there already.
    """
    arrival = images.arrival_of_pod(record.pod)
    spec = _spec(record)
    layer = arrival / saved.layer(record.container)
    if layer.exists():
        root = Path(f"/proc/{_init_pid(record)}/root")
        has_devices = "CAP_MKNOD" in oci.held_capabilities(spec)
        _apply(layer, root, Kind.LAYER, are_devices_allowed=has_devices)
    apply_volumes(spec, record.pod)
    if (shared := places.shared_memory(spec, record.pod)) is not None:
        _apply_once(arrival / saved.SHARED_MEMORY, shared)


def pack_volumes(volumes: Mapping[str, Path], into: Path) -> int:
    """Pack emptyDirs, by name; return the archives' bytes. Raises whatever packing meets."""
    return sum(
        _pack(source, into / saved.volume(name), Kind.VOLUME)
        for name, source in sorted(volumes.items())
    )


def apply_volumes(spec: Mapping[str, Any], pod: str) -> None:
    """Bring back what came for the emptyDirs of the container of *spec*, each of the pod's once.

    Raises NodeError or FormatError; part of it may then be there already.
    """
    arrival = images.arrival_of_pod(pod)
    for name, target in sorted(places.volumes(spec, pod).items()):
        _apply_once(arrival / saved.volume(name), target)


def _grouped(mounts: Sequence[Mount]) -> Iterator[list[Mount]]:
    ordered = sorted(mounts, key=lambda mount: mount.volume)
    for _, group in itertools.groupby(ordered, key=lambda mount: mount.volume):
        yield list(group)


def _stamped(group: Sequence[Mount], specs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = group[0]
    if (spec := specs.get(first.container)) is None:
        raise NodeError(f"container {first.container} is not managed here", reason="UnknownPod")
    found = stamp.of(places.bound_at(spec, first.path))
    return {
        "name": first.volume,
        "mounts": {mount.container: mount.path for mount in group},
        "sha256": found.sha256,
        "entries": found.entries,
    }


def _read_data(file: Path) -> list[dict[str, Any]]:
    try:
        found = files.read_json(file, version=DATA_VERSION)
    except FileNotFoundError:
        return []  # the pod has no such volume
    return list(found["volumes"])


def _write_data(file: Path, volumes: Sequence[Mapping[str, Any]]) -> None:
    text = json.dumps({"version": DATA_VERSION, "volumes": list(volumes)})
    files.write_atomic(file, text.encode(), mode=0o600)


def _records() -> Iterator[Record]:
    for identity in records.identities():
        try:
            yield records.read(identity)
        except (FileNotFoundError, FormatError):
            continue  # deleted in between, or another version's


def _spec(record: Record) -> dict[str, Any]:
    return places.spec_in(record.bundle)


def _init_pid(record: Record) -> int:
    init = processes.find_init(record.runc_root, record.id)
    if init is None:
        raise NodeError(
            f"container {record.container} ({record.id:.12}) has no living init",
            reason="ContainerGone",
        )
    return init.pid


def _pack(source: Path, target: Path, kind: Kind) -> int:
    files.make_private(target.parent)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        pack(source, fd, kind=kind)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _apply_once(archive: Path, target: Path) -> None:
    if not archive.exists():
        return
    _apply(archive, target, Kind.VOLUME)
    archive.rename(archive.with_name(archive.name + _APPLIED))


def _apply(archive: Path, target: Path, kind: Kind, *, are_devices_allowed: bool = False) -> None:
    source = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    try:
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            apply(source, directory, kind=kind, are_devices_allowed=are_devices_allowed)
        finally:
            os.close(directory)
    finally:
        os.close(source)
