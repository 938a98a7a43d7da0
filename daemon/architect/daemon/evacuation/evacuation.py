"""The driver: from the first notice of a machine's end to the end, or to the notice's withdrawal.

Every second or so the node is looked at, planned anew and the course taken. All that takes long is
done by others, so a round is short, and one that is lost with the daemon is made up for by the next
one: nothing is remembered here but when the notice was first heard of.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from architect.core.errors import ArchitectError
from architect.core.interruption import Interruption
from architect.daemon.evacuation.course import Course, Told, course
from architect.daemon.evacuation.marking import Marking
from architect.daemon.notices.board import Change
from architect.daemon.notices.notice import ENDS, Notice, foremost
from architect.daemon.pods import ManagedPod
from architect.daemon.spot import planner
from architect.daemon.spot.inputs import Pod, Request, usable_seconds
from architect.daemon.spot.planner import Misfit, Plan, Saved, Stored
from architect.daemon.store import PodStore

log = logging.getLogger(__name__)

STEP_SECONDS: Final = 1.0
"""Between two looks while a notice stands."""
IDLE_SECONDS: Final = 30.0

AHEAD_SECONDS: Final = 300.0
"""An end that is farther away than this, as a maintenance that is announced days before, is not
acted upon yet, unless the node needs longer."""
NEEDS: Final = 2.0
"""Times as long as all pods need, which is when it begins at the latest."""

SETTLE_SECONDS: Final = 30.0
"""How long after the daemon's start a node that says that its machine ends is believed, though no
source has said so again: metadata services are found within seconds."""


class Leaves(Protocol):
    """Of :class:`architect.daemon.moves.departures.Departures`."""

    def evacuate(self, pod: ManagedPod) -> None:
        """Have a pod saved."""

    def refuse(self, pod: ManagedPod, *, reason: str, message: str) -> bool:
        """Have a pod end unsaved."""

    def release(self) -> None:
        """Let all others stay."""


class Surveyor(Protocol):
    """Of :class:`architect.daemon.spot.survey.Survey`."""

    def pods(self) -> dict[str, Pod]:
        """Return the node's pods, by uid."""

    def request(self, deadline_seconds: float, *, pods: Mapping[str, Pod] | None = None) -> Request:
        """Return what the planner is asked."""


class Evacuation:
    """Of one node. :meth:`run` belongs to one thread, the rest is safe from any."""

    def __init__(
        self,
        *,
        standing: Callable[[], Iterable[Notice]],
        survey: Surveyor,
        pods: PodStore,
        departures: Leaves,
        marking: Marking,
        prefer: Callable[[Sequence[str], int | None], None],
        hurry: Callable[[bool], None],
        tell: Callable[[Notice, Told], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        """Prepare. *standing* returns the notices that stand, and *clock* is that of theirs.

        *prefer* is told in which order pods have their turns and are sent, and how many have their
        turn at once; *hurry*, whether an end is announced; *tell*, what is planned.
        """
        self._standing = standing
        self._survey = survey
        self._pods = pods
        self._departures = departures
        self._marking = marking
        self._prefer = prefer
        self._hurry = hurry
        self._tell = tell
        self._clock = clock
        self._wall = wall
        self._step_seconds = step_seconds
        self._changed = threading.Event()
        self._started_at = clock()
        self._heard_at: dict[tuple[str, str], float] = {}
        self._ends: tuple[float, datetime.datetime] | None = None
        self._is_acting = False
        self._is_hurried = False
        self._was_marked: bool | None = None
        self._told: tuple[object, ...] = ()

    def announced(self, change: Change) -> None:
        """Learn that what is announced has changed."""
        log.debug("%s", change)
        self._changed.set()

    @property
    def is_urgent(self) -> bool:
        """Whether an end is near, or may be at any time: what is not stored by then is lost."""
        if self._is_acting:
            return True
        return any(n.kind in ENDS and self._is_near(n) for n in self._standing())

    def is_under_way(self) -> bool:
        """Whether pods are told to leave, or were by an earlier daemon, as far as is known."""
        return self._is_acting or self._may_have_been()

    def run(self, stop: threading.Event) -> None:
        """See to it until *stop*; :meth:`close` after setting it."""
        while not stop.is_set():
            self._changed.clear()
            try:
                self.look()
            except (ArchitectError, OSError) as error:
                # There is no better time: a daemon that begins anew needs some of it.
                log.error(
                    "what is to be done about the machine's end is looked at again: %s", error
                )
            waits = self._is_acting or self._may_have_been()
            self._changed.wait(self._step_seconds if waits else IDLE_SECONDS)

    def close(self) -> None:
        """End what :meth:`run` waits for."""
        self._changed.set()

    def look(self) -> None:
        """Look once, and do what is to be done now."""
        notice = self._next()
        if notice is not None and notice.deadline is not None and self._is_due(notice):
            self._is_acting = True
            self._act(notice, notice.deadline)
        elif self._is_acting:
            log.warning("the end of this machine is not announced any more, or is far away")
            self._is_acting = False
            self._was_marked = False
            self._told = ()
            self._heard_at.clear()
            self._prefer((), None)
            self._departures.release()
            self._marking.want(None)
        elif self._was_marked is not False:
            self._look_back()
        if self.is_urgent != self._is_hurried:
            self._is_hurried = not self._is_hurried
            self._hurry(self._is_hurried)

    def _next(self) -> Notice | None:
        """Return the announced end that counts; None: there is none whose time is known.

        Whoever marks a node without saying when drains it, too, at their own pace: pods leave then
        as they are deleted.
        """
        timed = [n for n in self._standing() if n.kind in ENDS and n.deadline is not None]
        return foremost(timed)

    def _is_near(self, notice: Notice) -> bool:
        left = notice.seconds_left(self._clock())
        return left is None or left <= AHEAD_SECONDS

    def _is_due(self, notice: Notice) -> bool:
        """Whether it is time to begin. What has begun goes on, however it is planned by then.

        That another end was near, which is not announced any more, is no reason to begin.
        """
        left = notice.seconds_left(self._clock())
        has_begun = (notice.source, notice.id) in self._heard_at
        if has_begun or left is None or left <= AHEAD_SECONDS:
            return True
        if not self._pods.is_synced:
            return False
        plan = planner.plan(self._survey.request(usable_seconds(left)))
        return left <= NEEDS * plan.seconds

    def _may_have_been(self) -> bool:
        is_early = self._clock() - self._started_at < SETTLE_SECONDS
        return self._was_marked is not False and is_early

    def _look_back(self) -> None:
        """See whether an earlier daemon was at it, and clean up after it if nobody says it now."""
        if self._was_marked is None:
            self._was_marked = self._marking.was_marked()
        if self._was_marked and not self._may_have_been():
            log.warning("this node says that its machine ends, and nobody says so any more")
            self._marking.want(None)
            self._was_marked = False

    def _act(self, notice: Notice, deadline: float) -> None:
        now = self._clock()
        heard_at = self._heard_at.setdefault((notice.source, notice.id), now)
        self._marking.want(
            Interruption(
                kind=notice.kind.value,
                source=notice.source,
                ends=self._moment(deadline),
                uncordon=False,
            )
        )
        if not self._pods.is_synced:
            return
        pods = self._survey.pods()
        plan = planner.plan(self._survey.request(usable_seconds(deadline - now), pods=pods))
        over = (now - heard_at) / max(deadline - heard_at, self._step_seconds)
        taken = course(plan, pods, over=over)
        self._take(taken)
        self._say(notice, plan, taken, pods)

    def _moment(self, deadline: float) -> datetime.datetime:
        """Return *deadline* by the wall's clock, the same for the same one."""
        if self._ends is None or self._ends[0] != deadline:
            unix = round(self._wall() + deadline - self._clock())
            self._ends = deadline, datetime.datetime.fromtimestamp(unix, tz=datetime.UTC)
        return self._ends[1]

    def _take(self, taken: Course) -> None:
        self._prefer(taken.order, taken.captures)
        # By the order: those who come first are at the turns first, too.
        leave = set(taken.leave)
        for uid in (u for u in taken.order if u in leave):
            pod = self._pods.get(uid)
            if pod is not None:
                self._departures.evacuate(pod)
        for uid, why in taken.refuse.items():
            pod = self._pods.get(uid)
            if pod is not None and self._departures.refuse(
                pod, reason=why.reason, message=why.text
            ):
                log.warning("%s is not saved: %s: %s", pod.full_name, why.reason, why.text)

    def _say(self, notice: Notice, plan: Plan, taken: Course, pods: dict[str, Pod]) -> None:
        saved = [o.pod for o in plan.outcomes if isinstance(o.verdict, Saved | Stored)]
        misfits = {**taken.waiting, **taken.refuse}
        news = (notice.source, notice.id, notice.deadline, frozenset(misfits))
        if news == self._told:
            return
        self._told = news
        said = Told(
            saved=len(saved),
            pods=len(saved) + len(misfits),
            bytes=sum(pod.image_bytes for pod in saved),
            seconds=plan.seconds,
            misfits=tuple(sorted(_named(pods[uid], why) for uid, why in misfits.items())),
        )
        self._tell(notice, said)


def _named(pod: Pod, why: Misfit) -> str:
    return f"{pod.name} ({why.reason})"
