"""The node's pods and the operations on them: what the control socket offers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from architect.api.keeper import Event, PodState
from architect.api.policy import Policy, PolicyError, ProbeKind
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected
from architect.core.wire import text
from architect.shim import inspection, records
from architect.shim.keeper import (
    cpuquota,
    criu,
    images,
    lifecycle,
    observe,
    recovery,
    survey,
)
from architect.shim.keeper.arguments import Arguments, commands, patience, reason
from architect.shim.keeper.container import Container
from architect.shim.keeper.control import Peer
from architect.shim.keeper.hooks import Hooks
from architect.shim.keeper.loop import Future, Loop, Task, done_at_once, log_failure
from architect.shim.keeper.moving import MovingPod
from architect.shim.keeper.network import NodeNetwork
from architect.shim.keeper.programs import Programs
from architect.shim.keeper.recovery import Recovery
from architect.shim.keeper.sandboxes import Sandboxes
from architect.shim.keeper.volumes import Volumes

log = logging.getLogger(__name__)

RECOVERY_STEP_SECONDS: Final = 0.1
SHORT_ID: Final = 12
"""Length of an id as engines shorten it; less is not enough to name a container."""

Answer = dict[str, Any]


class Service:
    """Every pod of the node that has a managed container."""

    def __init__(
        self,
        *,
        loop: Loop,
        server: criu.Server,
        network: NodeNetwork,
        programs: Programs,
        version: str,
    ) -> None:
        self._loop = loop
        self._server = server
        self._network = network
        self._hooks = Hooks(programs)
        self._volumes = Volumes(programs)
        self._version = version
        self._started = time.time()
        self._pods: dict[str, MovingPod] = {}
        self._subscribers: set[Peer] = set()
        self._notes: dict[str, list[str]] = {}
        self._sandboxes = Sandboxes(
            loop=loop, programs=programs, hooks=self._hooks, emit=self._emit
        )
        self._simple: dict[str, Callable[[Arguments], Answer]] = {
            "version": self._version_op,
            "register": self._register_op,
            "removed": self._removed_op,
            "list": self._list_op,
            "status": self._status_op,
            "awake": self._awake_op,
            "observe": self._observe_op,
            "forget": self._forget_op,
            "note": self._note_op,
            "why": self._why_op,
            "ready": self._ready_op,
        }
        self._lasting: dict[str, Callable[[Arguments], Task[Answer]]] = {
            "sleep": self._sleep_op,
            "wake": self._wake_op,
            "check": self._check_op,
            "settle": self._settle_op,
            "capture": self._capture_op,
            "depart": self._depart_op,
            "go_on": self._go_on_op,
            "adopt": self._adopt_op,
            "refuse": self._refuse_op,
            "ensure": self._ensure_op,
            "kill": self._kill_op,
            "exec": self._exec_op,
        }

    # The socket's side

    def call(self, op: str, arguments: Arguments, peer: Peer) -> Future[Answer]:
        """Begin *op*. Raises Rejected for unknown operations and malformed arguments."""
        if op == "subscribe":
            return self._subscribe(peer)
        named = arguments.get("pod")
        if not isinstance(named, str) or named not in self._pods:
            of_gvisor = self._sandboxes.call(op, arguments, peer)
            if of_gvisor is not None:
                return of_gvisor
        if op == "copy":
            return self._loop.spawn(self._copy_op(arguments, peer), name=op)
        if (lasting := self._lasting.get(op)) is not None:
            return self._loop.spawn(lasting(arguments), name=op)
        simple = self._simple.get(op)
        if simple is None:
            known = ", ".join(sorted([*self._simple, *self._lasting, "copy", "subscribe"]))
            raise Rejected(
                f"unknown operation {op!r:.80}", reason="Protocol", hint=f"known are {known}"
            )
        return done_at_once(lambda: simple(arguments))

    def _subscribe(self, peer: Peer) -> Future[Answer]:
        self._subscribers.add(peer)
        peer.on_close.append(lambda: self._subscribers.discard(peer))
        future: Future[Answer] = Future()
        future.set_result({"subscribed": True})
        return future

    def _emit(self, event: Event, details: dict[str, Any]) -> None:
        for peer in list(self._subscribers):
            peer.send({"event": event.value, **details})

    # Operations

    def _version_op(self, _: Arguments) -> Answer:
        return {"version": self._version, "pid": os.getpid(), "started": self._started}

    def _register_op(self, arguments: Arguments) -> Answer:
        container = text(arguments, "container")
        pod = self.register(container)
        pod.begin_anew()
        # A namespace that is made with the container is opened when it is first looked at.
        pod.network.open(None)
        return {"pod": pod.uid}

    def _removed_op(self, arguments: Arguments) -> Answer:
        identity = text(arguments, "container")
        for pod in list(self._pods.values()):
            for name, container in list(pod.containers.items()):
                if container.record.id == identity:
                    self._remove_container(pod, name)
        records.remove(identity)
        return {}

    def _list_op(self, _: Arguments) -> Answer:
        hollow = [pod.status() for pod in self._pods.values()]
        return {"pods": hollow + self._sandboxes.statuses()}

    def _status_op(self, arguments: Arguments) -> Answer:
        return {"status": self._pod(arguments).status()}

    def _awake_op(self, arguments: Arguments) -> Answer:
        pod = self._pod_of_container(text(arguments, "container"))
        return {"state": "unmanaged" if pod is None else pod.state.value}

    def _observe_op(self, arguments: Arguments) -> Answer:
        wanted = arguments.get("pods") or []
        if not isinstance(wanted, list):
            raise Rejected("'pods' is not a list of uids", reason="Protocol")
        chosen = [p for p in self._pods.values() if not wanted or p.uid in wanted]
        return {"observations": [observe.observe(pod) for pod in chosen]}

    def _forget_op(self, arguments: Arguments) -> Answer:
        uid = text(arguments, "pod")
        pod = self._pods.get(uid)
        if pod is not None and any(c.find_init() is not None for c in pod.containers.values()):
            raise Rejected(f"pod {pod} still has running containers", reason="StillRunning")
        if pod is not None:
            self._drop_pod(pod)
        return {"freed_bytes": images.remove_pod(uid)}

    def _note_op(self, arguments: Arguments) -> Answer:
        why = arguments.get("why")
        if not isinstance(why, list) or not all(isinstance(w, str) for w in why):
            raise Rejected("'why' is not a list of texts", reason="Protocol")
        self._notes[self._pod(arguments).uid] = why
        return {}

    def _why_op(self, arguments: Arguments) -> Answer:
        pod = self._pod(arguments)
        why = list(self._notes.get(pod.uid, []))
        if pod.state is not PodState.AWAKE:
            why = [f"the pod is {pod.state.value}: {pod.reason}"]
        elif pod.refused is not None:
            why.append(f"{pod.refused.reason}: {pod.refused.message}")
        elif not why:
            why = ["the daemon has not judged this pod yet"]
        return {"state": pod.state.value, "why": why, "status": pod.status()}

    def _ready_op(self, arguments: Arguments) -> Answer:
        containers = arguments.get("containers")
        if not isinstance(containers, dict):
            raise Rejected("'containers' is not an object", reason="Protocol")
        pod = self._pod(arguments)
        if pod.state is not PodState.ASLEEP:  # else it is what the stand-in has answered
            pod.network.set_ready({str(k): bool(v) for k, v in containers.items()})
        return {}

    def _sleep_op(self, arguments: Arguments) -> Task[Answer]:
        pod = self._pod(arguments)
        yield from pod.sleep(
            reason=reason(arguments, "asked"),
            patience_seconds=patience(arguments),
            is_forced=arguments.get("force") is True,
        )
        return {"status": pod.status(), "duration_seconds": pod.last_sleep_seconds}

    def _check_op(self, arguments: Arguments) -> Task[Answer]:
        pod = self._pod(arguments)
        if pod.state is not PodState.AWAKE:
            return {"status": pod.status(), "findings": []}
        facts = []
        for container in list(pod.containers.values()):
            facts.append((yield from survey.of_container(container, self._loop)))
        found = inspection.of_pod(
            facts,
            refused=pod.refused.as_dict() if pod.refused else None,
            needed_bytes=0 if any(one.trouble for one in facts) else pod.needed_bytes(),
            free_bytes=images.free_bytes(),
        )
        return {"status": pod.status(), "findings": [vars(one) for one in found]}

    def _wake_op(self, arguments: Arguments) -> Task[Answer]:
        pod = self._pod(arguments)
        yield from pod.wake(reason=reason(arguments, "asked"))
        return {"status": pod.status(), "duration_seconds": pod.last_wake_seconds}

    def _capture_op(self, arguments: Arguments) -> Task[Answer]:
        pod = self._pod(arguments)
        yield from pod.capture(
            reason=reason(arguments, "asked"),
            patience_seconds=patience(arguments),
            ends_with=commands(arguments),
        )
        return {
            "status": pod.status(),
            "duration_seconds": pod.last_sleep_seconds,
            "has_slept": not pod.sleeps_to_leave,
        }

    def _depart_op(self, arguments: Arguments) -> Task[Answer]:
        pod = self._pod(arguments)
        yield from pod.recovered()
        pod.depart(reason=reason(arguments, "asked"))
        return {"status": pod.status()}

    def _copy_op(self, arguments: Arguments, peer: Peer) -> Task[Answer]:
        pod = self._pod(arguments)
        copying = yield from pod.copy(
            reason=reason(arguments, "asked"), patience_seconds=patience(arguments)
        )

        def go_on() -> None:
            # Who does not hear of it any more cannot end it: a daemon that was killed.
            if not copying.is_done:
                log.warning("%s goes on: nobody copies it any more", pod)
                self._loop.spawn(pod.go_on(copying), name=f"go on {pod}").when_done(log_failure)

        if peer.is_open:
            peer.on_close.append(go_on)
        else:
            go_on()
        return {"status": pod.status(), "duration_seconds": pod.last_sleep_seconds}

    def _go_on_op(self, arguments: Arguments) -> Task[Answer]:
        pod = self._pod(arguments)
        yield from pod.go_on()
        return {"status": pod.status()}

    def _adopt_op(self, arguments: Arguments) -> Task[Answer]:
        pod, container = self._member(arguments)
        yield from pod.adopt(container.name)
        return {"state": pod.state.value}

    def _refuse_op(self, arguments: Arguments) -> Task[Answer]:
        pod, container = self._member(arguments)
        yield from container.wait_for_init(self._loop)
        pod.refuse(
            container.name,
            reason=text(arguments, "reason"),
            message=text(arguments, "message"),
            is_dirty=arguments.get("is_dirty") is True,
        )
        return {"state": pod.state.value}

    def _kill_op(self, arguments: Arguments) -> Task[Answer]:
        identity = text(arguments, "container")
        pod = self._pod_of_container(identity)
        if pod is None:
            return {"state": "unmanaged"}
        yield from pod.recovered()  # or one that has left would be taken for one that runs
        if pod.end_captured(identity):
            return {"state": pod.state.value}
        # Before the wake: from here on the signal is as good as there.
        pod.note_signal(identity)
        return (yield from self._ensure_op(arguments))

    def _settle_op(self, arguments: Arguments) -> Task[Answer]:
        pod = self._pod(arguments)
        yield from pod.settle(container=text(arguments, "container"))
        return {"state": pod.state.value}

    def _ensure_op(self, arguments: Arguments) -> Task[Answer]:
        pod = self._pod_of_container(text(arguments, "container"))
        if pod is None:
            return {"state": "unmanaged"}
        wake = pod.wake(reason=reason(arguments, "a command"))
        if pod.state is not PodState.AWAKE and pod.is_paused:
            # A signal waits in the frozen init; the wake goes on when the engine resumes it.
            self._loop.spawn(wake, name=f"wake {pod}").when_done(log_failure)
            return {"state": pod.state.value}
        yield from wake
        return {"state": pod.state.value}

    def _exec_op(self, arguments: Arguments) -> Task[Answer]:
        identity = text(arguments, "container")
        pod = self._pod_of_container(identity)
        if pod is None:
            return {"state": "unmanaged", "probe": False}
        argv = arguments.get("argv")
        if pod.state is PodState.ASLEEP and _is_exec_probe(pod, identity, argv):
            return {"state": pod.state.value, "probe": True}
        while pod.copying is not None:
            yield pod.copying  # a wake would make the copy worthless; it is over in a moment
        if pod.is_leaving:
            # Kubelet's hook is for an application that ends here; this one goes on elsewhere.
            if argv in pod.ends_with:
                return {"state": pod.state.value, "probe": True}
            raise lifecycle.left()
        if pod.is_paused:
            return {"state": pod.state.value, "probe": False}  # the lower runtime refuses
        yield from pod.wake(reason="exec")
        return {"state": pod.state.value, "probe": False}

    # Pods and containers

    def register(self, identity: str) -> MovingPod:
        """Take in the container whose record is on disk. Raises Rejected or FormatError."""
        try:
            record = records.read(identity)
        except FileNotFoundError as error:
            raise Rejected(
                f"container {identity!r:.80} has no record in {names.CONTAINER_RECORDS}",
                reason="UnknownContainer",
            ) from error
        try:
            policy = Policy.from_dict(record.policy)
        except PolicyError as error:
            raise FormatError(f"record of container {identity:.12}: {error}") from error
        rule = policy.containers.get(record.container)
        if rule is None:
            raise FormatError(
                f"record of container {identity:.12}: its policy has no {record.container!r:.80}"
            )
        self._forget_unheard(record)
        pod = self._pods.get(record.pod)
        if pod is None:
            pod = MovingPod(
                uid=record.pod,
                namespace=record.namespace,
                name=record.pod_name,
                policy=policy,
                loop=self._loop,
                server=self._server,
                network=self._network.pod(record.pod),
                emit=self._emit,
            )
            pod.hooks, pod.volumes = self._hooks, self._volumes
            self._pods[record.pod] = pod
        if (old := pod.containers.get(record.container)) is not None:
            if old.record.id == identity:
                return pod
            old.close()
        pod.policy = policy
        pod.refused = None
        pod.signalled.discard(record.container)
        pod.containers[record.container] = Container(record, rule)
        pod.network.add(record.netns, record.container, rule)
        self._emit(Event.REGISTERED, {"pod": pod.uid, "at": time.time(), "container": identity})
        return pod

    def _forget_unheard(self, record: records.Record) -> None:
        """Let go of an earlier container with the id of *record*, of whose end nobody told."""
        pod = self._pods.get(record.pod)
        old = None if pod is None else pod.containers.get(record.container)
        if pod is None or old is None or old.record.id != record.id or old.record == record:
            return
        if old.find_init() is None:
            self._remove_container(pod, record.container)

    def _remove_container(self, pod: MovingPod, name: str) -> None:
        container = pod.containers.pop(name)
        container.close()
        self._emit(
            Event.REMOVED,
            {"pod": pod.uid, "at": time.time(), "container": container.record.id, "name": name},
        )
        if not pod.containers:
            self._drop_pod(pod)

    def _drop_pod(self, pod: MovingPod) -> None:
        pod.close()
        self._pods.pop(pod.uid, None)
        self._notes.pop(pod.uid, None)

    def _pod(self, arguments: Arguments) -> MovingPod:
        wanted = text(arguments, "pod")
        found = self._pods.get(wanted)
        if found is not None:
            return found
        same = [p for p in self._pods.values() if wanted in (f"{p.namespace}/{p.name}", p.name)]
        by_container = self._pod_of_container(wanted)
        if by_container is not None:
            same.append(by_container)
        if not same and len(wanted) >= SHORT_ID:
            # As Podman and Docker show the id of a stand-alone container.
            same = [p for p in self._pods.values() if not p.name and p.uid.startswith(wanted)]
        if len(same) == 1:
            return same[0]
        if same:
            which = ", ".join(map(str, same))
            raise Rejected(f"pod {wanted!r:.80} is ambiguous: {which}", reason="Ambiguous")
        raise Rejected(
            f"no managed pod {wanted!r:.80} on this node",
            reason="UnknownPod",
            hint="`architect-runtime list` shows them",
        )

    def _member(self, arguments: Arguments) -> tuple[MovingPod, Container]:
        """Return the container that is named by its id, with its pod. Raises Rejected."""
        identity = text(arguments, "container")
        pod = self._pod_of_container(identity)
        if pod is None:
            raise Rejected(f"no managed container {identity!r:.80}", reason="UnknownContainer")
        (found,) = [c for c in pod.containers.values() if c.record.id == identity]
        return pod, found

    def _pod_of_container(self, identity: str) -> MovingPod | None:
        for pod in self._pods.values():
            for container in pod.containers.values():
                if container.record.id == identity:
                    return pod
        return None

    # Start

    def recover(self) -> None:
        """Take in every container that has a record, and pick up each pod where it was."""
        cpuquota.recover()
        self._sandboxes.recover()
        for identity in records.identities():
            try:
                self.register(identity)
            except (ArchitectError, OSError) as error:
                log.error("container %.12s is not picked up: %s", identity, error)
        for pod in list(self._pods.values()):
            pod.network.is_between_keepers = True
            pod.recover(self._loop.spawn(self._recover_pod(pod), name=f"recover {pod}"))

    def _recover_pod(self, pod: MovingPod) -> Task[None]:
        saved = _saved(pod.uid)
        phase = saved.phase
        pod.resume_signalled(saved.signalled)
        pod.sleeps_to_leave = saved.sleeps_to_leave
        if phase is PodState.CAPTURED:
            pod.resume_captured()
            return
        has_ended_lost = False
        while True:
            try:
                facts = [container.facts() for container in pod.containers.values()]
            except NodeError as error:
                log.error("%s is not picked up: %s", pod, error)
                return
            decision = recovery.decide(phase, facts)
            if decision is Recovery.LOST and not has_ended_lost:
                has_ended_lost = True
                pod.end_lost()
            elif decision is not Recovery.WAIT and decision is not Recovery.LOST:
                break
            # CRIU is at work, or what is lost ends: what is left is decided on then.
            yield self._loop.sleep(RECOVERY_STEP_SECONDS)
        log.info("%s: was %s, %s", pod, phase.value if phase else "never asleep", decision.value)
        match decision:
            case Recovery.AWAKE | Recovery.GONE:
                # Gone: created a moment ago (no init yet), or ended while no keeper ran; a later
                # `removed` or `register` tells which. What is held goes to whom is there then.
                pod.resume_awake(saved.network)
            case Recovery.ASLEEP:
                if saved.goes_on:  # who copied it is not connected to this keeper
                    pod.resume_waking(saved.network)
                else:
                    pod.resume_asleep(
                        saved.since, saved.network, has_failed=saved.phase is PodState.FAILED
                    )
            case Recovery.FINISH_SLEEP | Recovery.FINISH_WAKE:
                pod.resume_waking(saved.network)


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """What an earlier keeper wrote of a pod."""

    phase: PodState | None
    since: float
    network: dict[str, Any] | None
    signalled: dict[str, str]
    """Containers, name to id, to which a signal went."""
    goes_on: bool = False
    """It sleeps for a copy alone."""
    sleeps_to_leave: bool = False


def _saved(uid: str) -> _Saved:
    try:
        found = images.read_pod(uid)
        return _Saved(
            phase=PodState(found["phase"]),
            since=float(found["since"]),
            network=found.get("network"),
            signalled=dict(found.get("signalled") or {}),
            goes_on=found.get("goes_on") is True,
            # An earlier version wrote down only that it was to be saved.
            sleeps_to_leave=found.get("sleeps_to_leave", found.get("leaving")) is True,
        )
    except FileNotFoundError:
        pass
    except (FormatError, KeyError, TypeError, ValueError) as error:
        log.error("pod %s: its saved state cannot be read, its processes tell: %s", uid, error)
    return _Saved(phase=None, since=time.time(), network=None, signalled={})


def _is_exec_probe(pod: MovingPod, identity: str, argv: Any) -> bool:
    if not isinstance(argv, list):
        return False
    for container in pod.containers.values():
        if container.record.id == identity:
            return any(
                probe.kind is ProbeKind.EXEC and list(probe.argv) == argv
                for probe in container.policy.probes
            )
    return False
