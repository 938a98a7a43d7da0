"""What the keeper remembers of a pod over its own death: the pod's ``pod.json``.

It need not be true: the keeper may have been killed before it wrote, so that what processes and
images tell goes first (:mod:`.recovery`). Some of it they cannot tell: that a pod goes on
elsewhere, to whom a signal went, for what it sleeps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from architect.api.keeper import PodState
from architect.core import files
from architect.core.errors import FormatError
from architect.shim.keeper import images

VERSION: Final = 1
FILE: Final = "pod.json"


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """One pod."""

    namespace: str = ""
    name: str = ""
    """By both the daemon tells whose the directory is, and removes it once its pod is gone."""
    phase: PodState | None
    """None: nothing was written that can be read."""
    since: float
    """Unix seconds, for people."""
    since_boot: float | None = None
    """The same by the machine's clock (:func:`.boot_seconds`), which nobody sets; None: not known.
    """
    reason: str = ""
    refused: Mapping[str, str] | None = None
    """Why it was not put to sleep again, for people: the next keeper tries it once more."""
    network: dict[str, Any] | None = None
    """What is held (:meth:`.PodNetwork.state`), read by those who hold it."""
    is_leaving: bool = False
    """It is being saved for its successor; the runtime waits for that."""
    sleeps_to_leave: bool = False
    """It was awake when it was to be saved, and sleeps for nothing else."""
    goes_on: bool = False
    """It sleeps for a copy alone."""
    signalled: Mapping[str, str] = field(default_factory=dict)
    """Containers, name to id, to which a signal went."""


def write(uid: str, pod: Remembered) -> None:
    """Write down *pod*. Raises OSError, NodeError.

    Not synced, since a restarted keeper can tell the truth from /proc. After a power cut nothing
    else tells: see :func:`sync`.
    """
    directory = images.pod_directory(uid)
    images.make_private(directory)
    value = {
        "version": VERSION,
        "namespace": pod.namespace,
        "name": pod.name,
        "phase": None if pod.phase is None else pod.phase.value,
        "since": pod.since,
        "since_boot": pod.since_boot,
        "reason": pod.reason,
        "refused": pod.refused,
        "network": pod.network,
        "leaving": pod.is_leaving,
        "sleeps_to_leave": pod.sleeps_to_leave,
        "goes_on": pod.goes_on,
        "signalled": pod.signalled,
    }
    files.write_json(directory / FILE, value, durable=False)


def sync(uid: str) -> None:
    """Have what is written of pod *uid* outlive a power cut; slow, call it in a thread. OSError."""
    directory = images.pod_directory(uid)
    fd = os.open(directory / FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    files.sync_directory(directory)


def read(uid: str) -> Remembered:
    """Return what was written of pod *uid*. Raises FileNotFoundError, FormatError, NodeError."""
    path = images.pod_directory(uid) / FILE
    found = files.read_json(path, version=VERSION)
    is_leaving = found.get("leaving") is True
    try:
        return Remembered(
            namespace=str(found.get("namespace") or ""),
            name=str(found.get("name") or ""),
            phase=PodState(found["phase"]),
            since=float(found["since"]),
            since_boot=None if (at := found.get("since_boot")) is None else float(at),
            reason=str(found.get("reason") or ""),
            refused=found.get("refused"),
            network=found.get("network"),
            is_leaving=is_leaving,
            # An earlier version wrote down only that it was to be saved.
            sleeps_to_leave=found.get("sleeps_to_leave", is_leaving) is True,
            goes_on=found.get("goes_on") is True,
            signalled=dict(found.get("signalled") or {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: {type(error).__name__}: {error}") from error
