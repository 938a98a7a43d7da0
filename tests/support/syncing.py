"""Threads of pods that make images safe against a power cut, in the background."""

from __future__ import annotations

import threading


def finish() -> None:
    """Wait for them: each tells its loop that it is done, so that must be open until then."""
    for thread in threading.enumerate():
        if thread.name.startswith("sync "):
            thread.join()
