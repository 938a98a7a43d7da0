"""The daemon as a whole: what it is made of, and what is done when pods or the keeper change."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from architect.api import daemon as protocol
from architect.api import names
from architect.core.errors import ArchitectError
from architect.daemon import metrics as metric_server
from architect.daemon import settings, status
from architect.daemon.counting import Counting
from architect.daemon.host import Host
from architect.daemon.housekeeping import Housekeeping
from architect.daemon.install import Layout
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.listening import Listener
from architect.daemon.machine_end import MachineEnd
from architect.daemon.metrics import Metrics
from architect.daemon.moves.endpoint import Endpoint
from architect.daemon.moves.wiring import Moves
from architect.daemon.node_shutdown import NodeShutdown
from architect.daemon.observation import Finding
from architect.daemon.peer.identity import Identity
from architect.daemon.peer.service import Peer
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind
from architect.daemon.registry import Registry
from architect.daemon.sampler import Sampler
from architect.daemon.settings import DaemonSettings
from architect.daemon.spot import page as spot_page
from architect.daemon.spot.rates import Known
from architect.daemon.store import PodStore
from architect.daemon.threads import Threads
from architect.daemon.vault.service import open_vault
from architect.daemon.writer import Writer
from architect.kube import resources
from architect.kube.api import Api
from architect.kube.events import Note, Recorder
from architect.kube.notes import Notes
from architect.kube.resources import PODS
from architect.kube.watch import Watcher

log = logging.getLogger(__name__)

STUCK_SECONDS: Final = 120.0
"""A loop that was not round once in this time is stuck: its longest wait is 30 s."""


class Daemon:
    """Everything that runs; :meth:`run` returns when it is asked to stop or a thread dies."""

    def __init__(
        self, config: DaemonSettings, *, api: Api, host: Host, layout: Layout | None = None
    ) -> None:
        self._threads = Threads()
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
        self._shutdown = NodeShutdown(api, node=config.node_name, host=host)
        identity = Identity(api, node=config.node_name)
        self._peer = Peer(
            config,
            api=api,
            checkpoints=layout.checkpoints,
            metrics=self._metrics,
            identity=identity,
        )
        self._vault = vault = open_vault(
            config, api=api, identity=identity, metrics=self._metrics, known=self._rates
        )
        self._moves = moves = Moves(
            config,
            api=api,
            host=host,
            layout=layout,
            keeper=self._keeper,
            store=self._store,
            registry=self._registry,
            metrics=self._metrics,
            rates=self._rates,
            peer=self._peer,
            vault=vault,
            shutdown=self._shutdown,
            is_evacuated=lambda: self._end.is_under_way(),
            is_urgent=lambda: self._end.is_urgent(),
            notes=self._notes,
            tell=self._tell,
        )
        self._end = MachineEnd(
            config,
            api=api,
            host=host,
            layout=layout,
            keeper=self._keeper,
            store=self._store,
            registry=self._registry,
            metrics=self._metrics,
            rates=self._rates,
            vault=vault,
            moves=moves,
            notes=self._notes,
            tell=self._tell,
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
            look_at_moves=moves.upkeep.run,
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
            departures=moves.departures,
            arrivals=moves.arrivals,
            endings=moves.endings,
            tell=self._tell,
            is_gone=self._housekeeping.sweep_soon,
            changed=self._keeper_changed,
        )
        self._endpoint = Endpoint(
            layout.run / names.DAEMON_SOCKET.name,
            {
                protocol.LEAVING: moves.departures.leaving,
                protocol.ARRIVING: moves.arrivals.arriving,
            },
        )
        self._watcher = Watcher(api, PODS, fields=f"spec.nodeName={config.node_name}")
        self._server = metric_server.Server(
            self._metrics,
            address=settings.host_port(config.metrics_address),
            alive=self._why_not_alive,
            ready=self._why_not_ready,
            pages={spot_page.PATH: self._end.page()},
        )

    @property
    def metrics_port(self) -> int:
        """Where metrics and health are served."""
        return self._server.port

    def stop(self) -> None:
        """Ask it to end. Safe in a signal handler."""
        self._threads.ask_to_end()

    def run(self) -> bool:
        """Run until :meth:`stop`; returns False if a thread ended by a defect."""
        loops: dict[str, Callable[[threading.Event], object]] = {
            "pods": self._watch_pods,
            "keeper-events": self._follow_keeper,
            "sampler": self._sampler.run,
            "writer": self._writer.run,
            "notes": self._notes.run,
            "housekeeping": self._housekeeping.run,
            "peer": self._peer.run,
            **self._end.loops(),
        }
        if self._moves.requests is not None:
            loops["requests"] = self._moves.requests.run
        if self._vault is not None:
            loops["cluster-key"] = self._vault.run
        self._threads.guard()
        self._server.start()
        self._endpoint.start()
        self._threads.start(loops)
        self._threads.wait()
        if not self._threads.have_failed and self._node_goes():
            self._moves.handover.run(self._threads.stop)
        log.info("stopping")
        self._threads.stop.set()
        self._endpoint.close(is_for_good=self._housekeeping.is_uninstalling)
        self._moves.close()
        if self._vault is not None:
            self._vault.poke()
        self._end.close()
        self._watcher.stop()
        self._writer.close()
        self._sampler.poke()
        self._notes.poke()
        self._peer.close()
        self._threads.join()
        self._server.stop()
        return not self._threads.have_failed

    def _tell(self, pod: ManagedPod, note: Note) -> None:
        """Have *note* written as an event of *pod*."""
        self._notes.tell(resources.pod(pod.namespace, pod.name, uid=pod.uid), note)

    def _node_goes(self) -> bool:
        try:
            return self._shutdown.is_under_way()
        except ArchitectError as error:
            log.warning("whether the node shuts down is not known: %s", error)
            return False

    # What changes

    def _watch_pods(self, _: threading.Event) -> None:
        for item in self._watcher:
            changed = self._store.take(item)
            self._listener.pods_are_known()
            for uid in changed:
                self._writer.touch(uid)
                pod = self._store.get(uid)
                if pod is None:
                    self._moves.departures.forget(uid)
                    self._listener.attempt(uid, functools.partial(self._moves.arrivals.forget, uid))
                    self._housekeeping.sweep_soon()
                elif pod.is_terminating:
                    self._moves.departures.notice(pod)
                elif pod.is_terminal:
                    # Its object may stay for days, and what it claimed is another one's.
                    self._listener.attempt(uid, functools.partial(self._moves.arrivals.forget, uid))
            self._sampler.poke()
            self._end.pods_have_changed()

    def _follow_keeper(self, stop: threading.Event) -> None:
        self._listener.follow(self._housekeeping.start_keeper, stop=stop)

    def _keeper_changed(self, uid: str | None) -> None:
        if uid is None:
            self._sampler.forget_told()
            self._writer.touch_all()
            return
        self._writer.touch(uid)
        self._sampler.poke()
        self._end.pods_have_changed()

    def _foreseen(self, pod: ManagedPod, found: tuple[Finding, ...]) -> None:
        """Tell what keeps a pod from being dumped, unless an earlier daemon has."""
        said = pod.conditions.get(names.CONDITION_ASLEEP)
        if said is not None and said.reason == Kind.CANNOT_SLEEP.value:
            found = tuple(f for f in found if f.reason not in said.message)
        if found:
            self._tell(pod, status.of_findings(found))

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
