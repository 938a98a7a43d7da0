"""Whether a pod could be dumped, asked before its first sleep.

The keeper looks at the pod's processes (``check``): what it finds keeps them from being dumped, and
so the pod is not put to sleep while it is there; a dump that is known to fail would freeze it for
nothing. The look costs some 100 ms of one CPU, so it is not repeated all the time: once when half
of the idle time has passed, again when the pod has grown by processes, and again after a while as
long as something is found. A look that fails forbids nothing: then the dump decides, as it does
about everything that /proc does not show.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from architect.core.errors import ArchitectError, FormatError
from architect.daemon.observation import Finding
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind, Reason

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 30.0
"""Between two looks at a pod in which something was found, or whose look failed."""

MAX_TOLD: Final = 4
"""Of many findings the first ones say enough for a condition and an event."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look has found."""

    mark: str
    """Of the pod as it was: :func:`.planner.fingerprint`."""
    processes: int
    at: float
    """Monotonic seconds."""
    blocking: tuple[Finding, ...] = ()
    is_known: bool = True
    """Whether the look worked."""


def is_due(
    last: Look | None,
    *,
    mark: str,
    processes: int,
    now: float,
    left_seconds: float | None,
    idle_seconds: float,
) -> bool:
    """Whether a pod is to be looked at now (pure).

    *left_seconds* from now it may sleep; None: what keeps it awake has no known end.
    """
    if left_seconds is None or left_seconds > idle_seconds / 2:
        return False
    if last is None or last.mark != mark:
        return True
    if now - last.at < AGAIN_SECONDS:
        return False
    return bool(last.blocking) or not last.is_known or has_grown(last.processes, processes)


def has_grown(before: int, now: int) -> bool:
    """Whether so many processes have come that it is another pod than the one looked at (pure)."""
    return now > before + max(2, before // 2)


def reasons(last: Look | None, *, mark: str) -> tuple[Reason, ...]:
    """Return what keeps a pod awake after its last look (pure)."""
    if last is None or last.mark != mark:
        return ()
    return tuple(
        Reason(kind=Kind.CANNOT_SLEEP, text=finding.text, container=finding.container)
        for finding in last.blocking[:MAX_TOLD]
    )


class Foresight:
    """Has pods looked at, one at a time. Its methods are the sampler's thread's alone."""

    def __init__(
        self,
        check: Callable[[str], tuple[Finding, ...]],
        *,
        found: Callable[[ManagedPod, tuple[Finding, ...]], None],
        done: Callable[[], None],
    ) -> None:
        """*check* asks the keeper about a uid. *found* is told of what was not there at the look
        before, *done* of each end; both are called by another thread.
        """
        self._check = check
        self._found = found
        self._done = done
        self._lock = threading.Lock()
        self._looks: dict[str, Look] = {}
        self._under_way: set[str] = set()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="foresight")

    def reasons(self, uid: str, *, mark: str) -> tuple[Reason, ...]:
        """Return what keeps the pod awake, as far as it was looked at."""
        with self._lock:
            return reasons(self._looks.get(uid), mark=mark)

    def consider(
        self,
        pod: ManagedPod,
        *,
        mark: str,
        processes: int,
        left_seconds: float | None,
        idle_seconds: float,
    ) -> bool:
        """Begin a look if one is due. Return whether one is under way: its outcome is near."""
        with self._lock:
            if pod.uid in self._under_way:
                return True
            is_needed = is_due(
                self._looks.get(pod.uid),
                mark=mark,
                processes=processes,
                now=time.monotonic(),
                left_seconds=left_seconds,
                idle_seconds=idle_seconds,
            )
            if is_needed:
                self._under_way.add(pod.uid)
        if is_needed:
            done = self._worker.submit(self._look, pod, mark, processes)
            done.add_done_callback(_log_defect)
        return is_needed

    def keep_only(self, uids: set[str]) -> None:
        """Forget pods that are gone."""
        with self._lock:
            for uid in self._looks.keys() - uids:
                del self._looks[uid]

    def close(self) -> None:
        """Begin no more looks."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _look(self, pod: ManagedPod, mark: str, processes: int) -> None:
        blocking: tuple[Finding, ...] = ()
        is_known = True
        try:
            try:
                found = self._check(pod.uid)
                blocking = tuple(f for f in found if f.is_blocking and f.is_lasting)
            except (ArchitectError, FormatError) as error:
                log.warning("%s: whether it can be dumped is not known: %s", pod.full_name, error)
                is_known = False
            look = Look(
                mark=mark,
                processes=processes,
                at=time.monotonic(),
                blocking=blocking,
                is_known=is_known,
            )
            with self._lock:
                before = self._looks.get(pod.uid)
                self._looks[pod.uid] = look
            known = before.blocking if before is not None and before.mark == mark else ()
            if new := {f.reason for f in blocking} - {f.reason for f in known}:
                self._found(pod, tuple(f for f in blocking if f.reason in new))
        finally:
            with self._lock:
                self._under_way.discard(pod.uid)
            self._done()


def _log_defect(done: Future[None]) -> None:
    """Say what a look died of; a future keeps it to itself."""
    if not done.cancelled() and (error := done.exception()) is not None:
        log.critical("a look at a pod ended by a defect: %r", error, exc_info=error)
