"""What is on disk about living containers: managed ones, and those that could not be managed.

``/run/architect/containers/<id>.json`` is written before the lower runtime creates the container
and removed when the engine deletes it. Its existence is what makes the launcher start the
interpreter, and the keeper takes its containers from there after a restart.
``/run/architect/unmanaged/<id>.json`` says why a container that asked for management runs as under
the lower runtime.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.core import files
from architect.core.errors import FormatError

VERSION: Final = 1
UNMANAGED: Final = names.RUN / "unmanaged"

_IDENTITY = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,199}")
"""runc's own rule for ids, bounded, without a leading dot or hyphen: it becomes a file name."""


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


def is_identity(text: str) -> bool:
    """Whether *text* can be the id of a container of ours."""
    return _IDENTITY.fullmatch(text) is not None


def path(identity: str) -> Path:
    """Return where the record of container *identity* lies."""
    if not is_identity(identity):
        raise FormatError(f"{identity!r:.80} is not a container id")
    return names.CONTAINER_RECORDS / f"{identity}.json"


def write(record: Record) -> None:
    """Write *record*. Raises OSError."""
    _write(path(record.id), asdict(record))


def read(identity: str) -> Record:
    """Return the record of *identity*. Raises FileNotFoundError or FormatError."""
    found = path(identity)
    value = files.read_json(found, version=VERSION)
    value.pop("version")
    wanted = {field.name for field in fields(Record)}
    if missing := sorted(wanted - value.keys()):
        raise FormatError(f"{found}: {missing[0]} is missing")
    # Keys that a newer version added are not ours to judge.
    return Record(**{name: value[name] for name in wanted})


def remove(identity: str) -> None:
    """Remove what is known of *identity*; unknown ids are ignored."""
    path(identity).unlink(missing_ok=True)
    (UNMANAGED / f"{identity}.json").unlink(missing_ok=True)


def identities() -> Iterator[str]:
    """Yield the id of each container that has a record."""
    if names.CONTAINER_RECORDS.is_dir():
        for entry in sorted(names.CONTAINER_RECORDS.glob("*.json")):
            if is_identity(entry.stem):
                yield entry.stem


def write_unmanaged(note: Unmanaged) -> None:
    """Write why a container is not managed. Raises OSError."""
    path(note.id)
    _write(UNMANAGED / f"{note.id}.json", asdict(note))


def unmanaged() -> Iterator[Unmanaged]:
    """Yield why each living container that asked for management has none."""
    if not UNMANAGED.is_dir():
        return
    for entry in sorted(UNMANAGED.glob("*.json")):
        try:
            value = files.read_json(entry, version=VERSION)
        except FileNotFoundError:
            continue  # deleted in between
        wanted = {field.name for field in fields(Unmanaged)}
        yield Unmanaged(**{name: value.get(name, "") for name in wanted})


def _write(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # On tmpfs: it ends with the containers that it describes.
    files.write_json(file, {"version": VERSION, **value}, durable=False)
