"""What a sleep or a wake that failed means for the next one (pure).

An error's reason tells whether it lies in the application, in its image, or in neither.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from architect.api.policy import OnRestoreFailure
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected

ACCIDENTS: Final = frozenset({"CriuUnavailable", "CriuKilled"})
"""Reasons that lie neither in the application nor in its image: the same may work at once."""
_PASSING: Final = frozenset(
    {
        *("Busy", "InFlight", "NotRunning", "NoSpace", "ReadOnly", "Uninterruptible"),
        *("UnheldSocket", "NoPids", *ACCIDENTS),
    }
)
"""Reasons that say nothing about the next attempt to sleep."""
_LASTING: Final = frozenset({"VolumeChanged"})
"""Reasons that no pause mends."""
DEFECT: Final = "Defect"
"""Reason of what should never happen: an error of the keeper's own."""
_UNKNOWN: Final = frozenset({"VolumeUnknown", "NoSpace", "ReadOnly", DEFECT})
"""Reasons that say nothing about the image: it is not given up for them."""
_SHORT: Final = frozenset({"NoPids", "OutOfMemory"})
"""Reasons that mostly pass, and that a limit makes last: the image is not given up at once."""
_OF_DISKS: Final = {
    errno.ENOSPC: ("NoSpace", "free space for /var/lib/architect"),
    errno.EDQUOT: ("NoSpace", "free space for /var/lib/architect"),
    errno.EROFS: (
        "ReadOnly",
        "the disk of /var/lib/architect takes no changes: see the kernel's log",
    ),
}
"""Errors that the disk of the images gives, whatever is in them: reason and hint."""

RETRY_SECONDS: Final = (1.0, 5.0, 30.0, 60.0)
"""Pauses between attempts with ``on-restore-failure: retry``; the last one repeats."""
ATTEMPTS_WHILE_SHORT: Final = 5
"""How often a wake is tried, over a minute and a half, while a node or a limit is short of
something, before the image is given up where the policy gives up."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why something is not done, in words."""

    reason: str
    message: str
    hint: str

    def as_dict(self) -> dict[str, str]:
        """Return plain JSON values."""
        return {"reason": self.reason, "message": self.message, "hint": self.hint}

    @classmethod
    def of(cls, error: ArchitectError | OSError) -> Refusal:
        """Return what *error* says."""
        if isinstance(error, (NodeError, Rejected)):
            return cls(reason=error.reason, message=error.message, hint=error.hint)
        if isinstance(error, ArchitectError):
            return cls(reason=type(error).__name__, message=error.message, hint=error.hint)
        if isinstance(error, TimeoutError):
            return cls(reason="Timeout", message=str(error), hint="see the keeper's log")
        reason, hint = _OF_DISKS.get(error.errno or 0, ("System", "see the keeper's log"))
        return cls(reason=reason, message=str(error), hint=hint)

    @property
    def stands(self) -> bool:
        """Whether a pod that could not sleep for it is not put to sleep until something changes."""
        return self.reason not in _PASSING


def after_failed_wake(
    wish: OnRestoreFailure, error: ArchitectError | OSError, *, attempts: int
) -> OnRestoreFailure:
    """Return what happens to a pod that could not be woken for *error*; its policy is *wish*.

    *attempts*: how many in a row have failed, with this one.
    """
    if isinstance(error, FormatError):
        # What another version wrote is not broken: that version can restore it.
        return OnRestoreFailure.FAIL
    reason = Refusal.of(error).reason
    if reason in _LASTING and wish is OnRestoreFailure.RETRY:
        return OnRestoreFailure.FAIL
    is_image_meant = reason not in _UNKNOWN and (
        reason not in _SHORT or attempts >= ATTEMPTS_WHILE_SHORT
    )
    if wish is OnRestoreFailure.FRESH and not is_image_meant:
        return OnRestoreFailure.RETRY
    return wish


def defect(error: Exception) -> NodeError:
    """Return what an error means that nobody has thought of."""
    return NodeError(
        f"a defect of the keeper: {type(error).__name__}: {error!s:.200}",
        reason=DEFECT,
        hint="see the keeper's log, and report it",
    )


def pause_seconds(failures: int) -> float:
    """Return how long to wait for the next attempt to wake after so many in a row have failed."""
    return RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1]
