"""The network side of a pod's sleep: rules, queue, gate and stand-in, each at its time.

Awake, the rules count and a watched queue tells kubelet's probes from other connections of the
node. Falling asleep, the same queue begins to hold; asleep, the stand-in answers kubelet on the
application's ports; waking, what was held goes out in order and the queue is watched again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from architect.api import names
from architect.api.policy import ContainerPolicy, ProbeKind, WakeOn
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected
from architect.shim.keeper import listeners, processes
from architect.shim.keeper.container import Container
from architect.shim.keeper.loop import Loop, Task
from architect.shim.keeper.warden import Warden
from architect.shim.packets import connections, quiescence
from architect.shim.packets.gate import Knowledge, Mode, SavedConnection
from architect.shim.packets.headers import Flow
from architect.shim.packets.hold import Gate
from architect.shim.packets.holdstate import HoldState
from architect.shim.packets.netns import Netns
from architect.shim.packets.nfqueue import NfQueue
from architect.shim.packets.origin import Origins
from architect.shim.packets.ruleset import Plan, Ruleset, State, Support, detect
from architect.shim.packets.sockdiag import SockDiag, Socket
from architect.shim.packets.watch import Watch
from architect.shim.records import Record
from architect.shim.standin import ports
from architect.shim.standin.dialogue import Health, Kind
from architect.shim.standin.server import StandIn
from architect.shim.standin.tls import Certificate

log = logging.getLogger(__name__)

LATE_SECONDS: Final = 0.5
"""After such a pause the sender of a packet may have given up: kubelet's probes do after 1 s."""
HOUSEKEEPING_SECONDS: Final = 5.0
STANDIN_LIMIT_SECONDS: Final = 35.0
"""By then every conversation of a stand-in has ended by its own bounds."""
ESTABLISHED: Final = 1


class NodeNetwork:
    """What all pods of the node share."""

    def __init__(self, loop: Loop, warden: Warden) -> None:
        self.loop = loop
        self.warden = warden
        self.origins = Origins()
        self.certificate = Certificate(names.STANDIN_CERTIFICATE)
        self._support: Support | None = None
        self._pods: dict[str, PodNetwork] = {}
        loop.watch(self.origins.addresses.fileno(), self._addresses_changed)
        loop.call_later(HOUSEKEEPING_SECONDS, self._keep_house)

    def pod(self, uid: str) -> PodNetwork:
        """Return the network side of pod *uid*, made on first use."""
        return self._pods.setdefault(uid, PodNetwork(self, uid))

    def forget(self, uid: str) -> None:
        """Let go of pod *uid*."""
        self._pods.pop(uid, None)

    def support(self, netns: Netns) -> Support:
        """Return what this kernel can do, found out once."""
        if self._support is None:
            self._support = detect(netns)
            log.info("packets are queued by %s", self._support.mechanism.value)
        return self._support

    def _addresses_changed(self) -> None:
        before = self.origins.addresses.generation
        self.origins.addresses.current()
        if self.origins.addresses.generation != before:
            for pod in self._pods.values():
                pod.refresh_rules()

    def _keep_house(self) -> None:
        for pod in list(self._pods.values()):
            pod.keep_house()
        self.loop.call_later(HOUSEKEEPING_SECONDS, self._keep_house)


class PodNetwork:
    """One pod's network namespace."""

    def __init__(self, node: NodeNetwork, uid: str) -> None:
        self.on_wake: Callable[[str], None] = lambda _: None
        """Called with the reason whenever a packet wants the sleeping pod awake."""
        self._node = node
        self._loop = node.loop
        self._uid = uid
        self._path: str | None = None
        self._policies: dict[str, ContainerPolicy] = {}
        self._netns: Netns | None = None
        self._rules: Ruleset | None = None
        self._plan = Plan(state=State.AWAKE)
        self._watch: Watch | None = None
        self._gate: Gate | None = None
        self._standins: list[StandIn] = []
        self._retired: list[tuple[float, StandIn]] = []
        self._ready: dict[str, bool] = {}
        self._inodes: set[int] = set()
        """Sockets of the trees at the last hold."""
        self._standin_listeners: Mapping[str, tuple[ports.Listener, ...]] = {}
        self._adopted = node.warden.take(f"queue:{uid}")

    # Life

    def add(self, record: Record, policy: ContainerPolicy) -> None:
        """Take in a container; :meth:`open` or a resumption follows."""
        self._policies[record.container] = policy
        self._path = record.netns or self._path

    def open(self, init_pid: int | None) -> bool:
        """Make the rules, once the namespace can be found; whether it could."""
        if self._netns is None:
            try:
                if self._path is not None:
                    self._netns = Netns.open(self._path)
                elif init_pid is not None:
                    if not processes.is_in_own_network(init_pid):
                        raise Rejected(
                            "the container shares the host's network", reason="HostNetwork"
                        )
                    self._netns = Netns.of_process(init_pid)
                else:
                    return False
            except FileNotFoundError:
                return False
            self._rules = Ruleset(self._netns, support=self._node.support(self._netns))
            self._watch_queue(None)
            self.refresh_rules()
        return True

    def refresh_rules(self) -> None:
        """Bring the rules to what is planned now."""
        if self._rules is None:
            return
        shadow = {port for p in self._policies.values() for port in p.shadow_ports}
        self._plan = replace(
            self._plan,
            watch=True,
            shadow_ports=frozenset(shadow),
            node_addresses=self._node.origins.addresses.current(),
        )
        try:
            self._rules.apply(self._plan)
        except NodeError as error:
            log.error("pod %s: %s", self._uid, error)

    def close(self) -> None:
        """Let go of the namespace; it ends with its pod."""
        self._close_standins(at_once=True)
        if self._watch is not None:
            self._loop.unwatch(self._watch.fileno())
            self._watch.detach().close()
            self._watch = None
        if self._gate is not None:
            self._loop.unwatch(self._gate.fileno())
            self._gate.close()
            self._gate = None
            self._node.warden.drop(f"queue:{self._uid}")
        if self._rules is not None:
            self._rules.close()
            self._rules = None
        if self._netns is not None:
            self._netns.close()
            self._netns = None
        self._node.forget(self._uid)

    # Falling asleep

    def hold(self, members: Sequence[Container]) -> None:
        """Make new requests wait; what is under way goes on. Raises NodeError."""
        if not self.open(members[0].init().pid):
            raise Rejected("the pod has no network namespace yet", reason="NotRunning")
        assert self._rules is not None
        assert self._netns is not None
        knowledge = self._knowledge(members)
        if self._watch is not None:
            self._loop.unwatch(self._watch.fileno())
            queue = self._watch.detach()
            queue.set_fail_open(False)
            self._watch = None
        else:
            queue = NfQueue.bind(self._netns)
        self._gate = Gate(
            queue,
            netns=self._netns,
            knowledge=knowledge,
            find_origin=self._node.origins.find,
            mode=Mode.DRAIN,
        )
        self._node.warden.store(f"queue:{self._uid}", self._gate.fileno())
        self._plan = replace(self._plan, state=State.HOLDING)
        self._rules.apply(self._plan)
        self._watch_gate()

    def busy(self) -> str | None:
        """Return what is under way that a dump would cut, by name; None if nothing is."""
        assert self._gate is not None
        self._gate.pump()
        return quiescence.busy(self._sockets(), inodes=self._inodes)

    def freeze(self) -> str | None:
        """Make everything wait, unless something began meanwhile: then say what, and undo it."""
        assert self._gate is not None
        self._gate.enter(Mode.DUMP)
        reason = quiescence.busy(self._sockets(), inodes=self._inodes)
        if reason is not None:
            self._gate.enter(Mode.DRAIN)
        return reason

    def sleep(self, members: Sequence[Container]) -> None:
        """Judge what came meanwhile, and stand in for the application."""
        assert self._gate is not None
        before = self._gate.export().knowledge
        saved: dict[Flow, SavedConnection] = {}
        for container in members:
            found = connections.read_image(
                container.directory / "image",
                quiet=container.policy.wake_on is WakeOn.EXEC,
                shadow_ports=container.policy.shadow_ports,
            )
            saved.update(found.connections)
        self._stand_in(members)
        self._gate.enter(Mode.ASLEEP, knowledge=replace(before, connections=saved))
        self._look_for_wake()

    def _knowledge(self, members: Sequence[Container]) -> Knowledge:
        sockets = self._sockets()
        inodes = {c.name: processes.socket_inodes(c.tree()) for c in members}
        self._inodes = set().union(*inodes.values())
        found = listeners.of_containers(
            sockets, {c.name: (c.policy, inodes[c.name]) for c in members}
        )
        self._standin_listeners = found.standin
        return Knowledge(listeners=found.gate, probe_ports=found.probe_ports)

    # Asleep

    def _stand_in(self, members: Sequence[Container]) -> None:
        assert self._netns is not None
        for container in members:
            wanted = self._standin_listeners.get(container.name, ())
            if not wanted:
                continue
            probed: dict[int, set[Kind]] = {}
            for probe in container.policy.probes:
                if probe.kind is not ProbeKind.EXEC and probe.port is not None:
                    probed.setdefault(probe.port, set()).add(Kind(probe.kind.value))
            ready = self._ready.get(container.name, True)
            try:
                standin = StandIn(
                    wanted,
                    enter_netns=self._netns.entered,
                    health=Health(healthy=ready, reason="asleep"),
                    certificate=self._node.certificate,
                    probed=probed,
                )
            except OSError as error:
                log.error("pod %s: probes will not be answered: %s", self._uid, error)
                continue
            for skipped in standin.skipped:
                log.warning("pod %s: %s", self._uid, skipped)
            self._standins.append(standin)
            self._loop.watch(standin.fileno(), lambda s=standin: self._serve(s))  # type: ignore[misc]

    def _serve(self, standin: StandIn) -> None:
        standin.ready()
        if standin.wake_reason is not None and standin in self._standins:
            self.on_wake(standin.wake_reason)

    def _watch_gate(self) -> None:
        assert self._gate is not None
        self._loop.watch(self._gate.fileno(), self._pump)

    def _pump(self) -> None:
        if self._gate is not None:
            self._gate.pump(late=self._loop.last_turn_seconds > LATE_SECONDS)
            self._look_for_wake()

    def _pump_watch(self) -> None:
        if self._watch is not None:
            self._watch.pump(late=self._loop.last_turn_seconds > LATE_SECONDS)

    def _look_for_wake(self) -> None:
        if self._gate is not None and self._gate.wake is not None:
            self.on_wake(self._gate.wake[1])

    def set_ready(self, containers: dict[str, bool]) -> None:
        """Learn kubelet's verdict; the stand-in repeats it."""
        self._ready.update(containers)

    # Waking

    def prepare_wake(self) -> None:
        """Free the application's ports; from here on everything waits."""
        if self._gate is not None:
            self._gate.enter(Mode.RESTORE)
        for standin in self._standins:
            standin.close_listeners()

    def release(self) -> Task[int]:
        """Let go what was held, in order, and watch again; return how many packets waited."""
        gate = self._gate
        if gate is None:
            self.refresh_rules()
            return 0
        held = gate.held
        while (pause := gate.release_step()) is not None:
            yield self._loop.sleep(pause)
        self._end_gate()
        return held

    def release_now(self) -> None:
        """As :meth:`release`, at once."""
        if self._gate is not None:
            self._gate.release()
            self._end_gate()
        self.refresh_rules()

    def _end_gate(self) -> None:
        assert self._gate is not None
        self._plan = replace(self._plan, state=State.AWAKE)
        self.refresh_rules()
        self._loop.unwatch(self._gate.fileno())
        queue = self._gate.detach()
        self._gate = None
        self._node.warden.drop(f"queue:{self._uid}")
        self._watch_queue(queue)
        self._close_standins()

    def _watch_queue(self, queue: NfQueue | None) -> None:
        assert self._netns is not None
        assert self._rules is not None
        try:
            if queue is None:
                queue = NfQueue.bind(self._netns, fail_open=True)
            else:
                queue.set_fail_open(True)
        except (NodeError, OSError) as error:
            log.error("pod %s: probes cannot be told from traffic: %s", self._uid, error)
            return
        self._watch = Watch(queue, ruleset=self._rules, find_origin=self._node.origins.find)
        self._loop.watch(self._watch.fileno(), self._pump_watch)

    def fail(self, reason: str) -> None:
        """Go on sleeping after a failed restore: hold, and fail kubelet's probes."""
        if self._gate is not None:
            for standin in self._standins:
                standin.set_health(Health(healthy=False, reason=reason[:200]))
                standin.open_listeners()
            self._gate.wake = None
            self._gate.enter(Mode.ASLEEP)

    def _close_standins(self, *, at_once: bool = False) -> None:
        deadline = time.monotonic() + STANDIN_LIMIT_SECONDS
        for standin in self._standins:
            standin.close_listeners()
            standin.application_is_back()
            self._retired.append((deadline, standin))
        self._standins = []
        self._bury(at_once=at_once)

    def _bury(self, *, at_once: bool = False) -> None:
        """Close retired stand-ins whose conversations have ended."""
        now, staying = time.monotonic(), []
        for deadline, standin in self._retired:
            if at_once or not standin.conversations or now > deadline:
                self._loop.unwatch(standin.fileno())
                standin.close()
            else:
                staying.append((deadline, standin))
        self._retired = staying

    def keep_house(self) -> None:
        """Do what is due every few seconds."""
        if self._gate is not None:
            self._gate.tick()
        for standin in [*self._standins, *(s for _, s in self._retired)]:
            standin.tick()
        self._bury()

    # After a restart of the keeper

    def resume_sleep(self, members: Sequence[Container], saved: dict[str, Any] | None) -> None:
        """Hold again, with the queue that the warden kept or, without one, a new one."""
        living = [c for c in members if c.find_init() is not None]
        if self._netns is None and not self._open_for_resume(living):
            raise NodeError("the pod's network namespace is gone", reason="NotRunning")
        assert self._rules is not None
        assert self._netns is not None
        try:
            state = HoldState.from_dict(saved)
        except FormatError as error:
            log.error("pod %s: %s; all its TCP and UDP wakes it", self._uid, error)
            state = HoldState(mode=Mode.ASLEEP, knowledge=Knowledge())
        state = replace(state, mode=Mode.ASLEEP)
        self._standin_listeners = listeners.from_knowledge(
            state.knowledge, {c.name: c.policy for c in living}
        )
        self._stand_in(living)
        if self._adopted is not None:
            self._gate = Gate.adopt(
                self._adopted,
                netns=self._netns,
                state=state,
                find_origin=self._node.origins.find,
            )
            self._adopted = None
        else:
            self._gate = Gate(
                NfQueue.bind(self._netns),
                netns=self._netns,
                knowledge=state.knowledge,
                find_origin=self._node.origins.find,
                mode=Mode.ASLEEP,
            )
            self._node.warden.store(f"queue:{self._uid}", self._gate.fileno())
        self._plan = replace(self._plan, state=State.HOLDING)
        self.refresh_rules()
        self._watch_gate()
        self._look_for_wake()

    def resume_awake(self) -> None:
        """Release what an earlier keeper held, and watch."""
        if self._adopted is not None and self._open_for_resume([]):
            assert self._netns is not None
            self._gate = Gate.adopt(
                self._adopted,
                netns=self._netns,
                state=HoldState(mode=Mode.DUMP, knowledge=Knowledge()),
                find_origin=self._node.origins.find,
            )
            self._adopted = None
            self.release_now()
        else:
            self.open(None)

    def _open_for_resume(self, living: Sequence[Container]) -> bool:
        """Open the namespace without binding a queue or touching its rules."""
        if self._netns is not None:
            return True
        try:
            if self._path is not None:
                self._netns = Netns.open(self._path)
            elif living:
                self._netns = Netns.of_process(living[0].init().pid)
            else:
                return False
        except FileNotFoundError:
            return False
        self._rules = Ruleset(self._netns, support=self._node.support(self._netns))
        return True

    # Facts

    @property
    def held_packets(self) -> int:
        """How many packets wait."""
        return 0 if self._gate is None else self._gate.held

    def state(self) -> dict[str, Any] | None:
        """Return what :meth:`resume_sleep` needs; None while awake."""
        return None if self._gate is None else self._gate.export().to_dict()

    def observe(self, members: Sequence[Container]) -> dict[str, Any]:
        """Return the network part of an observation (see :mod:`architect.api.keeper`)."""
        living = [c for c in members if c.find_init() is not None]
        try:
            if not living or not self.open(living[0].init().pid):
                return {}
        except ArchitectError:
            return {}
        assert self._rules is not None
        counters = self._rules.counters()
        sockets = self._sockets()
        inodes = {c.name: processes.socket_inodes(c.tree()) for c in living}
        found = listeners.of_containers(
            sockets, {c.name: (c.policy, inodes[c.name]) for c in living}
        )
        counted = listeners.counted_ports(found.gate)
        if counted != self._plan.listening:
            self._plan = replace(self._plan, listening=counted)
            self.refresh_rules()
        own = set().union(*inodes.values())
        return {
            "packets": counters.remote.packets + counters.local.packets,
            "node_packets": counters.node.packets,
            "last_real_syn": self._last_real_syn(),
            "connections": [_connection(s) for s in sockets if _is_conversation(s, own)],
            "listening": [
                {"proto": entry.protocol, "address": entry.address, "port": entry.port}
                for entry in found.gate
            ],
        }

    def _last_real_syn(self) -> dict[str, Any] | None:
        if self._watch is None or self._watch.last_real is None:
            return None
        last = self._watch.last_real
        return {
            "seconds_ago": time.monotonic() - last.monotonic,
            "from": f"{last.source}:{last.source_port}",
            "port": last.port,
        }

    def _sockets(self) -> list[Socket]:
        assert self._netns is not None
        with SockDiag.of(self._netns) as diag:
            return diag.sockets()


def _is_conversation(found: Socket, own: set[int]) -> bool:
    return found.protocol == "tcp" and found.state == ESTABLISHED and found.inode in own


def _connection(found: Socket) -> dict[str, Any]:
    idle = found.ages.since_received_seconds if found.ages is not None else 0.0
    return {
        "local": f"{found.local}:{found.local_port}",
        "remote": f"{found.remote}:{found.remote_port}",
        "idle_seconds": idle,
    }
