"""What is on disk about living containers of gVisor: ``/run/architect/gvisor/<id>.json``.

Written before runsc creates the container, removed when the engine has deleted it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from architect.api import names
from architect.core import files
from architect.core.errors import FormatError
from architect.shim import record_files

VERSION: Final = 1
DIRECTORY: Final = names.GVISOR_RECORDS


class Record(NamedTuple):
    """One container."""

    sandbox: str | None
    """The id of its sandbox; None: it is the root of its own."""
    pod: str
    """The pod's uid; empty where the engine names none."""
    namespace: str
    pod_name: str
    name: str
    """The container's name in its pod; empty for a root."""
    policy: dict[str, Any] | None
    """:meth:`architect.api.policy.Policy.to_dict`; None: nobody wants the pod managed."""
    runsc: list[str]
    """The program that created it, with the node's flags."""
    root: str
    """runsc's state: ``--root``."""
    bundle: str
    pid_file: str | None
    """Of a root, where runsc leaves the sandbox's process id."""
    oom_score: int | None
    has_terminal: bool
    anchor: int = 0
    """Process id; 0: none."""
    anchor_ticks: int = 0
    """When it started, in clock ticks after boot: process ids are used again."""
    is_started: bool = False
    image: str | None = None
    """Of a root, the directory of the image with which its sandbox waits for all containers of the
    pod, and goes on; None: it has gone on, or is an ordinary one."""
    is_paused: bool = False
    """Of a root, its sandbox stands still while it is copied."""


def path(container: str) -> Path:
    """Return where the record of *container* lies. Raises FormatError."""
    if not record_files.is_identity(container):
        raise FormatError(f"{container!r:.80} is not a container id")
    return DIRECTORY / f"{container}.json"


def write(container: str, record: Record) -> None:
    """Write the record of *container*. Raises OSError or FormatError."""
    file = path(container)
    files.make_private(file.parent)
    # On tmpfs: it ends with the container that it describes.
    files.write_json(file, {"version": VERSION, **record._asdict()}, durable=False)


def is_known(container: str) -> bool:
    """Whether *container* is the id of a container of gVisor that lives."""
    return record_files.is_identity(container) and path(container).exists()


def find(container: str) -> Record | None:
    """Return the record of *container*; None if there is none. Raises FormatError."""
    try:
        value = files.read_json(path(container), version=VERSION)
    except FileNotFoundError:
        return None
    if missing := [name for name in Record._fields if name not in value]:
        raise FormatError(f"{path(container)}: {missing[0]} is missing")
    return Record(**{name: value[name] for name in Record._fields})


def everything() -> dict[str, Record]:
    """Return all records that can be read, by id."""
    found: dict[str, Record] = {}
    for file in sorted(DIRECTORY.glob("*.json")):
        try:
            record = find(file.stem)
        except FormatError:
            continue  # another version's
        if record is not None:
            found[file.stem] = record
    return found


def of_sandbox(sandbox: str) -> dict[str, Record]:
    """Return the records of all containers of *sandbox* but its root, by id."""
    return {id: record for id, record in everything().items() if record.sandbox == sandbox}


def is_of_pod(pod: str) -> bool:
    """Whether *pod* (uid, namespace/name or a container's id) runs under gVisor on this node."""
    return any(
        pod in (record.pod, f"{record.namespace}/{record.pod_name}", id)
        for id, record in everything().items()
    )


def remove(container: str) -> None:
    """Forget *container*, known or not. Raises OSError or FormatError."""
    path(container).unlink(missing_ok=True)
