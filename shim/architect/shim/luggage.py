"""The files that travel with a pod: found, packed at its end, unpacked into its successor.

Where each archive lies is said by :mod:`architect.api.saved`, what is in it by
:mod:`architect.shim.layers`. What is shared by a pod's containers is packed once, and applied once:
by the first container that starts, before any application runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from architect.api import saved
from architect.core.errors import FormatError, NodeError
from architect.shim import oci, records
from architect.shim.keeper import images, processes
from architect.shim.layers import places
from architect.shim.layers.apply import apply
from architect.shim.layers.archive import Kind
from architect.shim.layers.pack import pack
from architect.shim.records import Record

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
            upper = places.upper_directory(_init_pid(record))
            total += _pack(upper, into / saved.layer(record.container), Kind.LAYER)
        volumes |= places.volumes(spec, pod)
        shared = shared or places.shared_memory(spec, pod)
    for name, source in sorted(volumes.items()):
        total += _pack(source, into / saved.volume(name), Kind.VOLUME)
    if shared is not None:
        total += _pack(shared, into / saved.SHARED_MEMORY, Kind.VOLUME)
    return total


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
    for name, target in sorted(places.volumes(spec, record.pod).items()):
        _apply_once(arrival / saved.volume(name), target)
    if (shared := places.shared_memory(spec, record.pod)) is not None:
        _apply_once(arrival / saved.SHARED_MEMORY, shared)


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


def _init_pid(record: Record) -> int:
    init = processes.find_init(record.runc_root, record.id)
    if init is None:
        raise NodeError(
            f"container {record.container} ({record.id:.12}) has no living init",
            reason="ContainerGone",
        )
    return init.pid


def _pack(source: Path, target: Path, kind: Kind) -> int:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
