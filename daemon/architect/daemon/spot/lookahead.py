"""Looks all the time at what would be saved if the machine were announced to end, and tells.

Where machines are taken back (:func:`notice_of`), and nowhere else: elsewhere nobody could do
anything about it. It looks when pods have changed and now and then, makes no new plan while nothing
of weight has changed, and rests so long after one that it takes half a percent of a core at most.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from architect.api import names
from architect.core.errors import ArchitectError
from architect.daemon.metrics import Metrics
from architect.daemon.notices.providers import Machine
from architect.daemon.pods import ManagedPod
from architect.daemon.settings import DaemonSettings, LookAhead, SpotProvider
from architect.daemon.spot import outlook as outlooks
from architect.daemon.spot import table
from architect.daemon.spot.inputs import Pod
from architect.daemon.spot.outlook import Outlook
from architect.daemon.spot.planner import Misfit
from architect.daemon.spot.remedies import Remedy, remedies
from architect.daemon.spot.survey import Survey
from architect.daemon.store import PodStore
from architect.kube.api import Api
from architect.kube.events import EventType, Note
from architect.kube.resources import NODES, ObjectRef

log = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 15.0
"""Between two looks while no pod changes: memory grows."""

LEAST_SECONDS: Final = 2.0
"""Between two looks, however often pods change."""

REST: Final = 200.0
"""How many times as long as a look kept the processor busy nobody looks again."""

WRITE_SECONDS: Final = 60.0
"""Between two writes of the Node's annotation: every kubelet and controller watches nodes."""

SETTLED_SECONDS: Final = 120.0
"""How long a metadata service may take to be found before what an earlier daemon wrote goes."""

Tell = Callable[[ManagedPod, Note], None]


def notice_of(config: DaemonSettings, machine: Machine | None) -> float | None:
    """Return the seconds of the notice that is looked ahead to; None: this is no spot machine."""
    if config.spot_look_ahead is LookAhead.NEVER:
        return None
    if config.spot_look_ahead is LookAhead.AUTO and (machine is None or not machine.is_spot):
        return None
    return config.spot_notice_seconds if machine is None else machine.notice_seconds


def settled_seconds(config: DaemonSettings) -> float:
    """Return after how long it is certain enough that this is no spot machine."""
    is_asked = config.spot_provider is not SpotProvider.NONE
    return SETTLED_SECONDS if is_asked and config.spot_look_ahead is LookAhead.AUTO else 0.0


class Lookahead:
    """Of one node. :meth:`run` belongs to one thread."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        survey: Survey,
        store: PodStore,
        metrics: Metrics,
        notice: Callable[[], float | None],
        tell: Tell,
        is_paused: Callable[[], bool] = lambda: False,
        interval_seconds: float = INTERVAL_SECONDS,
        least_seconds: float = LEAST_SECONDS,
        write_seconds: float = WRITE_SECONDS,
        settled_seconds: float = SETTLED_SECONDS,
    ) -> None:
        """Prepare. *notice* is asked as :func:`notice_of`.

        *is_paused* tells whether the machine's end has been announced: then others plan.
        """
        self._api = api
        self._node = ObjectRef(resource=NODES, name=node)
        self._survey = survey
        self._store = store
        self._metrics = metrics
        self._notice = notice
        self._tell = tell
        self._is_paused = is_paused
        self._interval_seconds = interval_seconds
        self._least_seconds = least_seconds
        self._write_seconds = write_seconds
        self._settled_at = time.monotonic() + settled_seconds
        self._wake = threading.Event()
        self._latest: Outlook | None = None
        self._told_node: Mapping[str, Any] | None = None
        self._is_node_clean = False
        """Whether the Node certainly has no annotation of ours."""
        self._written_at = -math.inf
        self._suspects: frozenset[tuple[str, str]] = frozenset()
        self._told_pods: set[tuple[str, str]] = set()

    def poke(self) -> None:
        """Say that pods have changed. Any thread may call it."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Look until *stop*; :meth:`poke` ends the wait."""
        while not stop.is_set():
            began = time.thread_time()
            if self._store.is_synced:
                self.look()
            rest = max(self._least_seconds, REST * (time.thread_time() - began))
            stop.wait(rest)
            self._wake.wait(max(0.0, self._interval_seconds - rest))
            self._wake.clear()

    def look(self) -> None:
        """Look once, and tell what is new."""
        if self._is_paused():
            return
        notice_seconds = self._notice()
        if notice_seconds is None:
            self._be_silent()
            return
        pods = self._survey.pods()
        request = self._survey.request(outlooks.deadline(notice_seconds), pods=pods)
        latest = self._latest
        if (
            latest is None
            or latest.notice_seconds != notice_seconds
            or not outlooks.is_same(latest.request, request)
        ):
            latest = outlooks.look(request, notice_seconds=notice_seconds)
            self._latest = latest
            self._measure(latest)
        self._write(latest)
        self._warn(latest, pods)

    def _measure(self, found: Outlook) -> None:
        m, need = self._metrics, found.need
        m.spot_notice_seconds.set(found.notice_seconds)
        m.spot_needed_seconds.set(math.inf if need.seconds is None else need.seconds)
        m.spot_limit.clear()
        if need.limit is not None:
            m.spot_limit.labels(need.limit.value).set(1)
        m.spot_pods.labels("stored").set(found.stored)
        m.spot_pods.labels("saved").set(found.saved)
        m.spot_misfits.clear()
        for reason, number in found.misfits.items():
            m.spot_misfits.labels(reason).set(number)
        m.spot_pending_bytes.set(need.bytes)

    def _be_silent(self) -> None:
        """Say nothing, and take back what was said: also by a daemon before this one."""
        if self._latest is not None:
            self._latest = None
            self._suspects = frozenset()
            m = self._metrics
            for gauge in (m.spot_notice_seconds, m.spot_needed_seconds):
                gauge.set(math.nan)
            for family in (m.spot_limit, m.spot_pods, m.spot_misfits):
                family.clear()
            m.spot_pending_bytes.set(0)
        is_due = self._told_node is not None or time.monotonic() > self._settled_at
        if self._is_node_clean or not is_due:
            return
        try:
            node = self._api.find(self._node)
            annotations = {} if node is None else node["metadata"].get("annotations") or {}
            if names.SPOT_NEEDS in annotations:
                self._annotate(None)
        except ArchitectError as error:
            log.warning("annotation %s is not taken back yet: %s", names.SPOT_NEEDS, error)
            return
        self._told_node, self._is_node_clean = None, True

    def _write(self, found: Outlook) -> None:
        now = outlooks.annotation(found)
        is_early = time.monotonic() - self._written_at < self._write_seconds
        if is_early or not outlooks.is_news(self._told_node, now):
            return
        self._written_at, self._is_node_clean = time.monotonic(), False
        try:
            self._annotate(json.dumps(now))
        except ArchitectError as error:
            log.warning("annotation %s is not written: %s", names.SPOT_NEEDS, error)
            return
        self._told_node = now

    def _annotate(self, text: str | None) -> None:
        self._api.patch(self._node, {"metadata": {"annotations": {names.SPOT_NEEDS: text}}})

    def _warn(self, found: Outlook, pods: Mapping[str, Pod]) -> None:
        """Tell each pod that would be lost, once for each reason, if two looks agree on it."""
        # The plan may be of a moment before: a pod is known by its name then.
        uids = {pod.name: uid for uid, pod in pods.items()}
        lost = {
            (uid, outcome.verdict.reason): place
            for place, outcome in enumerate(found.plan.outcomes)
            if isinstance(outcome.verdict, Misfit)
            and outcome.verdict.reason not in outlooks.UNTOLD
            and (uid := uids.get(outcome.pod.name)) is not None
        }
        due = (self._suspects & lost.keys()) - self._told_pods
        self._suspects = frozenset(lost)
        self._told_pods = {key for key in self._told_pods if key[0] in pods}
        if not due:
            return
        advice = remedies(found.request, found.plan)
        for key in sorted(due):
            pod = self._store.get(key[0])
            outcome = found.plan.outcomes[lost[key]]
            if pod is not None and isinstance(outcome.verdict, Misfit):
                text = _lost_text(found.notice_seconds, outcome.verdict, advice[lost[key]])
                self._tell(
                    pod,
                    Note(
                        reason=names.EVENT_WOULD_BE_LOST,
                        text=text,
                        action="LookAhead",
                        event_type=EventType.WARNING,
                    ),
                )
            self._told_pods.add(key)


def _lost_text(notice_seconds: float, verdict: Misfit, remedy: Remedy | None) -> str:
    said = (
        f"if this machine is taken back with a notice of {notice_seconds:g} s, the pod starts anew "
        f"elsewhere: {verdict.reason}: {verdict.text}"
    )
    return said if remedy is None else f"{said}; {table.remedy_text(remedy)}"
