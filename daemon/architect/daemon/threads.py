"""Loops in threads that live and end together: a defect in one of them ends all.

kubelet starts the process again, and pods sleep and wake meanwhile as before. Half a daemon would
look alive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final

log = logging.getLogger(__name__)

JOIN_SECONDS: Final = 5.0


class Threads:
    """Those of one process."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        """To end; its threads go on until :attr:`stop`."""
        self.stop = threading.Event()
        self.have_failed = False
        self._threads: list[threading.Thread] = []

    def guard(self) -> None:
        """From now on a defect in any thread of the process ends all."""
        threading.excepthook = self._died

    def start(self, loops: Mapping[str, Callable[[threading.Event], object]]) -> None:
        """Run *loops*, by name, each in a thread until :attr:`stop` is set."""
        self._threads = [
            threading.Thread(target=loop, name=name, args=(self.stop,), daemon=True)
            for name, loop in loops.items()
        ]
        for thread in self._threads:
            thread.start()

    def ask_to_end(self) -> None:
        """Have :meth:`wait` return. Safe in a signal handler."""
        self._asked.set()

    def wait(self) -> None:
        """Return when they are asked to end, or one has died."""
        self._asked.wait()

    def join(self) -> None:
        """Give them some time to end; what does not is left to the process's end."""
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _died(self, arguments: threading.ExceptHookArgs) -> None:
        name = arguments.thread.name if arguments.thread else "?"
        trace: TracebackType | None = arguments.exc_traceback
        error = arguments.exc_value
        details = (arguments.exc_type, error, trace) if error is not None else None
        log.critical("thread %s ended by %r", name, error, exc_info=details)
        self.have_failed = True
        self.stop.set()
        self._asked.set()
