"""A user's command in a container whose memory has come from another pod.

The lower runtime executes it as ``kubectl exec`` would, with what the *new* pod's template gives:
environment, user, capabilities, working directory. The application goes on meanwhile; nothing of
the container's is run by us.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from architect.core.errors import NodeError
from architect.shim.keeper.loop import Task
from architect.shim.keeper.programs import Ended, Programs
from architect.shim.records import Record

LIMIT_SECONDS: Final = 60.0
"""Then it is killed: an application that waits for it would wait for ever."""


class Hooks:
    """Runs them, each with a limit of time."""

    def __init__(self, programs: Programs, *, limit_seconds: float = LIMIT_SECONDS) -> None:
        self._programs = programs
        self._limit_seconds = limit_seconds

    def run(self, record: Record, argv: Sequence[str]) -> Task[Ended]:
        """Run *argv* in the container and return how it ended. Raises NodeError.

        The lower runtime's own failures have the status 255.
        """
        return (yield from self.run_command(_exec(record, argv)))

    def run_command(self, command: list[str]) -> Task[Ended]:
        """Run what executes a hook elsewhere, as :meth:`run` does."""
        return (
            yield from self._programs.run(
                command, limit_seconds=self._limit_seconds, reason="HookNotRun"
            )
        )


def told(running: Task[Ended]) -> Task[dict[str, Any]]:
    """Return what the event of a hook tells once it has run, or could not."""
    try:
        ended = yield from running
    except NodeError as error:
        return {"reason": error.reason, "message": str(error)}
    return {
        "status": ended.status,
        "duration_seconds": ended.seconds,
        "message": ended.output,
        "is_late": ended.is_late,
    }


def _exec(record: Record, argv: Sequence[str]) -> list[str]:
    systemd = ["--systemd-cgroup"] if record.systemd_cgroup else []
    return [record.runtime, "--root", record.runc_root, *systemd, "exec", record.id, *argv]
