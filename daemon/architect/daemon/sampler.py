"""The loop that looks at awake pods, judges them, and starts the sleep of those that are idle.

One call to the keeper per tick, for the pods that are due; no call to the API. A pod is looked at
ten times in its idle time, and once more at the moment when it may sleep.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from architect.api.keeper import PodState
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected, Unavailable
from architect.daemon import activity, images, planner
from architect.daemon.activity import PodTrack, Verdict
from architect.daemon.foresight import Foresight
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.observation import Finding, Observation, Refusal
from architect.daemon.planner import Candidate, Disk
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind, Reason, first
from architect.daemon.registry import Registry
from architect.daemon.settings import DaemonSettings
from architect.daemon.store import PodStore

log = logging.getLogger(__name__)

COALESCE_SECONDS: Final = 0.5
"""Pods that are due this much later are looked at together: one call instead of two."""

IDLE_WAIT_SECONDS: Final = 30.0
"""With nothing to look at, how long until the loop shows that it is alive."""

NOTE_SECONDS: Final = 30.0
"""A verdict that says the same is left with the keeper again after this time."""

Changed = Callable[[str], None]


class Sampler:
    """Looks, judges, and puts to sleep."""

    def __init__(
        self,
        settings: DaemonSettings,
        *,
        keeper: KeeperLink,
        store: PodStore,
        registry: Registry,
        metrics: Metrics,
        images_directory: Path,
        verdict_changed: Changed,
        extra_reasons: Callable[[], list[Reason]],
        found: Callable[[ManagedPod, tuple[Finding, ...]], None],
    ) -> None:
        self._settings = settings
        self._keeper = keeper
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._images_directory = images_directory
        self._verdict_changed = verdict_changed
        self._extra_reasons = extra_reasons
        self._foresight = Foresight(keeper.check, found=found, done=self.poke)
        self._wake = threading.Event()
        self._tracks: dict[str, PodTrack] = {}
        self._next_look: dict[str, float] = {}
        self._noted: dict[str, tuple[float, tuple[object, ...]]] = {}
        self._told_ready: dict[str, dict[str, bool]] = {}
        self._lock = threading.Lock()
        self._falling: set[str] = set()
        self._random = random.Random()
        self._workers = ThreadPoolExecutor(
            max_workers=settings.max_concurrent_sleeps, thread_name_prefix="sleep"
        )
        self.alive_at = time.monotonic()

    def poke(self) -> None:
        """Make the loop look for new pods now. Any thread may call it."""
        self._wake.set()

    def forget_told(self) -> None:
        """Tell the keeper everything anew: it has restarted."""
        self._told_ready = {}
        self._noted = {}
        self.poke()

    def run(self, stop: threading.Event) -> None:
        """Work until *stop*; sleeps under way are not waited for, the keeper ends them."""
        try:
            while not stop.is_set():
                self.alive_at = time.monotonic()
                wait = self.tick()
                # Never faster than the shortest interval, however often pods change.
                stop.wait(min(wait, self._settings.sample_min_seconds))
                self._wake.wait(max(0.0, wait - self._settings.sample_min_seconds))
                self._wake.clear()
        finally:
            self._workers.shutdown(wait=False, cancel_futures=True)
            self._foresight.close()

    def tick(self) -> float:
        """Look at what is due and act on it; returns the seconds until something is due."""
        now = time.monotonic()
        pods = {p.uid: p for p in self._store.all()}
        awake = {
            uid: pod for uid, pod in pods.items() if self._registry.state(uid) is PodState.AWAKE
        }
        for table in (self._tracks, self._next_look, self._noted, self._told_ready):
            for uid in table.keys() - awake.keys():
                del table[uid]
        self._foresight.keep_only(set(pods))
        try:
            self._tell_readiness(awake)
            self._judge_unsampled(awake)
            sampled = {u: p for u, p in awake.items() if activity.wants_sleep(p)}
            due = {
                uid: pod
                for uid, pod in sampled.items()
                if self._next_look.get(uid, 0.0) <= now + COALESCE_SECONDS
            }
            if due:
                self._look(due)
        except (Unavailable, FormatError, NodeError) as error:
            self._metrics.keeper_errors.inc()
            log.warning("cannot look at the pods: %s", error)
            return self._settings.sample_max_seconds
        self._count(pods)
        looks = [self._next_look.get(uid, now) for uid in sampled]
        wait = min(looks, default=now + IDLE_WAIT_SECONDS) - time.monotonic()
        return min(max(wait, 0.0), IDLE_WAIT_SECONDS)

    def _look(self, due: dict[str, ManagedPod]) -> None:
        with self._lock:
            # Asked before they are looked at: of one that ends meanwhile the verdict knows nothing.
            falling = frozenset(self._falling)
        started = time.monotonic()
        seen = self._keeper.observe(due)
        self._metrics.observe_seconds.observe(time.monotonic() - started)
        candidates = []
        for observation in seen:
            pod = due.get(observation.uid)
            if pod is None or observation.state is not PodState.AWAKE:
                continue  # fell asleep a moment ago; the event is on its way
            others = self._judge(pod, observation)
            interval = activity.sampling_seconds(
                pod,
                shortest=self._settings.sample_min_seconds,
                longest=self._settings.sample_max_seconds,
            )
            is_looked_at = self._foresee(pod, observation, others)
            # Read after it: a look that ended in between is not under way any more.
            verdict = self._as_foreseen(pod, others)
            if is_looked_at:
                interval = self._settings.sample_min_seconds
            elif verdict.is_idle:
                candidates.append(
                    Candidate(
                        pod=pod, verdict=verdict, memory_bytes=_memory_bytes(pod, observation)
                    )
                )
            elif verdict.idle_in_seconds is not None:
                # Not before the shortest interval, even where it may sleep in a moment.
                least = self._settings.sample_min_seconds
                interval = min(interval, max(verdict.idle_in_seconds, least))
            self._next_look[pod.uid] = started + interval
            self._tell_verdict(pod, verdict)
        for uid in due.keys() - {o.uid for o in seen}:
            self._next_look[uid] = started + self._settings.sample_max_seconds
        candidates = [c for c in candidates if c.pod.uid not in falling]
        if candidates:
            self._start(candidates)

    def _judge(self, pod: ManagedPod, seen: Observation) -> Verdict:
        """Say what keeps *pod* awake, but for what would keep it from being dumped."""
        track = activity.advance(
            self._tracks.get(pod.uid), seen, pod, cpu_threshold=self._settings.cpu_threshold
        )
        if track is None:
            self._tracks.pop(pod.uid, None)
        else:
            self._tracks[pod.uid] = track
        verdict = activity.judge(track, pod, now=seen.now, now_unix=time.time())
        more = planner.history_reasons(
            self._registry.history(pod), fingerprint=self._mark(pod), now=time.monotonic()
        )
        return Verdict(
            reasons=(*self._extra_reasons(), *more, *verdict.reasons),
            idle_since=verdict.idle_since,
        )

    def _as_foreseen(self, pod: ManagedPod, others: Verdict) -> Verdict:
        foreseen = self._foresight.reasons(pod.uid, mark=self._mark(pod))
        return Verdict(reasons=(*foreseen, *others.reasons), idle_since=others.idle_since)

    def _foresee(self, pod: ManagedPod, seen: Observation, others: Verdict) -> bool:
        """Have *pod* looked at if that is due; whether what comes of it has to be waited for."""
        return self._foresight.consider(
            pod,
            mark=self._mark(pod),
            processes=sum(usage.processes for usage in seen.containers.values()),
            left_seconds=others.idle_in_seconds,
            idle_seconds=activity.idle_seconds(pod),
        )

    def _mark(self, pod: ManagedPod) -> str:
        return planner.fingerprint(pod, keeper=self._registry.keeper_pod(pod.uid))

    def _judge_unsampled(self, awake: dict[str, ManagedPod]) -> None:
        """Say why a pod that never sleeps by itself is awake, without looking at it."""
        for pod in awake.values():
            if not activity.wants_sleep(pod):
                reasons = tuple(activity.pod_reasons(pod))
                self._tell_verdict(pod, Verdict(reasons=reasons, idle_since=0.0))

    def _start(self, candidates: list[Candidate]) -> None:
        with self._lock:
            under_way = len(self._falling)
        plan = planner.plan(
            candidates,
            disk=self.disk(),
            under_way=under_way,
            most_at_once=self._settings.max_concurrent_sleeps,
        )
        pods = {c.pod.uid: c for c in candidates}
        for uid, reason in plan.waiting.items():
            candidate = pods[uid]
            waiting = Verdict(reasons=(reason,), idle_since=candidate.verdict.idle_since)
            self._tell_verdict(candidate.pod, waiting)
            # Soon again: what is under way takes a fraction of a second.
            soon = time.monotonic() + self._settings.sample_min_seconds * (
                1 + self._random.random()
            )
            self._next_look[uid] = min(self._next_look[uid], soon)
        for uid in plan.sleep:
            with self._lock:
                self._falling.add(uid)
            self._workers.submit(self._sleep, pods[uid]).add_done_callback(_log_defect)

    def disk(self) -> Disk:
        """Return the state of the images' disk. Raises NodeError."""
        try:
            return images.disk(
                self._images_directory,
                self._registry.keeper_pods(),
                floor_bytes=self._settings.free_floor_bytes,
                quota_bytes=self._settings.image_quota_bytes,
            )
        except OSError as error:
            raise NodeError(f"cannot look at {self._images_directory}: {error.strerror}") from error

    def _sleep(self, candidate: Candidate) -> None:
        """Run in a worker: ask the keeper and remember how it went."""
        pod = candidate.pod
        idle_for = max(0.0, time.monotonic() - candidate.verdict.idle_since)
        mark = planner.fingerprint(pod, keeper=self._registry.keeper_pod(pod.uid))
        try:
            self._keeper.sleep(
                pod.uid,
                reason=f"idle for {idle_for:.0f} s",
                patience_seconds=self._settings.sleep_patience_seconds,
                # What failed for this pod and policy never gets here.
                is_forced=self._registry.history(pod).refusal is not None,
            )
        except ArchitectError as error:
            log.info("%s does not sleep: %s", pod.full_name, error)
            self._sleep_failed(pod, error, fingerprint=mark)
        finally:
            with self._lock:
                self._falling.discard(pod.uid)
            self.poke()

    def _sleep_failed(self, pod: ManagedPod, error: ArchitectError, *, fingerprint: str) -> None:
        """Remember a failure for good or for a while: the keeper tells which it is."""
        reason = error.reason if isinstance(error, (Rejected, NodeError)) else "Unavailable"
        self._metrics.failures.labels("sleep", reason).inc()
        refusal: Refusal | None = None
        try:
            refusal = self._keeper.status(pod.uid).refused
        except ArchitectError as second:
            log.warning("%s: %s", pod.full_name, second)
        if refusal is not None:
            refused = refusal
            self._registry.change_history(
                pod.uid, lambda h: planner.failed(h, refused, fingerprint=fingerprint)
            )
            return
        now, jitter = time.monotonic(), self._random.random()
        self._registry.change_history(
            pod.uid, lambda h: planner.given_up(h, error.message, now=now, jitter=jitter)
        )

    def _tell_verdict(self, pod: ManagedPod, verdict: Verdict) -> None:
        """Leave the verdict with the keeper and, if it is another one, with the API's writer."""
        if self._registry.set_verdict(pod.uid, verdict.reasons):
            self._verdict_changed(pod.uid)
        now = time.monotonic()
        kinds = tuple(r.kind for r in verdict.reasons)
        at, noted = self._noted.get(pod.uid, (0.0, None))
        if noted == kinds and now - at < NOTE_SECONDS:
            return
        # What keeps it from being dumped the keeper knows by itself, and anew when it is asked.
        told = [r for r in verdict.reasons if r.kind is not Kind.CANNOT_SLEEP]
        idle = "idle; it may sleep now" if not verdict.reasons else "idle; it would sleep"
        texts = [str(r) for r in told] or [idle]
        try:
            self._keeper.note(pod.uid, why=texts, idle_in_seconds=verdict.idle_in_seconds)
        except Rejected as error:
            log.debug("%s: %s", pod.full_name, error)
        self._noted[pod.uid] = (now, kinds)

    def _tell_readiness(self, awake: dict[str, ManagedPod]) -> None:
        """Tell the keeper kubelet's verdicts, which the stand-in repeats while the pod sleeps."""
        for pod in awake.values():
            ready = {name: pod.containers[name].is_ready for name in pod.managed}
            if self._told_ready.get(pod.uid) == ready:
                continue
            try:
                self._keeper.ready(pod.uid, ready)
            except Rejected as error:
                log.debug("%s: %s", pod.full_name, error)
            self._told_ready[pod.uid] = ready

    def _count(self, pods: dict[str, ManagedPod]) -> None:
        states = dict.fromkeys((s.value for s in PodState), 0)
        reasons: dict[str, int] = {}
        for uid in pods:
            state = self._registry.state(uid)
            if state is not None:
                states[state.value] += 1
            if state is PodState.AWAKE:
                top = first(self._registry.verdict(uid) or ())
                word = top.kind.value if top else "Idle"
                reasons[word] = reasons.get(word, 0) + 1
        for word, number in states.items():
            self._metrics.pods.labels(word).set(number)
        self._metrics.awake_reasons.clear()
        for word, number in reasons.items():
            self._metrics.awake_reasons.labels(word).set(number)


def _log_defect(done: Future[None]) -> None:
    """Say what a worker died of; a future keeps it to itself."""
    if not done.cancelled() and (error := done.exception()) is not None:
        log.critical("a sleep ended by a defect: %r", error, exc_info=error)


def _memory_bytes(pod: ManagedPod, seen: Observation) -> int:
    return sum(seen.containers[n].memory_bytes for n in pod.managed if n in seen.containers)
