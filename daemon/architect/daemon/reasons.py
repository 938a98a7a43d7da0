"""Why a pod is awake: one word for machines, one text for people."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """The stable word: reason of the pod condition and label of metrics.

    Ordered by what a reader should hear first when several hold.
    """

    TERMINATING = "Terminating"
    NOT_RUNNING = "NotRunning"
    SLEEP_FAILED = "SleepFailed"
    CANNOT_SLEEP = "CannotSleep"
    GVISOR = "Gvisor"
    NEVER = "NeverByItself"
    UNINSTALLING = "Uninstalling"
    NOT_READY = "NotReady"
    DEBUG = "DebugContainer"
    EXEC = "ExecSession"
    OPEN_CONNECTIONS = "OpenConnections"
    WARM_UP = "WarmUp"
    CONNECTION = "NewConnection"
    PACKETS = "Traffic"
    DATA = "ConnectionData"
    CPU = "Cpu"
    JUST_AWAKE = "JustAwake"
    DISK = "DiskSpace"
    BACK_OFF = "BackOff"
    QUEUED = "Queued"


_RANK = {kind: rank for rank, kind in enumerate(Kind)}


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One thing that keeps a container, or its pod, awake."""

    kind: Kind
    text: str
    left_seconds: float | None = None
    """How long it holds at least if nothing else happens; None: as long as its cause."""
    container: str = ""
    """Empty: the pod as a whole."""

    def __str__(self) -> str:
        return f"{self.container}: {self.text}" if self.container else self.text


def first(reasons: tuple[Reason, ...]) -> Reason | None:
    """Return the reason to be told first."""
    return min(reasons, key=lambda r: _RANK[r.kind], default=None)
