"""The keeper's loop in a test, with the children of this process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from architect.shim.keeper import programs
from architect.shim.keeper.loop import Loop, Task
from architect.shim.keeper.programs import Children, Programs

T = TypeVar("T")


class ProgramLoop:
    """A loop that starts programs and learns their end."""

    def __init__(self) -> None:
        self.loop = Loop()
        self._children = Children(self.loop)
        self.programs = Programs(self.loop, self._children)

    @contextmanager
    def reaping(self) -> Iterator[None]:
        """Reap every child of this process inside the block."""
        signal.set_wakeup_fd(self.loop.wakeup_descriptor(), warn_on_full_buffer=False)
        before = signal.signal(signal.SIGCHLD, self._reap)
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, before)
            signal.set_wakeup_fd(-1)

    def _reap(self, _: int, __: FrameType | None) -> None:
        programs.reap(self._children.reaped)

    def finish(self, task: Task[T]) -> T:
        """Run *task* to its end, and return its result."""
        done = self.loop.spawn(task, name="test")
        done.when_done(lambda _: self.loop.stop())
        if not done.is_done:
            self.loop.run()
        return done.result()
