"""Volumes of a pod that came asleep: looked at once more before its first instruction.

They were when it came, but it may sleep for long, beside pods of its node that mount the same
claim. The look takes a second for ten thousands of files, so a process of its own does it; it reads
what :func:`architect.shim.keeper.images.keep_data` kept.
"""

from __future__ import annotations

import json
from typing import Final

from architect.core import wire
from architect.core.errors import NodeError
from architect.shim import installation
from architect.shim.keeper.loop import Task
from architect.shim.keeper.programs import Programs

LIMIT_SECONDS: Final = 60.0
"""Three times what the most files take that a volume may have (``architect.shim.layers.stamp``)."""


class Volumes:
    """Has them looked at."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def check(self, pod: str) -> Task[None]:
        """Return if the volumes of *pod* hold what its memory knows.

        Raises Rejected or NodeError: ``VolumeChanged``, ``VolumeNotMounted``, …
        """
        program = str(installation.program("architect-runtime"))
        argv = [program, "check-volumes", pod, "--output", "json"]
        ended = yield from self._programs.run(
            argv, limit_seconds=LIMIT_SECONDS, reason="VolumeUnknown"
        )
        if ended.status == 0:
            return
        try:
            error = wire.error_of(json.loads(ended.output.rpartition("\n")[2]))
        except (ValueError, AttributeError):  # no JSON, or no object
            what = f"has no answer after {ended.seconds:.0f} s" if ended.is_late else "has failed"
            error = NodeError(
                f"the look at the pod's volumes {what} (status {ended.status}): {ended.output}",
                reason="VolumeUnknown",
            )
        raise error
