"""What moves pods on this node, made and connected: each part is told only of those that it needs.

Nothing is decided here. Where two parts need each other, the later one is asked for when it counts.
"""

from __future__ import annotations

from collections.abc import Callable

from architect.api import names
from architect.daemon.engine_images import EngineImages
from architect.daemon.host import Host
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
from architect.daemon.peer.service import Peer
from architect.daemon.pods import ManagedPod
from architect.daemon.registry import Registry
from architect.daemon.settings import DaemonSettings
from architect.daemon.spot.rates import Known
from architect.daemon.store import PodStore
from architect.daemon.vault.service import Vault
from architect.kube.api import Api
from architect.kube.events import Note
from architect.kube.notes import Notes


class Moves:
    """All that moves pods, for the daemon to start, to ask and to end."""

    def __init__(
        self,
        config: DaemonSettings,
        *,
        api: Api,
        host: Host,
        layout: Layout,
        keeper: KeeperLink,
        store: PodStore,
        registry: Registry,
        metrics: Metrics,
        rates: Known,
        peer: Peer,
        vault: Vault | None,
        shutdown: NodeShutdown,
        is_evacuated: Callable[[], bool],
        is_urgent: Callable[[], bool],
        notes: Notes,
        tell: Callable[[ManagedPod, Note], None],
    ) -> None:
        """Connect. *is_evacuated*: pods are told to leave, for the end of the machine is announced.

        *is_urgent*: what is not stored soon is lost with it.
        """
        self._store = store
        self._shutdown = shutdown
        self._is_evacuated = is_evacuated
        copies = Copies(layout.requests, floor_bytes=config.free_floor_bytes)
        latest = Latest(api)
        node = NodeFacts(host, current=names.CURRENT)
        engine_images = EngineImages(host)
        inits = Inits(layout.install / "init")
        self.depot = depot = Depot(
            pods=layout.pods,
            checkpoints=layout.checkpoints,
            arrivals=layout.arrivals,
            uploads=layout.uploads,
        )
        self.turns = turns = Turns(config.max_concurrent_captures)
        self.storing: Storing | None = None
        retrieving: Retrieving | None = None
        starting: Starting | None = None
        if vault is not None:
            retrieving = Retrieving(api, node=config.node_name, vault=vault, latest=latest)
            starting = Starting(
                api, node=config.node_name, patience_seconds=config.arrival_patience_seconds
            )
            self.storing = Storing(
                api,
                depot=depot,
                latest=latest,
                vault=vault,
                metrics=metrics,
                delay_seconds=config.store_delay_seconds,
                is_busy=lambda: turns.are_wanted or peer.is_serving,
                is_late=lambda: shutdown.was_under_way or is_urgent(),
            )
        self.endings = Endings(api, node=config.node_name, depot=depot, latest=latest, tell=tell)
        self.arrivals = Arrivals(
            api,
            node=config.node_name,
            store=store,
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
                fetch=peer.fetch,
                retrieve=None if retrieving is None else retrieving.retrieve,
            ),
            endings=self.endings,
            metrics=metrics,
            tell=tell,
            has_left=lambda uid: depot.has_left(uid) and is_evacuated(),
        )
        room = Room(
            api,
            node=config.node_name,
            depot=depot,
            metrics=metrics,
            quota_bytes=config.checkpoint_quota_bytes,
            is_there=self._is_there,
            tell=notes.tell,
        )
        captures = Captures(
            node=config.node_name,
            keeper=keeper,
            host=host,
            facts=node,
            images=engine_images,
            inits=inits,
            depot=depot,
            copies=copies,
            room=room,
            patience_seconds=config.capture_patience_seconds,
        )
        self.departures = Departures(
            api,
            node=config.node_name,
            keeper=keeper,
            captures=captures,
            turns=turns,
            depot=depot,
            latest=latest,
            pods=store,
            rates=rates,
            metrics=metrics,
            tell=tell,
            hand_on=self.arrivals.hand_on,
            is_shutting_down=shutdown.is_under_way,
            store=None if self.storing is None else self.storing.begin,
            default_storage=config.store_default,
        )
        self.requests: Requests | None = None
        if vault is not None:
            self.requests = Requests(
                api,
                node=config.node_name,
                keeper=keeper,
                captures=captures,
                copies=copies,
                turns=turns,
                vault=vault,
                metrics=metrics,
                tell=tell,
            )
        self.upkeep = Upkeep(
            api,
            node=config.node_name,
            depot=depot,
            room=room,
            store=store,
            registry=registry,
            departures=self.departures,
            arrivals=self.arrivals,
            endings=self.endings,
            storing=self.storing,
            requests=self.requests,
            is_shutting_down=self._node_ends,
            ttl_seconds=config.checkpoint_ttl_seconds,
            list_interval_seconds=config.sweep_interval_seconds,
        )
        self.handover = Handover(
            api,
            depot=depot,
            store=store,
            departures=self.departures,
            has_store=self.storing is not None,
            is_serving=lambda: peer.is_serving,
        )

    def close(self) -> None:
        """End what works for pods that leave and for those that are copied."""
        self.departures.close()
        if self.storing is not None:
            self.storing.close()
        if self.requests is not None:
            self.requests.close()

    def _node_ends(self) -> bool:
        """Whether pods leave this node that nobody deletes. Raises ArchitectError."""
        return self._is_evacuated() or self._shutdown.is_under_way()

    def _is_there(self, uid: str) -> bool:
        """Whether a pod of this node has not ended yet, as far as is known."""
        pod = self._store.get(uid)
        is_known = self._store.is_synced
        return not is_known or (pod is not None and not pod.is_terminal)
