"""One pod's network namespace: its rules, and the watch over who asks while it is awake.

The rules count; a watched queue tells kubelet's probes from other connections of the node. The
same queue holds packets while the pod sleeps (:mod:`.podhold`): it is lent and given back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from architect.core.errors import NodeError, Rejected
from architect.shim import procfs
from architect.shim.keeper import processes
from architect.shim.keeper.nodeshared import NodeShared
from architect.shim.packets.netns import Netns
from architect.shim.packets.nfqueue import NfQueue
from architect.shim.packets.ruleset import Counters, Plan, Ruleset, State
from architect.shim.packets.sockdiag import SockDiag, Socket
from architect.shim.packets.watch import Watch

log = logging.getLogger(__name__)


class PodRules:
    """The rules of one pod, once its namespace can be found."""

    def __init__(self, shared: NodeShared, uid: str) -> None:
        self._shared = shared
        self._uid = uid
        self._netns: Netns | None = None
        self._rules: Ruleset | None = None
        self._plan = Plan(state=State.AWAKE, watch=True)
        self._watch: Watch | None = None

    @property
    def is_found(self) -> bool:
        """Whether the namespace is open."""
        return self._netns is not None

    @property
    def netns(self) -> Netns:
        """The open namespace."""
        assert self._netns is not None
        return self._netns

    def find(self, path: str | None, init_pid: int | None) -> bool:
        """Open the namespace at *path*, else that of *init_pid*; whether it is there.

        Touches neither rules nor queue. Raises Rejected for the host's own namespace, NodeError.
        """
        if self._netns is not None:
            return True
        try:
            if path is not None:
                netns = Netns.open(path)
            elif init_pid is not None:
                if not processes.is_in_own_network(init_pid):
                    raise Rejected("the container shares the host's network", reason="HostNetwork")
                netns = Netns.of_process(init_pid)
            else:
                return False
        except procfs.GONE:
            return False
        try:
            self._rules = Ruleset(netns, support=self._shared.support())
        except BaseException:
            netns.close()
            raise
        self._netns = netns
        return True

    def plan(self, state: State) -> None:
        """Change what is planned; :meth:`apply` or :meth:`refresh` makes it so."""
        self._plan = replace(self._plan, state=state)

    def plan_shadow(self, ports: Collection[int]) -> None:
        """Plan to count traffic to *ports* apart."""
        self._plan = replace(self._plan, shadow_ports=frozenset(ports))

    def count(self, pairs: frozenset[tuple[int, int]]) -> None:
        """Count traffic to these (protocol, port) pairs as activity, from now on."""
        if self._plan.listening != pairs:
            self._plan = replace(self._plan, listening=pairs)
            self.refresh()

    def apply(self) -> None:
        """Make the rules be as planned. Raises NodeError."""
        assert self._rules is not None
        self._plan = replace(self._plan, node_addresses=self._shared.origins.addresses.current())
        self._rules.apply(self._plan)

    def refresh(self) -> None:
        """As :meth:`apply` where there are rules; what the kernel refuses is logged."""
        if self._rules is None:
            return
        try:
            self.apply()
        except NodeError as error:
            log.error("pod %s: %s", self._uid, error)

    # The queue

    def watch(self, queue: NfQueue | None) -> None:
        """Look at who asks, through *queue* (None: a new one). Without it everybody counts."""
        assert self._rules is not None
        if self._watch is not None:
            return
        try:
            if queue is None:
                queue = NfQueue.bind(self.netns, fail_open=True)
            else:
                queue.set_fail_open(True)
        except (NodeError, OSError) as error:
            log.error("pod %s: probes cannot be told from traffic: %s", self._uid, error)
            if queue is not None:
                queue.close()
            return
        self._watch = Watch(queue, ruleset=self._rules, find_origin=self._shared.origins.find)
        self._shared.loop.watch(self._watch.fileno(), self._pump)

    def lend_queue(self) -> NfQueue:
        """End the watch and return its queue, in which packets wait from now on. Raises NodeError.

        Requests that wait in it unseen are the next reader's.
        """
        if self._watch is None:
            return NfQueue.bind(self.netns)
        self._shared.loop.unwatch(self._watch.fileno())
        queue = self._watch.detach()
        self._watch = None
        try:
            queue.set_fail_open(False)
        except NodeError:
            queue.close()
            raise
        return queue

    def _pump(self) -> None:
        if self._watch is not None:
            self._watch.pump(late=self._shared.is_late)

    # Facts

    def counters(self) -> Counters:
        """What was counted since the rules were first made. Raises OSError."""
        assert self._rules is not None
        return self._rules.counters()

    def last_source(self) -> dict[str, Any] | None:
        """Who sent the last packet of the counter `remote`, for an observation."""
        assert self._rules is not None
        try:
            talker = self._rules.last_talker()
        except (NodeError, OSError) as error:
            # It only says whose the packets are; that they came is in the counters.
            log.warning("pod %s: who speaks to it is not known: %s", self._uid, error)
            return None
        if talker is None:
            return None
        return {
            "seconds_ago": talker.seconds_ago,
            "from": talker.address,
            "port": talker.port,
            "sources": talker.sources,
        }

    def sockets(self) -> list[Socket]:
        """The TCP and UDP sockets in the namespace. Raises OSError."""
        with SockDiag.of(self.netns) as diag:
            return diag.sockets()

    def last_real_request(self) -> dict[str, Any] | None:
        """The newest connection from a node address that was not kubelet's, for an observation."""
        if self._watch is None or self._watch.last_real is None:
            return None
        last = self._watch.last_real
        return {
            "seconds_ago": time.monotonic() - last.monotonic,
            "from": f"{last.source}:{last.source_port}",
            "port": last.port,
        }

    def close(self) -> None:
        """Let go of the namespace; rules end with it."""
        if self._watch is not None:
            self._shared.loop.unwatch(self._watch.fileno())
            self._watch.detach().close()
            self._watch = None
        if self._rules is not None:
            self._rules.close()
            self._rules = None
        if self._netns is not None:
            self._netns.close()
            self._netns = None
