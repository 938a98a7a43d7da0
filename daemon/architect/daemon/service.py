"""The daemon as a whole: its threads, and what the keeper's events set in motion."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from architect.api import daemon as protocol
from architect.api import names
from architect.core.errors import ArchitectError
from architect.daemon import metrics as metric_server
from architect.daemon import settings, status
from architect.daemon.counting import Counting
from architect.daemon.engine_images import EngineImages
from architect.daemon.evacuation.course import Told
from architect.daemon.evacuation.evacuation import Evacuation
from architect.daemon.evacuation.marking import Marking
from architect.daemon.host import Host
from architect.daemon.housekeeping import Housekeeping
from architect.daemon.inits import Inits
from architect.daemon.install import Layout
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.listening import Listener
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
from architect.daemon.moves.room import Room
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
from architect.daemon.observation import Finding
from architect.daemon.peer.identity import Identity
from architect.daemon.peer.service import Peer
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind
from architect.daemon.registry import Registry
from architect.daemon.sampler import Sampler
from architect.daemon.settings import DaemonSettings
from architect.daemon.spot import lookahead
from architect.daemon.spot import page as spot_page
from architect.daemon.spot.inputs import Bounds
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
from architect.kube.events import Note, Recorder
from architect.kube.notes import Notes
from architect.kube.resources import PODS
from architect.kube.watch import Watcher

log = logging.getLogger(__name__)

NOTICES: Final = "notices.json"
"""Beside the keeper's socket: a reboot removes it."""

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
        recorder = Recorder(api, component="daemon", instance=config.node_name)
        self._notes = Notes(recorder)
        self._rates = Known()
        """Gone with the daemon: another one may run on another machine."""
        layout = layout or Layout()
        self._keeper = KeeperLink(
            timeout_seconds=config.keeper_timeout_seconds,
            transition_timeout_seconds=config.transition_timeout_seconds,
            path=layout.run / names.KEEPER_SOCKET.name,
        )
        counting = Counting(api, metrics=self._metrics)
        self._writer = Writer(
            api,
            node=config.node_name,
            store=self._store,
            registry=self._registry,
            metrics=self._metrics,
            counting=counting,
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
        room = Room(
            api,
            node=config.node_name,
            depot=depot,
            metrics=self._metrics,
            quota_bytes=config.checkpoint_quota_bytes,
            is_there=self._is_there,
            tell=self._notes.tell,
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
            room=room,
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
            room=room,
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
            recorder=recorder,
            tell=self._notes.tell,
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
            found=self._foreseen,
        )
        self._listener = Listener(
            keeper=self._keeper,
            store=self._store,
            registry=self._registry,
            metrics=self._metrics,
            rates=self._rates,
            counted=counting.known,
            departures=self._departures,
            arrivals=self._arrivals,
            endings=self._endings,
            tell=self._tell,
            is_gone=self._housekeeping.sweep_soon,
            changed=self._keeper_changed,
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
                ("notes", self._notes.run, (self._stop,)),
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
        self._notes.poke()
        self._peer.close()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._server.stop()
        return not self._failed

    def _tell(self, pod: ManagedPod, note: Note) -> None:
        """Have *note* written as an event of *pod*."""
        self._notes.tell(resources.pod(pod.namespace, pod.name, uid=pod.uid), note)

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
            changed = self._store.take(item)
            self._listener.pods_are_known()
            for uid in changed:
                self._writer.touch(uid)
                pod = self._store.get(uid)
                if pod is None:
                    self._departures.forget(uid)
                    self._listener.attempt(uid, functools.partial(self._arrivals.forget, uid))
                    self._housekeeping.sweep_soon()
                elif pod.is_terminating:
                    self._departures.notice(pod)
                elif pod.is_terminal:
                    # Its object may stay for days, and what it claimed is another one's.
                    self._listener.attempt(uid, functools.partial(self._arrivals.forget, uid))
            self._sampler.poke()
            self._lookahead.poke()

    def _follow_keeper(self) -> None:
        self._listener.follow(self._housekeeping.start_keeper, stop=self._stop)

    def _keeper_changed(self, uid: str | None) -> None:
        if uid is None:
            self._sampler.forget_told()
            self._writer.touch_all()
            return
        self._writer.touch(uid)
        self._sampler.poke()
        self._lookahead.poke()

    def _foreseen(self, pod: ManagedPod, found: tuple[Finding, ...]) -> None:
        """Tell what keeps a pod from being dumped, unless an earlier daemon has."""
        said = pod.conditions.get(names.CONDITION_ASLEEP)
        if said is not None and said.reason == Kind.CANNOT_SLEEP.value:
            found = tuple(f for f in found if f.reason not in said.message)
        if found:
            self._tell(pod, status.of_findings(found))

    def _announced(self, change: Change) -> None:
        """Tell what is announced about the machine, and have what follows from it done."""
        node = self._config.node_name
        self._notes.tell(resources.node(node, uid=node), status.of_notice(change))
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
        self._notes.tell(resources.node(node, uid=node), status.of_evacuation(notice, told))

    def _notice_seconds(self) -> float:
        """Return what a plan is made for: what is left of this machine, or else its notice."""
        left = self._lookout.seconds_left
        if math.isfinite(left):
            return left
        machine = self._lookout.machine
        return self._config.spot_notice_seconds if machine is None else machine.notice_seconds

    def _is_there(self, uid: str) -> bool:
        """Whether a pod of this node has not ended yet, as far as is known."""
        pod = self._store.get(uid)
        is_known = self._store.is_synced
        return not is_known or (pod is not None and not pod.is_terminal)

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
