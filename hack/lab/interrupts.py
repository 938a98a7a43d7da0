"""SIGINT, SIGTERM and SIGHUP: builds end at once, then the program does.

A thread that waits for a compiler of ten minutes hears of no signal, and programs in sessions of
their own do not either, so whoever handles one kills what builds have started. Python runs its
handlers when its main thread comes round to it; one that has just begun to wait for another thread
does not before that has ended. But the C code below writes each signal's number to a pipe at
once, which a thread of ours reads.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Final

from lab import commands

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handle() -> None:
    """From now on the three signals stop builds and raise KeyboardInterrupt in the main thread.

    To be called there. Repeated it begins anew, with the same effect.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    threading.Thread(target=_listen, args=(reading,), name="interrupts", daemon=True).start()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def _listen(reading: int) -> None:
    while numbers := os.read(reading, 64):
        if any(number in SIGNALS for number in numbers):
            commands.stop_builds()


def _interrupt(number: int, frame: FrameType | None) -> None:
    commands.stop_builds()
    raise KeyboardInterrupt
