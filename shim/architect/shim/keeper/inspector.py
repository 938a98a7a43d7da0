"""Looks at a running pod's processes before CRIU does, from a process of its own.

A look reads thousands of small files, and one of them may be on a file system that does not answer:
neither may keep the other pods of the node waiting. What was read is not trusted: it is limited in
number, length and time there, and checked for its shape here.
"""

from __future__ import annotations

import json
from typing import Any, Final

from architect.core.errors import FormatError, NodeError, Rejected
from architect.shim import installation
from architect.shim.inspection.findings import About, Finding
from architect.shim.keeper.loop import Task
from architect.shim.keeper.programs import Ended, Programs

LIMIT_SECONDS: Final = 20.0
"""Thousands of processes take a second; what takes longer does not answer at all."""
ANSWER_BYTES: Final = 256 << 10
"""More than the longest answer of :mod:`architect.shim.inspection`."""


class Inspector:
    """Has them looked at."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._under_way: set[str] = set()

    def look(self, pod: str) -> Task[list[Finding]]:
        """Return what stands out in *pod*, a uid.

        Raises Rejected while another look at it is under way: one may hang for as long as a file
        system does. Raises NodeError with reason ``NotInspected``.
        """
        if pod in self._under_way:
            raise Rejected("its processes are being looked at", reason="Busy", hint="ask again")
        self._under_way.add(pod)
        try:
            ended = yield from self._run(pod)
        finally:
            self._under_way.discard(pod)
        if ended.status != 0:
            raise _failure(ended)
        try:
            return [_finding(value) for value in json.loads(ended.output)["findings"]]
        except (ValueError, KeyError, TypeError, FormatError) as error:
            raise _failure(ended) from error

    def _run(self, pod: str) -> Task[Ended]:
        program = str(installation.program("architect-runtime"))
        return (
            yield from self._programs.run(
                [program, "inspect", pod, "--output", "json"],
                limit_seconds=LIMIT_SECONDS,
                reason="NotInspected",
                kept_bytes=ANSWER_BYTES,
            )
        )


def _finding(value: Any) -> Finding:
    texts = {key: value[key] for key in ("container", "reason", "message", "hint")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise FormatError(f"a finding is malformed: {value!r:.200}")
    return Finding(**texts, is_blocking=value["is_blocking"] is True, about=About(value["about"]))


def _failure(ended: Ended) -> NodeError:
    what = f"has no answer after {ended.seconds:.0f} s" if ended.is_late else "has failed"
    return NodeError(
        f"the look at the pod's processes {what} (status {ended.status}): {ended.output[-300:]}",
        reason="NotInspected",
    )
