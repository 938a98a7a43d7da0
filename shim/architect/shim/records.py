"""What is on disk about living containers: managed ones, and those that could not be managed.

``/run/architect/containers/<id>.json`` is written before the lower runtime creates the container
and removed when the engine deletes it. Its existence is what makes the launcher start the
interpreter, and the keeper takes its containers from there after a restart.
``/run/architect/unmanaged/<id>.json`` says why a container that asked for management runs as under
the lower runtime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.core import fields, files
from architect.core.errors import FormatError
from architect.shim import record_files
from architect.shim.record_files import is_identity, path, remove

__all__ = [
    "Record",
    "Unmanaged",
    "identities",
    "is_identity",
    "path",
    "read",
    "remove",
    "unmanaged",
    "write",
    "write_unmanaged",
]


UNREADABLE: Final = "Unreadable"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One managed container."""

    id: str
    pod: str
    """The pod's uid; of a stand-alone container its id."""
    namespace: str
    pod_name: str
    container: str
    """The container's name in its pod."""
    sandbox_id: str | None
    bundle: str
    pid_file: str | None
    runc_root: str
    """The lower runtime's state: ``--root``."""
    systemd_cgroup: bool
    runtime: str
    """The lower runtime's path."""
    netns: str | None
    """Path of the network namespace; None: made with the container, found through its init."""
    policy: dict[str, Any]
    """:meth:`architect.api.policy.Policy.to_dict`."""
    init_sha: str
    created: float
    """Unix seconds."""
    hollow: bool
    """Created without an application, which is restored from a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Unmanaged:
    """A container that asked for management and runs without."""

    id: str
    pod: str
    namespace: str
    pod_name: str
    container: str
    reason: str
    """A stable CamelCase word: see :mod:`architect.shim.oci`."""
    message: str
    created: float


def write(record: Record) -> None:
    """Write *record*. Raises OSError."""
    _write(path(record.id), asdict(record))


def read(identity: str) -> Record:
    """Return the record of *identity*. Raises FileNotFoundError or FormatError."""
    found = path(identity)
    return fields.read(Record, files.read_json(found, version=record_files.VERSION), found)


def identities() -> Iterator[str]:
    """Yield the id of each container that has a record."""
    if names.CONTAINER_RECORDS.is_dir():
        for entry in sorted(names.CONTAINER_RECORDS.glob("*.json")):
            if is_identity(entry.stem):
                yield entry.stem


def write_unmanaged(note: Unmanaged) -> None:
    """Write why a container is not managed. Raises OSError."""
    _write(record_files.unmanaged_path(note.id), asdict(note))


def unmanaged() -> Iterator[Unmanaged]:
    """Yield why each living container that asked for management has none.

    A note that cannot be read, as another version's, is one with the reason ``Unreadable``.
    """
    if not record_files.UNMANAGED.is_dir():
        return
    for entry in sorted(record_files.UNMANAGED.glob("*.json")):
        try:
            value = files.read_json(entry, version=record_files.VERSION)
        except FileNotFoundError:
            continue  # deleted in between
        except FormatError as error:
            value = {"id": entry.stem, "reason": UNREADABLE, "message": str(error)}
        wanted = {field.name for field in dataclasses.fields(Unmanaged)}
        yield Unmanaged(**{name: value.get(name, "") for name in wanted})


def _write(file: Path, value: dict[str, Any]) -> None:
    files.make_private(file.parent)
    # On tmpfs: it ends with the containers that it describes.
    files.write_json(file, {"version": record_files.VERSION, **value}, durable=False)
