"""The daemon as a whole: its threads, and what the keeper's events set in motion."""

from __future__ import annotations

import collections
import functools
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from architect.api import daemon as protocol
from architect.api import names
from architect.api.keeper import Event, PodState
from architect.api.policy import OnRestoreFailure
from architect.core.errors import ArchitectError, FormatError, Rejected
from architect.daemon import metrics as metric_server
from architect.daemon import planner, settings, status
from architect.daemon.engine_images import EngineImages
from architect.daemon.evacuation.course import Told
from architect.daemon.evacuation.evacuation import Evacuation
from architect.daemon.evacuation.marking import Marking
from architect.daemon.host import Host
from architect.daemon.housekeeping import Housekeeping
from architect.daemon.inits import Inits
from architect.daemon.install import Layout
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.moves.arrivals import Arrivals
from architect.daemon.moves.bringing import Bringing
from architect.daemon.moves.captures import Captures
from architect.daemon.moves.copies import Copies
from architect.daemon.moves.departures import Departures
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.endings import Endings
from architect.daemon.moves.endpoint import Endpoint
from architect.daemon.moves.handover import Handover
from architect.daemon.moves.latest import Latest
from architect.daemon.moves.requests import Requests
from architect.daemon.moves.retrieving import Retrieving
from architect.daemon.moves.starting import Starting
from architect.daemon.moves.storing import Storing
from architect.daemon.moves.succeeding import Succeeding
from architect.daemon.moves.turns import Turns
from architect.daemon.moves.upkeep import Upkeep
from architect.daemon.node_facts import NodeFacts
from architect.daemon.node_shutdown import NodeShutdown
from architect.daemon.notices import lookout
from architect.daemon.notices.board import Change
from architect.daemon.notices.notice import Notice
from architect.daemon.peer.identity import Identity
from architect.daemon.peer.service import Peer
from architect.daemon.pods import ManagedPod
from architect.daemon.registry import Registry
from architect.daemon.sampler import Sampler
from architect.daemon.settings import DaemonSettings
from architect.daemon.spot import lookahead
from architect.daemon.spot import page as spot_page
from architect.daemon.spot.inputs import Bounds
from architect.daemon.spot.learning import Measure
from architect.daemon.spot.lookahead import Lookahead
from architect.daemon.spot.page import Page
from architect.daemon.spot.rates import Known
from architect.daemon.spot.survey import Survey
from architect.daemon.store import PodStore
from architect.daemon.vault.reach import Reach
from architect.daemon.vault.service import open_vault
from architect.daemon.writer import Writer
from architect.kube import resources
from architect.kube.api import Api
from architect.kube.events import Recorder
from architect.kube.resources import PODS, ObjectRef
from architect.kube.watch import Watcher

log = logging.getLogger(__name__)

NOTICES: Final = "notices.json"
"""Beside the keeper's socket: a reboot removes it."""

MAX_NOTES: Final = 500
"""Events that wait to be written; an outage of the API drops the oldest."""

STUCK_SECONDS: Final = 120.0
"""A loop that was not round once in this time is stuck: its longest wait is 30 s."""

JOIN_SECONDS: Final = 5.0


class Daemon:
    """Everything that runs; :meth:`run` returns when it is asked to stop or a thread dies."""

    def __init__(
        self, config: DaemonSettings, *, api: Api, host: Host, layout: Layout | None = None
    ) -> None:
        self._config = config
        self._api = api
        self._ends = threading.Event()
        """It was asked to end, or has to; its threads go on until :attr:`_stop`."""
        self._stop = threading.Event()
        self._failed = False
        self._store = PodStore()
        self._registry = Registry()
        self._metrics = Metrics()
        self._recorder = Recorder(api, component="daemon", instance=config.node_name)
        self._notes: collections.deque[tuple[ObjectRef, status.Note]] = collections.deque(
            maxlen=MAX_NOTES
        )
        self._has_notes = threading.Event()
        self._random = random.Random()
        self._rates = Known()
        """Gone with the daemon: another one may run on another machine."""
        layout = layout or Layout()
        self._keeper = KeeperLink(
            timeout_seconds=config.keeper_timeout_seconds,
            transition_timeout_seconds=config.transition_timeout_seconds,
            path=layout.run / names.KEEPER_SOCKET.name,
        )
        self._writer = Writer(
            api,
            node=config.node_name,
            store=self._store,
            registry=self._registry,
            metrics=self._metrics,
            tell=self._tell,
            condition_interval_seconds=config.condition_interval_seconds,
        )
        copies = Copies(layout.requests, floor_bytes=config.free_floor_bytes)
        depot = Depot(
            pods=layout.pods,
            checkpoints=layout.checkpoints,
            arrivals=layout.arrivals,
            uploads=layout.uploads,
        )
        latest = Latest(api)
        node = NodeFacts(host, current=names.CURRENT)
        self._shutdown = NodeShutdown(api, node=config.node_name, host=host)
        engine_images = EngineImages(host)
        inits = Inits(layout.install / "init")
        identity = Identity(api, node=config.node_name)
        self._peer = Peer(
            config,
            api=api,
            checkpoints=layout.checkpoints,
            metrics=self._metrics,
            identity=identity,
        )
        turns = Turns(config.max_concurrent_captures)
        self._vault = vault = open_vault(
            config, api=api, identity=identity, metrics=self._metrics, known=self._rates
        )
        self._storing: Storing | None = None
        retrieving: Retrieving | None = None
        starting: Starting | None = None
        if vault is not None:
            retrieving = Retrieving(api, node=config.node_name, vault=vault, latest=latest)
            starting = Starting(
                api, node=config.node_name, patience_seconds=config.arrival_patience_seconds
            )
            self._storing = Storing(
                api,
                depot=depot,
                latest=latest,
                vault=vault,
                metrics=self._metrics,
                delay_seconds=config.store_delay_seconds,
                is_busy=lambda: turns.are_wanted or self._peer.is_serving,
                is_late=lambda: self._shutdown.was_under_way or self._evacuation.is_urgent,
            )
        self._endings = Endings(
            api, node=config.node_name, depot=depot, latest=latest, tell=self._tell
        )
        self._arrivals = Arrivals(
            api,
            node=config.node_name,
            store=self._store,
            facts=node,
            images=engine_images,
            depot=depot,
            latest=latest,
            succeeding=Succeeding(
                api, node=config.node_name, patience_seconds=config.arrival_patience_seconds
            ),
            starting=starting,
            bringing=Bringing(
                api,
                node=config.node_name,
                depot=depot,
                inits=inits,
                fetch=self._peer.fetch,
                retrieve=None if retrieving is None else retrieving.retrieve,
            ),
            endings=self._endings,
            metrics=self._metrics,
            tell=self._tell,
            has_left=lambda uid: depot.has_left(uid) and self._evacuation.is_under_way(),
        )
        captures = Captures(
            node=config.node_name,
            keeper=self._keeper,
            host=host,
            facts=node,
            images=engine_images,
            inits=inits,
            depot=depot,
            copies=copies,
            patience_seconds=config.capture_patience_seconds,
        )
        self._departures = Departures(
            api,
            node=config.node_name,
            keeper=self._keeper,
            captures=captures,
            turns=turns,
            depot=depot,
            latest=latest,
            pods=self._store,
            rates=self._rates,
            metrics=self._metrics,
            tell=self._tell,
            hand_on=self._arrivals.hand_on,
            is_shutting_down=self._shutdown.is_under_way,
            store=None if self._storing is None else self._storing.begin,
            default_storage=config.store_default,
        )
        self._requests: Requests | None = None
        if vault is not None:
            self._requests = Requests(
                api,
                node=config.node_name,
                keeper=self._keeper,
                captures=captures,
                copies=copies,
                turns=turns,
                vault=vault,
                metrics=self._metrics,
                tell=self._tell,
            )
        upkeep = Upkeep(
            api,
            node=config.node_name,
            depot=depot,
            store=self._store,
            registry=self._registry,
            departures=self._departures,
            arrivals=self._arrivals,
            endings=self._endings,
            storing=self._storing,
            requests=self._requests,
            is_shutting_down=self._node_ends,
            ttl_seconds=config.checkpoint_ttl_seconds,
            list_interval_seconds=config.sweep_interval_seconds,
        )
        self._lookout = lookout.open_lookout(
            config,
            api=api,
            metrics=self._metrics,
            told=self._announced,
            memory=layout.run / NOTICES,
            is_in_pod=host.is_entered,
        )
        survey = Survey(
            store=self._store,
            registry=self._registry,
            depot=depot,
            memory=self._keeper.memory,
            rates=self._rates.rates,
            bounds=self._bounds_at_notice,
            has_store=self._storing is not None,
            default_storage=config.store_default,
            is_stored=lambda uid: self._storing is not None and self._storing.is_stored(uid),
            is_store_reachable=lambda: self._reach is None or self._reach.is_there,
        )
        self._marking = Marking(api, node=config.node_name)
        self._evacuation = Evacuation(
            standing=self._lookout.standing,
            survey=survey,
            pods=self._store,
            departures=self._departures,
            marking=self._marking,
            prefer=functools.partial(_prefer, turns, self._storing),
            hurry=self._hurry,
            tell=self._planned,
        )
        self._lookahead = Lookahead(
            api,
            node=config.node_name,
            survey=survey,
            store=self._store,
            metrics=self._metrics,
            notice=lambda: lookahead.notice_of(config, self._lookout.machine),
            is_paused=self._evacuation.is_under_way,
            settled_seconds=lookahead.settled_seconds(config),
            tell=self._tell,
        )
        self._reach: Reach | None = None
        if vault is not None:
            self._reach = Reach(vault.look, is_wanted=self._may_end)
        self._handover = Handover(
            api,
            depot=depot,
            store=self._store,
            departures=self._departures,
            has_store=self._storing is not None,
            is_serving=lambda: self._peer.is_serving,
        )
        self._housekeeping = Housekeeping(
            config,
            api=api,
            host=host,
            layout=layout,
            keeper=self._keeper,
            store=self._store,
            registry=self._registry,
            metrics=self._metrics,
            recorder=self._recorder,
            touch_all=self._writer.touch_all,
            look_at_moves=upkeep.run,
        )
        self._sampler = Sampler(
            config,
            keeper=self._keeper,
            store=self._store,
            registry=self._registry,
            metrics=self._metrics,
            images_directory=layout.pods,
            verdict_changed=self._writer.touch,
            extra_reasons=self._housekeeping.extra_reasons,
        )
        self._endpoint = Endpoint(
            layout.run / names.DAEMON_SOCKET.name,
            {
                protocol.LEAVING: self._departures.leaving,
                protocol.ARRIVING: self._arrivals.arriving,
            },
        )
        self._watcher = Watcher(api, PODS, fields=f"spec.nodeName={config.node_name}")
        self._server = metric_server.Server(
            self._metrics,
            address=settings.host_port(config.metrics_address),
            alive=self._why_not_alive,
            ready=self._why_not_ready,
            pages={spot_page.PATH: Page(config.node_name, survey, notice=self._notice_seconds)},
        )

    @property
    def metrics_port(self) -> int:
        """Where metrics and health are served."""
        return self._server.port

    def stop(self) -> None:
        """Ask it to end. Safe in a signal handler."""
        self._ends.set()

    def run(self) -> bool:
        """Run until :meth:`stop`; returns False if a thread ended by a defect.

        A defect in one thread ends the process: kubelet starts it again, and pods sleep and wake
        meanwhile as before. Half a daemon would look alive.
        """
        threading.excepthook = self._thread_died
        threads = [
            threading.Thread(target=target, name=name, args=arguments, daemon=True)
            for name, target, arguments in (
                ("pods", self._watch_pods, ()),
                ("keeper-events", self._follow_keeper, ()),
                ("sampler", self._sampler.run, (self._stop,)),
                ("writer", self._writer.run, (self._stop,)),
                ("notes", self._write_notes, ()),
                ("housekeeping", self._housekeeping.run, (self._stop,)),
                ("peer", self._peer.run, (self._stop,)),
                ("lookout", self._lookout.run, (self._stop,)),
                ("lookahead", self._lookahead.run, (self._stop,)),
                ("marking", self._marking.run, (self._stop,)),
                ("evacuation", self._evacuation.run, (self._stop,)),
            )
        ]
        parts = {"requests": self._requests, "cluster-key": self._vault, "reach": self._reach}
        threads += [
            threading.Thread(target=part.run, name=name, args=(self._stop,), daemon=True)
            for name, part in parts.items()
            if part is not None
        ]
        self._server.start()
        self._endpoint.start()
        for thread in threads:
            thread.start()
        self._ends.wait()
        if not self._failed and self._node_goes():
            self._handover.run(self._stop)
        log.info("stopping")
        self._stop.set()
        self._endpoint.close(is_for_good=self._housekeeping.is_uninstalling)
        self._departures.close()
        if self._storing is not None:
            self._storing.close()
        if self._requests is not None:
            self._requests.close()
        if self._vault is not None:
            self._vault.poke()
        if self._reach is not None:
            self._reach.close()
        self._lookout.close()
        self._lookahead.poke()
        self._evacuation.close()
        self._marking.close()
        self._watcher.stop()
        self._writer.close()
        self._sampler.poke()
        self._has_notes.set()
        self._peer.close()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._server.stop()
        return not self._failed

    def _thread_died(self, arguments: threading.ExceptHookArgs) -> None:
        name = arguments.thread.name if arguments.thread else "?"
        trace: TracebackType | None = arguments.exc_traceback
        error = arguments.exc_value
        details = (arguments.exc_type, error, trace) if error is not None else None
        log.critical("thread %s ended by %r", name, error, exc_info=details)
        self._failed = True
        self._stop.set()
        self._ends.set()

    def _node_ends(self) -> bool:
        """Whether pods leave this node that nobody deletes. Raises ArchitectError."""
        return self._evacuation.is_under_way() or self._shutdown.is_under_way()

    def _node_goes(self) -> bool:
        try:
            return self._shutdown.is_under_way()
        except ArchitectError as error:
            log.warning("whether the node shuts down is not known: %s", error)
            return False

    # Threads

    def _watch_pods(self) -> None:
        for item in self._watcher:
            for uid in self._store.take(item):
                self._writer.touch(uid)
                pod = self._store.get(uid)
                if pod is None:
                    self._departures.forget(uid)
                    self._try(uid, functools.partial(self._arrivals.forget, uid))
                    self._housekeeping.sweep_soon()
                elif pod.is_terminating:
                    self._departures.notice(pod)
                elif pod.is_terminal:
                    # Its object may stay for days, and what it claimed is another one's.
                    self._try(uid, functools.partial(self._arrivals.forget, uid))
            self._sampler.poke()
            self._lookahead.poke()

    def _follow_keeper(self) -> None:
        self._keeper.follow(
            self._keeper_said,
            self._keeper_is_back,
            self._housekeeping.start_keeper,
            stop=self._stop,
        )

    def _write_notes(self) -> None:
        while not self._stop.is_set():
            self._has_notes.wait()
            self._has_notes.clear()
            while self._notes and not self._stop.is_set():
                regarding, note = self._notes.popleft()
                self._recorder.record(
                    regarding,
                    reason=note.reason,
                    note=note.text,
                    action=note.action,
                    event_type=note.event_type,
                )

    def _tell(self, pod: ManagedPod, note: status.Note) -> None:
        self._note(resources.pod(pod.namespace, pod.name, uid=pod.uid), note)

    def _announced(self, change: Change) -> None:
        """Tell what is announced about the machine, and have what follows from it done."""
        node = self._config.node_name
        self._note(resources.node(node, uid=node), status.of_notice(change))
        self._evacuation.announced(change)

    def _bounds_at_notice(self) -> Bounds:
        captures = self._config.max_concurrent_captures
        if self._vault is None:
            return Bounds(captures=captures)
        return Bounds(captures=captures, objects=self._vault.objects_at_notice())

    def _may_end(self) -> bool:
        """Whether this machine may be taken back, or is."""
        notice = lookahead.notice_of(self._config, self._lookout.machine)
        return notice is not None or self._evacuation.is_urgent

    def _hurry(self, is_needed: bool) -> None:
        if self._storing is not None:
            self._storing.hurry(is_needed=is_needed)
        if self._reach is not None:
            self._reach.hurry(is_needed)

    def _planned(self, notice: Notice, told: Told) -> None:
        node = self._config.node_name
        self._note(resources.node(node, uid=node), status.of_evacuation(notice, told))

    def _notice_seconds(self) -> float:
        """Return what a plan is made for: what is left of this machine, or else its notice."""
        left = self._lookout.seconds_left
        if math.isfinite(left):
            return left
        machine = self._lookout.machine
        return self._config.spot_notice_seconds if machine is None else machine.notice_seconds

    def _note(self, regarding: ObjectRef, note: status.Note) -> None:
        self._notes.append((regarding, note))
        self._has_notes.set()

    def _try(self, uid: str, work: Callable[[], object]) -> None:
        """Do what concerns one pod. A disk that refuses it must not end the thread of all pods."""
        try:
            work()
        except OSError as error:
            log.error("what came for pod %s: %s; upkeep looks at it again", uid, error)

    # The keeper

    def _keeper_is_back(self) -> None:
        """Take the keeper's list after each connect: events may have been missed."""
        self._registry.set_all(self._keeper.pods())
        self._sampler.forget_told()
        self._writer.touch_all()

    def _keeper_said(self, message: dict[str, Any]) -> None:
        try:
            event = Event(message.get("event"))
        except ValueError:
            log.debug("unknown event of the keeper: %r", message.get("event"))
            return
        uid = str(message.get("pod") or "")
        self._refresh(uid)
        self._count(event, message)
        self._remember(event, uid, message)
        pod = self._store.get(uid)
        if event is Event.RESTORED:
            is_asleep = message.get("state") == PodState.ASLEEP.value
            self._try(uid, lambda: self._endings.restored(uid, pod=pod, is_asleep=is_asleep))
        elif event is Event.WAKE_FAILED:
            self._try(uid, lambda: self._wake_failed(uid, message, pod=pod))
        if pod is not None:
            keeper = self._registry.keeper_pod(uid)
            note = status.note_of(
                event,
                message,
                pod=pod,
                is_refused=keeper is not None and keeper.refused is not None,
                is_leaving=self._departures.is_working(uid),
            )
            if note is not None:
                self._tell(pod, note)
        if event is Event.REMOVED:
            # After a forced deletion the API forgot the pod before its containers ended.
            self._housekeeping.sweep_soon()
        self._writer.touch(uid)
        self._sampler.poke()
        self._lookahead.poke()

    def _wake_failed(self, uid: str, message: dict[str, Any], *, pod: ManagedPod | None) -> None:
        reason, text = str(message.get("reason")), str(message.get("message"))
        policy = message.get("policy")
        if policy == OnRestoreFailure.FRESH.value:
            self._endings.not_restored(uid, f"{reason}: {text}")
            return
        self._endings.fails(uid, f"{reason}: {text}")
        if policy == OnRestoreFailure.FAIL.value and pod is not None and pod.is_gvisor:
            # A container of others stays, hollow, until somebody looks; a sandbox does not.
            self._arrivals.hold(uid, reason=reason, message=text)

    def _refresh(self, uid: str) -> None:
        try:
            self._registry.set_one(uid, self._keeper.status(uid))
        except Rejected:
            self._registry.set_one(uid, None)
        except (ArchitectError, FormatError) as error:
            # The stream ends too, then, and the list is taken anew.
            log.warning("status of pod %s: %s", uid, error)

    def _remember(self, event: Event, uid: str, message: dict[str, Any]) -> None:
        now, took = time.monotonic(), float(message.get("duration_seconds") or 0.0)
        if event is Event.SLEPT:
            steps = message.get("steps")
            if isinstance(steps, dict):
                self._registry.set_steps(uid, {str(k): float(v) for k, v in steps.items()})
                size = int(message.get("image_bytes") or 0)
                self._rates.take(Measure.DUMP, float(steps.get("dump") or 0.0), size)
            self._registry.change_history(
                uid, lambda h: planner.slept(h, now=now, took_seconds=took)
            )
        elif event is Event.WOKE:
            pod, jitter = self._store.get(uid), self._random.random()
            idle = _longest_idle_seconds(pod) if pod else 0.0
            self._registry.change_history(
                uid,
                lambda h: planner.woke(
                    h, now=now, took_seconds=took, idle_seconds=idle, jitter=jitter
                ),
            )

    def _count(self, event: Event, message: dict[str, Any]) -> None:
        took = float(message.get("duration_seconds") or 0.0)
        reason = str(message.get("reason") or "Unknown")
        if event is Event.SLEPT:
            self._metrics.sleeps.inc()
            self._metrics.sleep_seconds.observe(took)
            self._metrics.image_bytes.observe(float(message.get("image_bytes") or 0))
        elif event is Event.WOKE:
            self._metrics.wakes.labels(status.wake_kind(reason)).inc()
            self._metrics.wake_seconds.observe(took)
            self._metrics.held_packets.inc(int(message.get("held_packets") or 0))
        elif event is Event.WAKE_FAILED:
            self._metrics.failures.labels("wake", reason).inc()
        elif event is Event.WAKE_BLOCKED:
            self._metrics.failures.labels("wake", "Blocked").inc()
        elif event is Event.HOOK and message.get("status") != 0:
            self._metrics.failures.labels("hook", status.hook_failure(message)).inc()

    # Health

    def _why_not_alive(self) -> str:
        now = time.monotonic()
        for name, alive_at in (
            ("sampler", self._sampler.alive_at),
            ("writer", self._writer.alive_at),
        ):
            if now - alive_at > STUCK_SECONDS:
                return f"the {name} has not moved for {now - alive_at:.0f} s"
        return ""

    def _why_not_ready(self) -> str:
        report = self._housekeeping.standing.report
        if report is None:
            return "the pre-flight check has not ended yet"
        if not self._housekeeping.standing.is_ready:
            return f"{report.reason}: {report.message}"
        return "" if self._store.is_synced else "the node's pods are not listed yet"


def _prefer(
    turns: Turns, storing: Storing | None, order: Sequence[str], at_once: int | None
) -> None:
    """Have pods captured and sent in this *order*; an empty one: there is time again."""
    turns.prefer(order, at_once=at_once)
    if storing is not None:
        storing.prefer(order)


def _longest_idle_seconds(pod: ManagedPod) -> float:
    return max((c.idle_seconds or 0.0 for c in pod.policy.containers.values()), default=0.0)
