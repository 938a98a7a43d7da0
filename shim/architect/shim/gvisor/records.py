"""What is on disk about living containers of gVisor: ``/run/architect/gvisor/<id>.json``.

Written before runsc creates the container, removed when the engine has deleted it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

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
    pid_file: str | None
    """Of a root, where runsc leaves the sandbox's process id."""
    oom_score: int | None
    has_terminal: bool
    anchor: int
    """Process id; 0: none."""
    anchor_ticks: int
    """When it started, in clock ticks after boot: process ids are used again."""
    is_started: bool


def path(container: str) -> Path:
    """Return where the record of *container* lies. Raises FormatError."""
    if not record_files.is_identity(container):
        raise FormatError(f"{container!r:.80} is not a container id")
    return DIRECTORY / f"{container}.json"


def write(container: str, record: Record) -> None:
    """Write the record of *container*. Raises OSError or FormatError."""
    file = path(container)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # On tmpfs: it ends with the container that it describes.
    files.write_json(file, {"version": VERSION, **record._asdict()}, durable=False)


def find(container: str) -> Record | None:
    """Return the record of *container*; None if there is none. Raises FormatError."""
    try:
        value = files.read_json(path(container), version=VERSION)
    except FileNotFoundError:
        return None
    if missing := [name for name in Record._fields if name not in value]:
        raise FormatError(f"{path(container)}: {missing[0]} is missing")
    return Record(**{name: value[name] for name in Record._fields})


def of_sandbox(sandbox: str) -> dict[str, Record]:
    """Return the records of all containers of *sandbox* but its root, by id."""
    found: dict[str, Record] = {}
    for file in sorted(DIRECTORY.glob("*.json")):
        try:
            record = find(file.stem)
        except FormatError:
            continue  # another version's
        if record is not None and record.sandbox == sandbox:
            found[file.stem] = record
    return found


def is_of_pod(pod: str) -> bool:
    """Whether *pod* (uid, namespace/name or a container's id) runs under gVisor on this node."""
    for file in DIRECTORY.glob("*.json"):
        try:
            record = find(file.stem)
        except FormatError:
            continue  # another version's
        if record and pod in (record.pod, f"{record.namespace}/{record.pod_name}", file.stem):
            return True
    return False


def remove(container: str) -> None:
    """Forget *container*, known or not. Raises OSError or FormatError."""
    path(container).unlink(missing_ok=True)
