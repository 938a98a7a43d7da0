"""Who sends next: the shards of all uploads, so many at once, in an order that may change.

Whoever is free takes the next shard of the first upload, in that order, that has one left. So of
two uploads the first one has every stream that it can use, and the other one what is left; a shard
that is under way is not interrupted. Uploads that the order does not name come after all that it
does, as they came: the first few of them take turns, so that none waits for the end of one large
one, and the others wait, so that some are whole before all are.

A stream is a thread that is there only while there is something for it to do: nobody sleeps who
would have to be woken, and how many there may be can change at any time.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

AT_ONCE: Final = 3
"""Unless it is said otherwise. :mod:`architect.daemon.vault.width` has what each takes of memory,
and how many there are while the node's end is announced."""

TURNS: Final = 8
"""Of the uploads that no order names: as many as there may be copies of running pods, which are in
no hurry, and as many besides."""


class _Row:
    """What one upload has left to send."""

    def __init__(self, id: str, work: Callable[[int], None], numbers: Iterable[int]) -> None:
        self.id = id
        self.work = work
        self.left = deque(numbers)
        self.under_way = 0
        self.turn = 0
        """When it had its last one."""
        self.error: Exception | None = None

    @property
    def is_over(self) -> bool:
        return not self.left and not self.under_way


class Streams:
    """Of one node. Safe to use from several threads."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._changed = threading.Condition()
        self._at_once = max(1, at_once)
        self._running = 0
        self._rows: list[_Row] = []
        self._rank: dict[str, int] = {}
        self._turns = itertools.count(1)

    @property
    def at_once(self) -> int:
        """How many there may be."""
        with self._changed:
            return self._at_once

    def widen(self, at_once: int) -> None:
        """Let there be so many from now on; those that are too many end with their shard."""
        with self._changed:
            self._at_once = max(1, at_once)
            self._staff()

    def prefer(self, order: Sequence[str]) -> None:
        """From now on uploads have their turns in this order of ids, under way or not yet."""
        with self._changed:
            self._rank = {}
            for id in order:
                self._rank.setdefault(id, len(self._rank))

    def run(self, id: str, work: Callable[[int], None], numbers: Iterable[int]) -> None:
        """Do *work* for all *numbers*, begun in their order, for the upload *id*.

        Returns once nothing of it is under way. The first failure leaves out what was not begun,
        and is raised; *work* that shall end early because of it has to be told by *work*.
        """
        row = _Row(id, work, numbers)
        with self._changed:
            row.turn = next(self._turns)
            self._rows.append(row)
            try:
                self._staff()
                self._changed.wait_for(lambda: row.is_over)
            finally:
                row.left.clear()
                self._rows.remove(row)
        if row.error is not None:
            raise row.error

    def _staff(self) -> None:
        """Have a thread for each shard that could be sent now. The lock is held."""
        waiting = sum(len(row.left) for row in self._rows)
        while self._running < self._at_once and waiting > 0:
            threading.Thread(target=self._serve, name="upload", daemon=True).start()
            self._running += 1
            waiting -= 1

    def _serve(self) -> None:
        row: _Row | None = None
        while True:
            with self._changed:
                if row is not None:
                    row.under_way -= 1
                    if row.is_over:
                        self._changed.notify_all()
                row = self._next() if self._running <= self._at_once else None
                if row is None:
                    self._running -= 1
                    return
                number = row.left.popleft()
                row.under_way += 1
                row.turn = next(self._turns)
            try:
                row.work(number)
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                with self._changed:
                    row.left.clear()
                    row.error = row.error or error

    def _next(self) -> _Row | None:
        """Return whose turn it is. The lock is held."""
        waiting = [row for row in self._rows if row.left]
        if named := [row for row in waiting if row.id in self._rank]:
            return min(named, key=lambda row: (self._rank[row.id], row.turn))
        return min(waiting[:TURNS], key=lambda row: row.turn, default=None)
