"""The node's gVisor pods: what the control socket offers for them.

They are listed and told of like others, and never sleep. A copy (``copy``, ``go_on``) has the
sandbox stand still while others save it; one that goes on from an image is told here (``adopt``,
``refuse``) by the runtime, which does the work. What there is lies on the disk: a restarted keeper
only lets those go on that an earlier one has stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from architect.api import saved
from architect.api.keeper import Event, PodState
from architect.api.policy import OnRestoreFailure
from architect.core.errors import NodeError, Rejected
from architect.core.wire import text
from architect.shim.gvisor import listeners, pods, records, texts
from architect.shim.gvisor.pods import NEVER_SLEEPS, Pod
from architect.shim.keeper import hooks, images, podstate
from architect.shim.keeper.arguments import Arguments
from architect.shim.keeper.control import Peer
from architect.shim.keeper.hooks import Hooks
from architect.shim.keeper.loop import Future, Loop, Task, done_at_once, log_failure
from architect.shim.keeper.podstate import Remembered
from architect.shim.keeper.programs import Programs

log = logging.getLogger(__name__)

RUNSC_SECONDS: Final = 60.0
"""For a sandbox to stand still, or to go on."""

TABLES_SECONDS: Final = 10.0
"""For a container to say which sockets there are."""

MAX_NAMED: Final = 5
"""Sockets that a refusal names."""

Answer = dict[str, Any]
Emit = Callable[[Event, dict[str, Any]], None]


class Sandboxes:
    """Every managed gVisor pod of the node."""

    def __init__(self, *, loop: Loop, programs: Programs, hooks: Hooks, emit: Emit) -> None:
        self._loop = loop
        self._programs = programs
        self._hooks = hooks
        self._emit = emit
        self._copies: dict[str, object] = {}
        """By uid the copy for which a sandbox stands still."""
        self._simple: dict[str, Callable[[Pod, Arguments], Answer]] = {
            "register": self._register,
            "status": lambda pod, _: {"status": self.status(pod)},
            "note": lambda _, __: {},  # what is said of it is always the same
            "why": self._why,
            "check": self._check,
            "ready": lambda _, __: {},  # nobody stands in for it
            "adopt": self._adopt,
            "refuse": self._refuse,
        }

    def call(self, op: str, arguments: Arguments, peer: Peer) -> Future[Answer] | None:
        """Begin *op* if its pod or container is one of gVisor; None if it is not."""
        if op == "removed" and isinstance(uid := arguments.get("pod"), str):
            return done_at_once(
                lambda: self._removed(uid, arguments)
            )  # its sandbox may be gone by now
        pod = self._refused(arguments) if op == "refuse" else self._named(arguments)
        if pod is None:
            return None
        if op == "copy":
            return self._loop.spawn(self._copy(pod, peer), name=op)
        if op == "go_on":
            return self._loop.spawn(self._go_on(pod.uid), name=op)
        if (simple := self._simple.get(op)) is None:
            raise Rejected(f"{pod}: {NEVER_SLEEPS}", reason="Gvisor")
        return done_at_once(lambda: simple(pod, arguments))

    def statuses(self) -> list[Answer]:
        """Return the status of each of them."""
        return [self.status(pod) for pod in pods.everyone().values()]

    def status(self, pod: Pod) -> Answer:
        """Return a pod's status as the control protocol shows it."""
        state = PodState.FALLING if pod.record.is_paused else PodState.AWAKE
        return {
            "pod": pod.uid,
            "namespace": pod.record.namespace,
            "name": pod.record.pod_name,
            "state": state.value,
            "since": records.path(pod.root_id).stat().st_mtime,
            "reason": "gVisor",
            "image_bytes": 0,
            "held_packets": 0,
            "last_sleep_seconds": None,
            "last_wake_seconds": None,
            "refused": None,
            "containers": {
                name: {"id": member.id, "init_pid": member.record.anchor or None}
                for name, member in pod.members.items()
            },
        }

    def recover(self) -> None:
        """Let go on what an earlier keeper has stopped: who copied it is not connected any more."""
        for pod in pods.everyone().values():
            if pod.record.is_paused:
                self._resume_later(pod.uid)

    def _refused(self, arguments: Arguments) -> Pod | None:
        """Return the pod that cannot go on. Its sandbox may have ended at that."""
        if not isinstance(container := arguments.get("container"), str):
            return None
        is_known = records.is_known(container)
        return pods.of_container(container, is_alive=False) if is_known else None

    def _named(self, arguments: Arguments) -> Pod | None:
        if isinstance(container := arguments.get("container"), str) and "pod" not in arguments:
            return pods.of_container(container) if records.is_known(container) else None
        if not isinstance(wanted := arguments.get("pod"), str):
            return None
        for pod in pods.everyone().values():
            if wanted in (pod.uid, f"{pod.record.namespace}/{pod.record.pod_name}"):
                return pod
        return None

    def _tell(self, event: Event, pod: Pod, **details: Any) -> None:
        record = pod.record
        told = {"pod": pod.uid, "namespace": record.namespace, "name": record.pod_name}
        state = PodState.AWAKE.value
        self._emit(event, {**told, "state": state, "at": time.time(), **details})

    # Operations

    def _register(self, pod: Pod, arguments: Arguments) -> Answer:
        self._tell(Event.REGISTERED, pod, container=text(arguments, "container"))
        return {"pod": pod.uid}

    def _removed(self, uid: str, arguments: Arguments) -> Answer:
        self._copies.pop(uid, None)
        told = {"pod": uid, "at": time.time(), "container": text(arguments, "container")}
        self._emit(Event.REMOVED, told)
        return {}

    def _why(self, pod: Pod, _: Arguments) -> Answer:
        status = self.status(pod)
        return {"state": status["state"], "why": [NEVER_SLEEPS], "status": status}

    def _check(self, pod: Pod, _: Arguments) -> Answer:
        finding = {"container": "", "reason": "Gvisor", "message": NEVER_SLEEPS}
        return {"status": self.status(pod), "findings": [{**finding, "is_blocking": True}]}

    def _copy(self, pod: Pod, peer: Peer) -> Task[Answer]:
        """Have the sandbox stand still until ``go_on``, or until who asked is gone."""
        _check_copyable(pod)
        yield from self._check_listeners(pod)
        pod = pods.find(pod.uid) or pod
        _check_copyable(pod)  # a program has run in it since
        # First the note: the next keeper has it go on.
        _note_pause(pod.root_id, is_paused=True)
        try:
            yield from self._runsc(pod, "pause")
        except BaseException:
            self._resume_later(pod.uid)
            raise
        copy = self._copies[pod.uid] = object()

        def ended() -> None:
            if self._copies.get(pod.uid) is copy:  # else it has gone on, and may be another one's
                self._resume_later(pod.uid)

        if peer.is_open:
            peer.on_close.append(ended)
        else:
            ended()
        return {"status": self.status(pod)}

    def _check_listeners(self, pod: Pod) -> Task[None]:
        """Return unless a socket of *pod* waits where no other pod can. Raises Rejected.

        A container tells it, by a program of its own: one without ``cat`` cannot.
        """
        for member in pod.members.values():
            ended = yield from self._programs.run(
                pod.command(["exec", member.id, *listeners.COMMAND]),
                limit_seconds=TABLES_SECONDS,
                reason="SandboxFailed",
                kept_bytes=listeners.MAX_BYTES,
            )
            if not listeners.are_tables(ended.output):
                continue
            if own := listeners.own(ended.output):
                more = f" and {len(own) - MAX_NAMED} more" if len(own) > MAX_NAMED else ""
                raise Rejected(
                    f"{pod} has sockets that wait at its own address, where no other pod is: "
                    f"{', '.join(own[:MAX_NAMED])}{more}",
                    reason="OwnAddress",
                    hint="bind to the wildcard address",
                )
            return
        log.warning("%s: no container can tell at which addresses its sockets wait", pod)

    def _go_on(self, uid: str) -> Task[Answer]:
        pod = pods.find(uid)
        if pod is None or not pod.record.is_paused:
            raise Rejected(
                f"pod {uid} is not being copied",
                reason="NotCaptured",
                hint="it went on in between: copy it again",
            )
        self._copies.pop(uid, None)
        try:
            yield from self._runsc(pod, "resume")
        except NodeError as error:
            if texts.GOES_ON not in error.message:  # so an earlier keeper had come this far
                raise
        _note_pause(pod.root_id, is_paused=False)
        return {"status": self.status(pods.find(uid) or pod)}

    def _resume_later(self, uid: str) -> None:
        pod = pods.find(uid)
        if pod is not None and pod.record.is_paused:
            log.warning("%s goes on: nobody copies it any more", pod)
            self._loop.spawn(self._go_on(uid), name=f"go on {pod}").when_done(log_failure)

    def _runsc(self, pod: Pod, command: str) -> Task[None]:
        ended = yield from self._programs.run(
            pod.command([command, pod.root_id]),
            limit_seconds=RUNSC_SECONDS,
            reason="SandboxFailed",
        )
        if ended.status != 0:
            raise NodeError(
                f"runsc cannot {command} sandbox {pod.root_id:.12}: {ended.output}",
                reason="SandboxFailed",
            )

    def _adopt(self, pod: Pod, _: Arguments) -> Answer:
        """Learn that the pod goes on with what came for it."""
        self._tell(Event.RESTORED, pod)
        for name, container in pod.policy.containers.items():
            if container.after_restore and name in pod.members:
                hook = self._run_hook(pod, name, list(container.after_restore))
                self._loop.spawn(hook, name=f"hook of {pod}")
        return {"state": PodState.AWAKE.value}

    def _run_hook(self, pod: Pod, name: str, argv: list[str]) -> Task[None]:
        command = pod.command(["exec", pod.members[name].id, *argv])
        said = yield from hooks.told(self._hooks.run_command(command))
        log.info("%s: hook of container %s: %s", pod, name, said)
        self._tell(Event.HOOK, pod, container=name, **said)

    def _refuse(self, pod: Pod, arguments: Arguments) -> Answer:
        """Learn that the pod cannot go on with what came for it; its sandbox ends."""
        policy = pod.policy.on_restore_failure
        if policy is OnRestoreFailure.FRESH:
            # First whose it is, by which it is removed once its pod is gone.
            remembered = Remembered(
                namespace=pod.record.namespace,
                name=pod.record.pod_name,
                phase=PodState.AWAKE,
                since=time.time(),
            )
            podstate.write(pod.uid, remembered)
            images.refuse(
                images.pod_directory(pod.uid) / saved.SANDBOX,
                arrival=images.arrival_of_pod(pod.uid) / saved.SANDBOX,
            )
        reason, message = text(arguments, "reason"), str(arguments.get("message"))
        log.error("%s cannot go on: %s: %s", pod, reason, message)
        self._tell(
            Event.WAKE_FAILED,
            pod,
            reason=reason,
            message=message,
            hint="what came for it is kept, and its sandbox is made anew",
            policy=policy.value,
        )
        return {"state": PodState.AWAKE.value}


def _check_copyable(pod: Pod) -> None:
    """Return if *pod* can be copied now, as far as its records tell. Raises Rejected."""
    if pod.record.is_paused:
        raise Rejected(f"{pod} is being copied already", reason="Busy", hint="ask again later")
    pod.check()


def _note_pause(root_id: str, *, is_paused: bool) -> None:
    root = records.find(root_id)
    if root is not None:  # else it was deleted meanwhile
        records.write(root_id, root._replace(is_paused=is_paused))
