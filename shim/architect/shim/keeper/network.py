"""The network side of a pod's sleep: which of its parts does what, and when.

===========  ==============================  ==========================  =====================
state        :mod:`.podrules`                :mod:`.podhold`             :mod:`.podstandins`
===========  ==============================  ==========================  =====================
awake        count, watch who asks           –                           –
falling      queue everything                requests wait, talk passes  –
asleep       queue everything                requests wait and wake      answer kubelet
waking       queue everything                everything waits            give the ports back
===========  ==============================  ==========================  =====================
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from architect.api.policy import ContainerPolicy, WakeOn
from architect.core.errors import ArchitectError, NodeError, Rejected
from architect.shim.keeper import listeners, processes
from architect.shim.keeper.container import Container
from architect.shim.keeper.listeners import Member
from architect.shim.keeper.loop import Loop, Task
from architect.shim.keeper.nodeshared import NodeShared
from architect.shim.keeper.podhold import PodHold
from architect.shim.keeper.podrules import PodRules
from architect.shim.keeper.podstandins import PodStandIns
from architect.shim.keeper.warden import Warden
from architect.shim.packets import addresses, connections, farewell, quiescence, unheld
from architect.shim.packets.connections import ImageSockets
from architect.shim.packets.gate import Mode
from architect.shim.packets.ruleset import State
from architect.shim.packets.sockdiag import ESTABLISHED, Socket

log = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS: Final = 5.0
HANDSHAKE_SECONDS: Final = 0.05
"""For the last packet of a handshake between kubelet and a stand-in: both are on this host."""
_HANDSHAKE_STEP_SECONDS: Final = 0.0005


class NodeNetwork:
    """The network sides of the node's pods."""

    def __init__(self, loop: Loop, warden: Warden) -> None:
        self._shared = NodeShared(loop, warden)
        self.origins = self._shared.origins
        """Who sends packets, for all pods."""
        self._pods: dict[str, PodNetwork] = {}
        loop.watch(self.origins.addresses.fileno(), self._addresses_changed)
        loop.call_later(HOUSEKEEPING_SECONDS, self._keep_house)

    def pod(self, uid: str) -> PodNetwork:
        """Return the network side of pod *uid*, made on first use."""
        found = self._pods.get(uid)
        if found is None:
            found = PodNetwork(self._shared, uid, on_close=lambda: self._forget(uid))
            self._pods[uid] = found
        return found

    def _forget(self, uid: str) -> None:
        self._pods.pop(uid, None)

    def _addresses_changed(self) -> None:
        own = self.origins.addresses
        before = own.generation
        own.current()
        if own.generation != before:
            for pod in self._pods.values():
                pod.rules.refresh()

    def _keep_house(self) -> None:
        for pod in list(self._pods.values()):
            pod.keep_house()
        self._shared.loop.call_later(HOUSEKEEPING_SECONDS, self._keep_house)


class PodNetwork:
    """One pod's network namespace, through its sleep."""

    def __init__(self, shared: NodeShared, uid: str, *, on_close: Callable[[], None]) -> None:
        self.on_wake: Callable[[str], None] = lambda _: None
        """Called with the reason whenever a packet wants the sleeping pod awake, any number of
        times; whether it may wake now is the pod's to decide."""
        self.rules = PodRules(shared, uid)
        self._hold = PodHold(shared, uid)
        self._standins = PodStandIns(shared, uid)
        self._hold.on_wake = self._standins.on_wake = lambda reason: self.on_wake(reason)
        self.is_between_keepers = False
        """Packets may be held that an earlier keeper was responsible for, and nobody has decided
        yet what becomes of them: until a resumption nothing is touched."""
        self._is_releasing = False
        self._shared = shared
        self._on_close = on_close
        self._uid = uid
        self._path: str | None = None
        self._policies: dict[str, ContainerPolicy] = {}
        self._members: Sequence[Container] = ()
        """Who is falling asleep."""
        self._inodes: frozenset[int] = frozenset()
        """Sockets of their trees, as last seen."""

    # Life

    def add(self, path: str | None, container: str, policy: ContainerPolicy) -> None:
        """Take in a container; :meth:`open` or a resumption follows."""
        self._policies[container] = policy
        self._path = path or self._path
        self.rules.plan_shadow({p for each in self._policies.values() for p in each.shadow_ports})

    def open(self, init_pid: int | None) -> bool:
        """Make the rules, once the namespace can be found; whether they are made.

        Raises Rejected for the host's own namespace, NodeError.
        """
        if self.is_between_keepers:
            return False
        was_found = self.rules.is_found
        if not self.rules.find(self._path, init_pid):
            return False
        if not was_found:
            self.rules.watch(None)
            self.rules.refresh()
        return True

    def close(self) -> None:
        """Let go of the namespace; it ends with its pod."""
        self._standins.close()
        self._hold.close()
        self.rules.close()
        self._on_close()

    def keep_house(self) -> None:
        """Do what is due every few seconds."""
        self._hold.tick()
        self._standins.tick()

    # Falling asleep

    def hold(self, members: Sequence[Container]) -> None:
        """Make new requests wait; what is under way goes on.

        Raises Rejected where it cannot be held, NodeError, OSError.
        """
        if not self.open(members[0].init().pid):
            raise Rejected("the pod has no network namespace yet", reason="NotRunning")
        if self._hold.is_on:
            raise Rejected("what waited for the pod is still being delivered", reason="Busy")
        self._members = members
        sockets = self.rules.sockets()
        inodes = {c.name: processes.socket_inodes(c.tree()) for c in members}
        self._inodes = frozenset[int]().union(*inodes.values())
        if (found := unheld.find(self.rules.netns, self._inodes)) is not None:
            raise Rejected(
                f"the application has {found}, whose packets cannot wait",
                reason="UnheldSocket",
                hint="it can sleep once the socket is closed",
            )
        running = [Member.running(c.policy, sockets, inodes[c.name]) for c in members]
        # The reader first, then the rules: without a reader they drop.
        queue = self.rules.lend_queue()
        self._hold.begin(queue, netns=self.rules.netns, knowledge=listeners.knowledge(running))
        self.rules.plan(State.HOLDING)
        self.rules.apply()

    def busy(self, *, is_brief: bool = False) -> str | None:
        """Return what is under way that a dump would cut, by name; None if nothing seems to be.

        *is_brief*: the pod is woken right after it, and only what has no image is in the way.
        """
        self._hold.gate.pump()
        return quiescence.busy(self.rules.sockets(), inodes=self._inodes, is_brief=is_brief)

    def freeze(self, *, is_brief: bool = False) -> str | None:
        """Make everything wait, unless something is under way: then say what, and undo it."""
        gate = self._hold.gate
        gate.enter(Mode.DUMP)
        # In this order: a connection that is accepted in between stands in the backlog of the
        # first list. And anew: connections accepted while draining have sockets of their own.
        sockets = self.rules.sockets()
        trees = (processes.socket_inodes(container.tree()) for container in self._members)
        self._inodes = frozenset[int]().union(*trees)
        reason = quiescence.busy(sockets, inodes=self._inodes, is_brief=is_brief)
        if reason is not None:
            gate.enter(Mode.DRAIN)
        return reason

    def cut(self) -> None:
        """Make everything wait, whatever is under way: for a pod that leaves.

        What it has in its hands goes along and ends there; what it has not taken ends here.
        """
        self._hold.gate.enter(Mode.DUMP)

    def addresses(self) -> frozenset[str]:
        """Return the pod's own addresses, loopback left out. Raises OSError."""
        return addresses.of(self.rules.netns)

    def leave(self, members: Sequence[Container]) -> None:
        """End the connections of the images and let go what waits: nobody is here any more.

        What comes from now on is refused by the kernel, as on any closed port.
        """
        for container in members:
            try:
                image = _of_image(container)
            except (ArchitectError, OSError) as error:
                log.error("pod %s: its peers are not told that it left: %s", self._uid, error)
                continue
            farewell.send(self.rules.netns, image.connections)
        self._standins.free_ports()
        self.release_now()

    def sleep(self, members: Sequence[Container]) -> None:
        """Judge what came meanwhile by what is in the images, and stand in for the application.

        Raises FormatError, OSError for an image that cannot be read.
        """
        asleep = {c.name: _of_image(c) for c in members}
        self._stand_in(asleep)
        self._hold.gate.enter(Mode.ASLEEP, knowledge=listeners.knowledge([*asleep.values()]))
        self._hold.look_for_wake()

    def look_for_wake(self) -> None:
        """Tell whoever listens if a packet wants the pod awake."""
        self._hold.look_for_wake()

    def adopt(self, members: Sequence[Container], newcomer: Container) -> None:
        """Hold as asleep, with the image of *newcomer*, which came from another pod.

        The other *members* may run, or sleep already. Raises Rejected, FormatError, NodeError,
        OSError.
        """
        if self._is_releasing:
            raise Rejected("what waited for the pod is still being delivered", reason="Busy")
        sockets = self.rules.sockets()
        found = {c.name: self._member(c, sockets) for c in members}
        known = listeners.knowledge([*found.values()])
        if not self._hold.is_on:
            self._hold.begin(self.rules.lend_queue(), netns=self.rules.netns, knowledge=known)
            self.rules.plan(State.HOLDING)
            self.rules.apply()
        self._standins.forget_verdict(newcomer.name)
        self._stand_in({newcomer.name: found[newcomer.name]})
        self._hold.gate.enter(Mode.ASLEEP, knowledge=known)
        self._hold.look_for_wake()

    def _member(self, container: Container, sockets: Sequence[Socket]) -> Member:
        if not container.is_running():
            return _of_image(container)
        inodes = processes.socket_inodes(container.tree())
        return Member.running(container.policy, sockets, inodes)

    def _stand_in(self, members: dict[str, Member]) -> None:
        for name, member in members.items():
            self._standins.open(
                name, member.policy, member.standin, enter_netns=self.rules.netns.entered
            )

    def set_ready(self, containers: dict[str, bool]) -> None:
        """Learn kubelet's verdict; the stand-in repeats it."""
        self._standins.set_ready(containers)

    def unready(self) -> tuple[str, ...]:
        """Return the containers of which kubelet says that they are not ready."""
        return self._standins.unready()

    # Waking

    def prepare_wake(self) -> None:
        """Free the application's ports; from here on everything waits."""
        if self._hold.is_on:
            self._hold.gate.enter(Mode.RESTORE)
            self._finish_handshakes()
        self._standins.free_ports()

    def _finish_handshakes(self) -> None:
        """Let begun handshakes with stand-ins end: closing a listener resets them."""
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        taken = self._standins.taken_ports
        while taken and quiescence.has_half_open(self.rules.sockets(), ports=taken):
            if time.monotonic() > deadline:
                return
            time.sleep(_HANDSHAKE_STEP_SECONDS)
            self._hold.gate.pump()

    def release(self) -> Task[int]:
        """Let go what was held, in order, and watch again; return how many packets waited."""
        if not self._hold.is_on:
            self.rules.refresh()
            return 0
        if self._is_releasing:
            return 0
        self._is_releasing = True
        try:
            held = yield from self._hold.release()
            if self._hold.is_on:
                self._end_hold()
        finally:
            self._is_releasing = False
        return held

    def release_now(self) -> None:
        """As :meth:`release`, at once."""
        if self._hold.is_on:
            self._hold.gate.release()
            self._end_hold()
        else:
            self.rules.refresh()

    def _end_hold(self) -> None:
        self.rules.plan(State.AWAKE)
        self.rules.refresh()
        self.rules.watch(self._hold.end())
        self._standins.retire()

    def fail(self, reason: str) -> None:
        """Go on sleeping after a failed restore: hold, and fail kubelet's probes.

        What waits is judged again and wants the pod awake as before; the pod decides when.
        """
        if self._hold.is_on:
            self._standins.fail(reason)
            self._hold.gate.wake = None
            self._hold.gate.enter(Mode.ASLEEP)

    # After a restart of the keeper

    def resume_sleep(self, members: Sequence[Container], saved: dict[str, Any] | None) -> None:
        """Hold again, with the queue that the warden kept or, without one, a new one.

        What the gate must know is read from the images: the earlier keeper may have been killed
        before it wrote anything down. Raises NodeError.
        """
        living = [c for c in members if c.find_init() is not None]
        self.is_between_keepers = False
        if not living or not self.rules.find(self._path, living[0].init().pid):
            raise NodeError("the pod's network namespace is gone", reason="NotRunning")
        found = self._found(living)
        # Where nothing is known, everything waits, and the pod is woken.
        mode = Mode.ASLEEP if found is not None else Mode.DUMP
        known = listeners.knowledge([*(found or {}).values()])
        if found is not None:
            self._stand_in({c.name: found[c.name] for c in living if not c.is_running()})
        self._hold.resume(netns=self.rules.netns, knowledge=known, mode=mode, saved=saved)
        self.rules.plan(State.HOLDING)
        self.rules.refresh()
        if mode is Mode.DUMP:
            self.on_wake("its image cannot be read")
        self._hold.look_for_wake()

    def resume_awake(
        self, members: Sequence[Container], saved: dict[str, Any] | None = None
    ) -> None:
        """Release what an earlier keeper held, and watch.

        *saved* is what :meth:`state` gave that keeper, if it is known.
        """
        self.is_between_keepers = False
        living = [c for c in members if c.find_init() is not None]
        init_pid = living[0].init().pid if living else None
        if self._hold.has_adopted and self.rules.find(self._path, init_pid):
            known = listeners.knowledge([*(self._found(living) or {}).values()])
            self._hold.resume(netns=self.rules.netns, knowledge=known, mode=Mode.DUMP, saved=saved)
            # Not at once: what came while no keeper ran may be more than a socket's buffer takes.
            self._shared.loop.spawn(self.release(), name=f"release {self._uid}")
        else:
            self.open(init_pid)

    def _found(self, living: Sequence[Container]) -> dict[str, Member] | None:
        """What is found of a pod in between, whose containers may run still, or again."""
        try:
            sockets = self.rules.sockets()
            return {c.name: self._member(c, sockets) for c in living}
        except (ArchitectError, OSError) as error:
            log.error("pod %s: what it listens on is not known: %s", self._uid, error)
            return None

    # Facts

    @property
    def held_packets(self) -> int:
        """How many packets wait."""
        return self._hold.packets

    def state(self) -> dict[str, Any] | None:
        """Return what :meth:`resume_sleep` needs; None while awake."""
        return self._hold.state()

    def observe(self, members: Sequence[Container]) -> dict[str, Any]:
        """Return the network part of an observation (see :mod:`architect.api.keeper`)."""
        living = [c for c in members if c.find_init() is not None]
        try:
            if not living or not self.open(living[0].init().pid):
                return {}
        except ArchitectError:
            return {}
        counters = self.rules.counters()
        sockets = self.rules.sockets()
        inodes = {c.name: processes.socket_inodes(c.tree()) for c in living}
        running = [Member.running(c.policy, sockets, inodes[c.name]) for c in living]
        self.rules.count(listeners.counted_ports(running))
        own = frozenset[int]().union(*inodes.values())
        return {
            "packets": counters.remote.packets + counters.local.packets,
            "local_packets": counters.local.packets,
            "node_packets": counters.node.packets,
            "last_source": self.rules.last_source(),
            "last_real_syn": self.rules.last_real_request(),
            "connections": [_connection(s) for s in sockets if _is_conversation(s, own)],
            "listening": [
                {"proto": each.protocol, "address": each.address, "port": each.port}
                for member in running
                for each in member.listeners
            ],
        }


def _of_image(container: Container) -> Member:
    image = connections.read_image(
        container.directory / "image",
        quiet=container.policy.wake_on is WakeOn.EXEC,
        shadow_ports=container.policy.shadow_ports,
    )
    if container.is_newcomer:
        # Its connections ended with the pod that they were of: their peers were told.
        image = ImageSockets(connections={}, listeners=image.listeners)
    return Member.asleep(container.policy, image)


def _is_conversation(found: Socket, own: frozenset[int]) -> bool:
    return found.protocol == "tcp" and found.state == ESTABLISHED and found.inode in own


def _connection(found: Socket) -> dict[str, Any]:
    idle = found.ages.since_received_seconds if found.ages is not None else 0.0
    return {
        "local": f"{found.local}:{found.local_port}",
        "remote": f"{found.remote}:{found.remote_port}",
        "idle_seconds": idle,
    }
