"""The lookout: what is announced about this machine, from all who may announce it.

One thread asks the metadata service, once it is found; another follows the node's object. Whatever
they hear goes to the board, and each change of that to whoever acts on it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from architect.core.errors import Rejected
from architect.daemon.metrics import Metrics
from architect.daemon.notices import nodemarks
from architect.daemon.notices.board import Board, Change, ChangeKind
from architect.daemon.notices.clock import Clock
from architect.daemon.notices.detection import URLS, Detection, Found
from architect.daemon.notices.firstseen import FirstSeen
from architect.daemon.notices.hostnetwork import HostNetwork
from architect.daemon.notices.metadata import Connect, connect_here
from architect.daemon.notices.nodewatch import NodeWatch
from architect.daemon.notices.notice import ENDS, Announcement, Notice, foremost
from architect.daemon.notices.providers import NOT_ASKED, Machine, Part
from architect.daemon.notices.troubles import Troubles
from architect.daemon.settings import DaemonSettings, SpotProvider
from architect.kube.api import Api
from architect.kube.watch import Backoff

log = logging.getLogger(__name__)

NODE: Final = "node"
"""The source of what is on the Node object."""

SEARCH_FIRST_SECONDS: Final = 5.0
SEARCH_MAX_SECONDS: Final = 300.0
"""Between two searches where nothing was found: at first the network may still be coming up, and
later it costs a connection or two a minute that nobody accepts."""

FAILED_FIRST_SECONDS: Final = 1.0
FAILED_MAX_SECONDS: Final = 10.0
"""Between two looks at a service that does not answer."""

LOST_SECONDS: Final = 300.0
"""A service that has not answered for so long is searched for anew."""

SKEW_SECONDS: Final = 10.0
"""A difference between the clocks that is worth a line."""

Told = Callable[[Change], None]


def open_lookout(
    config: DaemonSettings,
    *,
    api: Api,
    metrics: Metrics,
    told: Told,
    memory: Path | None = None,
    is_in_pod: bool = True,
) -> Lookout:
    """Return the lookout that is configured.

    *memory* is a file that a reboot removes; *is_in_pod*: the host has another network than we.
    """
    names: tuple[str, ...] = tuple(URLS)
    if config.spot_provider is SpotProvider.NONE:
        names = ()
    elif config.spot_provider is not SpotProvider.AUTO:
        names = (config.spot_provider.value,)
    return Lookout(
        names,
        endpoint=config.spot_endpoint,
        notice_seconds=config.spot_notice_seconds,
        is_sure=config.spot_provider is not SpotProvider.AUTO,
        api=api,
        node=config.node_name,
        metrics=metrics,
        told=told,
        memory=memory,
        connect=HostNetwork().connect if is_in_pod else connect_here,
    )


class Lookout:
    """See the module. :meth:`run` belongs to a thread, the rest is safe from any."""

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        metrics: Metrics,
        told: Told,
        api: Api | None = None,
        node: str = "",
        endpoint: str = "",
        notice_seconds: float = 30.0,
        is_sure: bool = False,
        memory: Path | None = None,
        connect: Connect = connect_here,
        clock: Clock | None = None,
        search_first_seconds: float = SEARCH_FIRST_SECONDS,
    ) -> None:
        """*told* is told of each change, one after the other, and must not take long.

        *names* are the providers that this machine may be of, and *is_sure* is whether it must be
        of one of them: then that none is found is a trouble.
        """
        self._clock = clock or Clock()
        self._metrics = metrics
        self._told = told
        self._is_sure = is_sure
        self._search_first_seconds = search_first_seconds
        self._troubles = Troubles(metrics)
        self._detection: Detection | None = None
        if names:
            self._detection = Detection(
                names,
                endpoint=endpoint,
                clock=self._clock,
                connect=connect,
                notice_seconds=notice_seconds,
            )
        self._node: NodeWatch | None = None
        if api is not None:
            self._node = NodeWatch(
                api,
                node=node,
                seen=self.see_node,
                failed=lambda error: self._troubles.failed(NODE, error),
            )
        self._lock = threading.RLock()
        self._board = Board()
        self._first_seen = FirstSeen(memory)
        self._found: Found | None = None
        self._machine: Machine | None = None
        self._is_closed = False
        self._has_said_skew = False
        metrics.announced_end_seconds.set_function(lambda: self.seconds_left)

    def standing(self) -> tuple[Notice, ...]:
        """Return all that is announced at the moment."""
        with self._lock:
            return self._board.standing()

    @property
    def machine(self) -> Machine | None:
        """Who this machine is, once a metadata service has told; it stays that one."""
        with self._lock:
            return self._machine

    def run(self, stop: threading.Event) -> None:
        """Look out until *stop*; :meth:`close` after setting it."""
        follower: threading.Thread | None = None
        if self._node is not None:
            follower = threading.Thread(target=self._node.run, name="notices-node", daemon=True)
            follower.start()
        backoff = Backoff(first_seconds=self._search_first_seconds, max_seconds=SEARCH_MAX_SECONDS)
        while self._detection is not None and not stop.is_set():
            found = self._search(self._detection)
            if found is None:
                stop.wait(backoff.next())
                continue
            backoff.reset()
            self._follow(found, stop)
        stop.wait()
        if follower is not None:
            follower.join()

    def close(self) -> None:
        """End what :meth:`run` waits for."""
        with self._lock:
            self._is_closed = True
            found = self._found
        if found is not None:
            found.service.close()
        if self._detection is not None:
            self._detection.close()
        if self._node is not None:
            self._node.close()

    def see_node(self, node: Mapping[str, Any]) -> None:
        """Take this node's object as it is now."""
        self._troubles.went(NODE)
        self._take(NODE, "marks", nodemarks.announced(node))

    def acknowledge(self, notice: Notice) -> None:
        """Tell who announced *notice* that it may happen now, since all that could be saved is.

        For whoever has saved everything, and for nobody before. Raises Rejected (``NotAsked``)
        where nobody waits for it, and Retryable.
        """
        with self._lock:
            found = self._found
        if found is None or found.name != notice.source:
            raise Rejected(f"nobody waits for {notice.source} to be told", reason=NOT_ASKED)
        found.provider.acknowledge(notice.id)

    # The metadata service

    def _search(self, detection: Detection) -> Found | None:
        found, failures = detection.search()
        for failed in failures:
            # That another cloud's service does not answer, or speaks otherwise, is how it should
            # be.
            if found is None and (self._is_sure or isinstance(failed.error, Rejected)):
                self._troubles.failed(failed.name, failed.error)
        if found is None:
            return None
        with self._lock:
            self._found, self._machine = found, found.machine
            if self._is_closed:
                found.service.close()
        self._metrics.notice_provider.labels(found.name).set(1)
        self._troubles.went(found.name)
        log.info(
            "%s tells of interruptions: %s is %s%s",
            found.service.url, found.name, found.machine.name,
            f" ({found.machine.about})" if found.machine.about else "",
        )  # fmt: skip
        return found

    def _follow(self, found: Found, stop: threading.Event) -> None:
        """Ask it until *stop*, or until it has not answered for too long."""
        backoff = Backoff(first_seconds=FAILED_FIRST_SECONDS, max_seconds=FAILED_MAX_SECONDS)
        heard_at = time.monotonic()
        while not stop.is_set() and time.monotonic() - heard_at < LOST_SECONDS:
            look = found.provider.look()
            if stop.is_set():
                break
            for name, part in look.parts.items():
                self._hear(found.name, name, part)
            wait = look.again_seconds
            if any(part.announcements is not None for part in look.parts.values()):
                heard_at = time.monotonic()
                backoff.reset()
                self._say_skew()
            elif look.parts:
                wait = max(wait, backoff.next())
            stop.wait(wait)
        with self._lock:
            self._found = None
        found.service.close()
        self._metrics.notice_provider.labels(found.name).set(0)

    def _hear(self, source: str, name: str, part: Part) -> None:
        if part.problem is not None:
            self._troubles.failed(f"{source}/{name}", part.problem)
        else:
            self._troubles.went(f"{source}/{name}")
        if part.announcements is not None:
            self._take(source, name, part.announcements)

    def _say_skew(self) -> None:
        skew = self._clock.skew_seconds
        if abs(skew) >= SKEW_SECONDS and not self._has_said_skew:
            self._has_said_skew = True
            log.warning(
                "this machine's clock is %.0f s %s the metadata service's, by which deadlines go",
                abs(skew), "ahead of" if skew > 0 else "behind",
            )  # fmt: skip

    # The board

    def _take(self, source: str, part: str, announcements: Iterable[Announcement]) -> None:
        said = tuple(announcements)
        with self._lock:
            self._first_seen.retain(f"{source}/{part}", (a.id for a in said))
            notices = [self._notice(source, part, a) for a in said]
            for change in self._board.take(source, part, notices):
                self._count(change)
                self._told(change)

    def _notice(self, source: str, part: str, said: Announcement) -> Notice:
        deadline: float | None = None
        if said.ends_in_seconds is not None:
            deadline = self._first_seen.earliest(
                f"{source}/{part}", said.id, self._clock.monotonic() + said.ends_in_seconds
            )
        elif said.ends_unix is not None:
            deadline = self._clock.deadline(said.ends_unix)
        return Notice(
            kind=said.kind,
            source=source,
            id=said.id,
            said=said.said,
            ends_unix=said.ends_unix,
            deadline=deadline,
        )

    def _count(self, change: Change) -> None:
        notice = change.notice
        labels = (notice.source, notice.kind.value)
        if change.before is not None:
            before = change.before
            self._metrics.notices.labels(before.source, before.kind.value).dec()
        if change.kind is not ChangeKind.WITHDRAWN:
            self._metrics.notices.labels(*labels).inc()
        if change.kind is ChangeKind.APPEARED:
            self._metrics.notices_seen.labels(*labels).inc()
        log.warning("%s: %s", change.kind.value, notice)

    @property
    def seconds_left(self) -> float:
        """What the metric says: see :attr:`Metrics.announced_end_seconds`."""
        first = foremost(n for n in self.standing() if n.kind in ENDS)
        if first is None:
            return math.inf
        left = first.seconds_left(self._clock.monotonic())
        return math.nan if left is None else left
