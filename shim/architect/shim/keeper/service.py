"""What the control socket offers: the operations on the node's pods."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from architect.api.keeper import Event, PodState
from architect.api.policy import ProbeKind
from architect.core.errors import Rejected
from architect.core.wire import text
from architect.shim.inspection import findings
from architect.shim.inspection.findings import About
from architect.shim.keeper import cpuquota, criu, images, lifecycle, observe
from architect.shim.keeper.arguments import Arguments, commands, patience, reason
from architect.shim.keeper.control import Peer
from architect.shim.keeper.hooks import Hooks
from architect.shim.keeper.inspector import Inspector
from architect.shim.keeper.loop import Future, Loop, Task, done_at_once, log_failure
from architect.shim.keeper.moving import MovingPod
from architect.shim.keeper.network import NodeNetwork
from architect.shim.keeper.programs import Programs
from architect.shim.keeper.registry import Registry
from architect.shim.keeper.sandboxes import Sandboxes
from architect.shim.keeper.volumes import Volumes

log = logging.getLogger(__name__)

Answer = dict[str, Any]

MISSED: Final = 64
"""Events that are kept for the daemon while it is away: what became of memories, which nobody can
read from anywhere else."""


class Service:
    """Carries out what is asked, and tells those who have subscribed what happens."""

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
        self._version = version
        self._started = time.time()
        self._subscribers: set[Peer] = set()
        self._unheard: deque[dict[str, Any]] = deque(maxlen=MISSED)
        hooks = Hooks(programs)
        self._inspector = Inspector(programs)
        self.pods = Registry(
            loop=loop,
            server=server,
            network=network,
            hooks=hooks,
            volumes=Volumes(programs),
            emit=self._emit,
        )
        self._sandboxes = Sandboxes(loop=loop, programs=programs, hooks=hooks, emit=self._emit)
        self._simple: dict[str, Callable[[Arguments], Answer]] = {
            "version": self._version_op,
            "register": self._register_op,
            "removed": self._removed_op,
            "list": self._list_op,
            "status": self._status_op,
            "awake": self._awake_op,
            "observe": self._observe_op,
            "memory": self._memory_op,
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
            return self._subscribe(peer, has_missed=arguments.get("missed") is True)
        named = arguments.get("pod")
        if not isinstance(named, str) or self.pods.get(named) is None:
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

    def _subscribe(self, peer: Peer, *, has_missed: bool) -> Future[Answer]:
        self._subscribers.add(peer)
        peer.on_close.append(lambda: self._subscribers.discard(peer))
        answer: Answer = {"subscribed": True}
        if has_missed:
            answer["missed"] = list(self._unheard)
            self._unheard.clear()
        future: Future[Answer] = Future()
        future.set_result(answer)
        return future

    def _emit(self, event: Event, details: dict[str, Any]) -> None:
        for peer in list(self._subscribers):
            peer.send({"event": event.value, **details})
        if not self._subscribers and event in (Event.RESTORED, Event.WAKE_FAILED):
            self._unheard.append({"event": event.value} | details)

    # Operations

    def _version_op(self, _: Arguments) -> Answer:
        return {"version": self._version, "pid": os.getpid(), "started": self._started}

    def _register_op(self, arguments: Arguments) -> Answer:
        pod = self.pods.register(text(arguments, "container"), is_new=True)
        pod.begin_anew()
        # A namespace that is made with the container is opened when it is first looked at.
        pod.network.open(None)
        return {"pod": pod.uid}

    def _removed_op(self, arguments: Arguments) -> Answer:
        self.pods.removed(text(arguments, "container"))
        return {}

    def _list_op(self, _: Arguments) -> Answer:
        hollow = [pod.status() for pod in self.pods.everyone()]
        return {"pods": hollow + self._sandboxes.statuses()}

    def _status_op(self, arguments: Arguments) -> Answer:
        return {"status": self._pod(arguments).status()}

    def _awake_op(self, arguments: Arguments) -> Answer:
        pod = self.pods.pod_of(text(arguments, "container"))
        return {"state": "unmanaged" if pod is None else pod.state.value}

    def _observe_op(self, arguments: Arguments) -> Answer:
        wanted = arguments.get("pods") or []
        if not isinstance(wanted, list):
            raise Rejected("'pods' is not a list of uids", reason="Protocol")
        chosen = [p for p in self.pods.everyone() if not wanted or p.uid in wanted]
        return {"observations": list(observe.of_each(chosen, observe.observe).values())}

    def _memory_op(self, _: Arguments) -> Answer:
        awake = [pod for pod in self.pods.everyone() if pod.state is PodState.AWAKE]
        return {"memory": observe.of_each(awake, observe.memory_bytes)}

    def _forget_op(self, arguments: Arguments) -> Answer:
        uid = text(arguments, "pod")
        self.pods.forget(uid)
        return {"freed_bytes": images.remove_pod(uid)}

    def _note_op(self, arguments: Arguments) -> Answer:
        why = arguments.get("why")
        if not isinstance(why, list) or not all(isinstance(w, str) for w in why):
            raise Rejected("'why' is not a list of texts", reason="Protocol")
        self._pod(arguments).note = why
        return {}

    def _why_op(self, arguments: Arguments) -> Answer:
        pod = self._pod(arguments)
        why = list(pod.note)
        if pod.state is not PodState.AWAKE:
            why = [f"the pod is {pod.state.value}: {pod.reason}"]
        else:
            if pod.refused is not None:
                why.append(f"{pod.refused.reason}: {pod.refused.message}")
            why += [f"{each.container}: {each.text}" for each in pod.found]
            why = why or ["the daemon has not judged this pod yet"]
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
        since = pod.since
        found = yield from self._inspector.look(pod.uid)
        if pod.state is not PodState.AWAKE or pod.since != since:
            # It was not there any more, or not all of it.
            return {"status": pod.status(), "findings": []}
        is_running = not any(one.about is About.CONTAINER for one in found)
        pod.found = [one for one in found if one.is_blocking and one.about is About.PROCESSES]
        of_pod = findings.of_pod(
            refused=pod.refused.as_dict() if pod.refused else None,
            needed_bytes=pod.admission.needed_bytes() if is_running else 0,
            free_bytes=images.free_bytes(),
        )
        return {"status": pod.status(), "findings": [vars(one) for one in [*of_pod, *found]]}

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
        if not pod.sleeps_to_leave:
            # On the disk it is one that sleeps, with an image that is whole: after a power cut it
            # would go on, and its successor may have done so. Of the others no image is there yet.
            yield pod.save_for_good()
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
        pod, container = self.pods.member(text(arguments, "container"))
        yield from pod.adopt(container.name)
        return {"state": pod.state.value}

    def _refuse_op(self, arguments: Arguments) -> Task[Answer]:
        pod, container = self.pods.member(text(arguments, "container"))
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
        pod = self.pods.pod_of(identity)
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
        pod = self.pods.pod_of(text(arguments, "container"))
        if pod is None:
            return {"state": "unmanaged"}
        wake = pod.wake(reason=reason(arguments, "a command"))
        if pod.state is not PodState.AWAKE and pod.admission.is_paused:
            # A signal waits in the frozen init; the wake goes on when the engine resumes it.
            self._loop.spawn(wake, name=f"wake {pod}").when_done(log_failure)
            return {"state": pod.state.value}
        yield from wake
        return {"state": pod.state.value}

    def _exec_op(self, arguments: Arguments) -> Task[Answer]:
        identity = text(arguments, "container")
        pod = self.pods.pod_of(identity)
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
        if pod.admission.is_paused:
            return {"state": pod.state.value, "probe": False}  # the lower runtime refuses
        yield from pod.wake(reason="exec")
        return {"state": pod.state.value, "probe": False}

    def _pod(self, arguments: Arguments) -> MovingPod:
        return self.pods.find(text(arguments, "pod"))

    def recover(self) -> None:
        """Pick up what an earlier keeper has left."""
        cpuquota.recover()
        self._sandboxes.recover()
        self.pods.recover()


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
