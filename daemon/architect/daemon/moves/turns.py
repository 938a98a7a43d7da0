"""Whose turn it is to be frozen: a node's pods, so many at once, and each for one purpose."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """Safe to use from several threads."""

    def __init__(self, at_once: int) -> None:
        self._slots = threading.BoundedSemaphore(at_once)
        self._changed = threading.Condition()
        self._pods: set[str] = set()

    @property
    def are_wanted(self) -> bool:
        """Whether a pod has its turn, or waits for it."""
        return bool(self._pods)

    @contextlib.contextmanager
    def of(self, uid: str) -> Iterator[None]:
        """Wait for the turn of pod *uid*, which lasts as long as the block.

        A pod that leaves while it is copied is saved once the copy is made, and the other way
        round; what is known of it from before may not hold any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: uid not in self._pods)
            self._pods.add(uid)
        try:
            with self._slots:
                yield
        finally:
            with self._changed:
                self._pods.remove(uid)
                self._changed.notify_all()
