"""Which kernel tests are given to a process together, where several processes share them.

A module has hosts and keepers of its own, so it stays whole. So does a folder whose tests share a
machine: making one costs more than most tests.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

FIRST: Final = ("tests/kernel/faults",)
"""What is begun with. It kills what runs on a node below its process, and counts what is there: a
machine that an earlier unit of this process has made would be among that."""
WHOLE: Final = ("tests/kernel/gvisor", "tests/kernel/nodes", "tests/kernel/standalone")
"""Folders of which all tests share a machine. They take long, and come next."""


def unit(nodeid: str) -> str:
    """Return the path that names the unit of a test."""
    file, _, _ = nodeid.partition("::")
    folder = str(PurePath(file).parent)
    return folder if folder in WHOLE else file


def turn(name: str) -> int:
    """Return how many kinds of unit are begun before that of the unit *name*."""
    if str(PurePath(name).parent) in FIRST:
        return 0
    return 1 if name in WHOLE else 2


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """Gives a process that has nothing to do the next unit, of its kind the one with most tests."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=turn), last=False)
        super()._assign_work_unit(node)
