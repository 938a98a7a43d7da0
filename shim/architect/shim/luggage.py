"""The files that travel with a pod: found, packed at its end, unpacked into its successor.

::

    containers/<container>/layer.tar    what the container wrote to its root
    volumes/<volume>.tar                an emptyDir
    shm.tar                             the pod's /dev/shm

Archives are those of :mod:`architect.shim.layers`. What is shared by a pod's containers is packed
once, and applied once: by the first container that starts, before any application runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.core.errors import FormatError, NodeError
from architect.shim import records
from architect.shim.keeper import processes
from architect.shim.layers import places
from architect.shim.layers.apply import apply
from architect.shim.layers.archive import Kind
from architect.shim.layers.pack import pack
from architect.shim.records import Record

LAYER: Final = "layer.tar"
CONTAINERS: Final = "containers"
VOLUMES: Final = "volumes"
SHARED_MEMORY: Final = "shm.tar"
_APPLIED: Final = ".applied"
"""Ending of an archive that has been applied."""


def save(pod: str, into: Path) -> int:
    """Pack the files of a sleeping pod's managed containers; return the archives' bytes.

    Raises NodeError if the pod is not known here, and whatever packing meets.
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
            target = _ensured(into / CONTAINERS / record.container) / LAYER
            total += _pack(places.upper_directory(_init_pid(record)), target, Kind.LAYER)
        volumes |= places.volumes(spec, pod)
        shared = shared or places.shared_memory(spec, pod)
    for name, source in sorted(volumes.items()):
        total += _pack(source, _ensured(into / VOLUMES) / f"{name}.tar", Kind.VOLUME)
    if shared is not None:
        total += _pack(shared, into / SHARED_MEMORY, Kind.VOLUME)
    return total


def unpack(record: Record) -> None:
    """Bring back what came for the created, not yet started container of *record* and its pod.

    Raises NodeError or FormatError; part of it may then be there already.
    """
    arrival = names.ARRIVALS / record.pod
    spec = _spec(record)
    devices = "CAP_MKNOD" in _capabilities(spec)
    layer = arrival / CONTAINERS / record.container / LAYER
    if layer.exists():
        root = Path(f"/proc/{_init_pid(record)}/root")
        _apply(layer, root, Kind.LAYER, are_devices_allowed=devices)
    for name, target in sorted(places.volumes(spec, record.pod).items()):
        _apply_once(arrival / VOLUMES / f"{name}.tar", target)
    if (shared := places.shared_memory(spec, record.pod)) is not None:
        _apply_once(arrival / SHARED_MEMORY, shared)


def _records() -> Iterator[Record]:
    for identity in records.identities():
        try:
            yield records.read(identity)
        except (FileNotFoundError, FormatError):
            continue  # deleted in between, or another version's


def _spec(record: Record) -> dict[str, Any]:
    file = Path(record.bundle) / "config.json"
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise NodeError(f"cannot read {file}: {error}", reason="NoBundle", path=file) from error
    if not isinstance(value, dict):
        raise FormatError(f"{file} holds no object")
    return value


def _capabilities(spec: dict[str, Any]) -> set[str]:
    sets = (spec.get("process") or {}).get("capabilities") or {}
    return set(sets.get("bounding") or ())


def _init_pid(record: Record) -> int:
    init = processes.find_init(record.runc_root, record.id)
    if init is None:
        raise NodeError(
            f"container {record.container} ({record.id:.12}) has no living init",
            reason="ContainerGone",
        )
    return init.pid


def _ensured(directory: Path) -> Path:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _pack(source: Path, target: Path, kind: Kind) -> int:
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
