"""How a pod is brought to a step of its life, and kept there until somebody lets it go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from architect.shim.keeper import processes
from faults.errors import FaultError
from faults.gate import Held
from faults.matrix import Step
from faults.node import DEADLINE_SECONDS
from faults.pod import Hook, Pod

SLEEP_SECONDS: Final = 8.0
"""After a sleep was asked for: longer than the keeper waits for a pod to come to rest."""


@dataclass
class Scene:
    """A pod at a step."""

    pod: Pod
    step: Step
    keeper: int
    """Pid of the keeper that looks after it."""
    who: str = ""
    """Identity and memory of the application, where it runs already."""
    held: Held | None = None
    hook: Hook | None = None
    call: threading.Thread | None = None
    """The engine's call that is under way."""
    status: int = 0
    """What that has ended with."""
    is_repeated: bool = False
    """Whether the engine's call had to be made once more."""
    is_without_power: bool = False
    """Whether nothing of its node is left that could go on."""
    _stack: ExitStack = field(default_factory=ExitStack)

    def go_on(self) -> None:
        """Let go of whoever waits; return once the engine's call, if one is under way, is over."""
        self._stack.close()
        if self.hook is not None:
            self.hook.let_go()
        if self.call is None:
            return
        self.call.join(DEADLINE_SECONDS)
        if self.call.is_alive():
            raise FaultError(f"the call of {self.step} does not end: {self.pod.said()}")
        if self.is_without_power:
            return
        _AFTER_CALL[self.step](self)


@contextmanager
def reached(step: Step, pod: Pod, *, has_datagrams: bool) -> Iterator[Scene]:
    """Bring *pod* to *step*, with clients where its application serves already."""
    scene = Scene(pod=pod, step=step, keeper=pod.node.keeper_pid())
    try:
        if step in (Step.CREATE, Step.START):
            _creating(scene)
        else:
            pod.run()
            scene.who = pod.who()
            pod.start_clients(has_datagrams=has_datagrams)
            pod.until_answered()
            _WAYS[step](scene)
        yield scene
    finally:
        scene._stack.close()


# An engine's calls


def _creating(scene: Scene) -> None:
    pod = scene.pod
    container = pod.new_container()
    if scene.step is Step.CREATE:
        _in_hook(scene, "createRuntime", lambda: container.create(check=False))
    else:
        container.create()
        _starting(scene)


def _starting(scene: Scene) -> None:
    """Have ``start`` wait where the lower runtime looks for the container."""
    container = scene.pod.container
    assert container is not None
    gate = scene.pod.node.run_gate

    def is_it(pid: int, path: str) -> bool:
        return path.endswith(f"/{container.id}/state.json") and "start" in processes.arguments(pid)

    def call() -> None:
        scene.status = container.call("start", container.id, check=False).returncode

    scene.held = scene._stack.enter_context(gate.holding(is_it))
    scene.call = threading.Thread(target=call, name="start")
    scene.call.start()
    if not scene.held.wait(DEADLINE_SECONDS):
        raise FaultError(f"start is not reached: {scene.pod.said()}")


def _deleting(scene: Scene) -> None:
    pod = scene.pod
    errors = pod.stop_clients()
    if errors:
        raise FaultError(f"clients failed before anything was broken: {errors}")
    container = pod.container
    assert container is not None
    container.kill("KILL")
    pod.statuses.append(container.wait())
    _in_hook(
        scene, "poststop", lambda: container.call("delete", container.id, check=False).returncode
    )


def _in_hook(scene: Scene, name: str, call: Callable[[], int]) -> None:
    """Make *call* in a thread of its own, and return when it has come to the hook *name*."""

    def run() -> None:
        scene.status = call()

    scene.hook = scene.pod.hooks[name]
    scene.hook.stop_there()
    scene.call = threading.Thread(target=run, name=f"{scene.step}")
    scene.call.start()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not scene.hook.has_come():
        if time.monotonic() > deadline or not scene.call.is_alive():
            raise FaultError(f"{scene.step} does not come to its hook: {scene.pod.said()}")
        time.sleep(0.005)


def _created(scene: Scene) -> None:
    container = scene.pod.container
    assert container is not None
    if scene.status == 0:
        scene.status = container.call("start", container.id, check=False).returncode
    _started(scene)


def _started(scene: Scene) -> None:
    pod = scene.pod
    assert pod.container is not None
    if scene.status == 0 and pod.serves_or_ends():
        return
    scene.is_repeated = True
    pod.replace()


def _deleted(scene: Scene) -> None:
    scene.is_repeated = scene.status != 0
    scene.pod.discard()


_AFTER_CALL: Final[dict[Step, Callable[[Scene], None]]] = {
    Step.CREATE: _created,
    Step.START: _started,
    Step.DELETE: _deleted,
}


# What keeper and CRIU open, and when


def _keeper_opens(scene: Scene, *parts: str) -> Callable[[int, str], bool]:
    return lambda pid, path: pid == scene.keeper and all(part in path for part in parts)


def _criu_opens(scene: Scene, end: str) -> Callable[[int, str], bool]:
    return lambda pid, path: path.endswith(end) and scene.pod.node.is_criu(pid)


def _hold(scene: Scene, matches: Callable[[int, str], bool]) -> Held:
    scene.held = scene._stack.enter_context(scene.pod.node.gate.holding(matches))
    return scene.held


def _falling(matches: Callable[[Scene], Callable[[int, str], bool]]) -> Callable[[Scene], None]:
    def way(scene: Scene) -> None:
        held = _hold(scene, matches(scene))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            scene.pod.send("sleep")
            if held.wait(SLEEP_SECONDS):
                return
        raise FaultError(f"{scene.step} is not reached: {scene.pod.node.log()[-3000:]}")

    return way


def _asleep(scene: Scene) -> None:
    scene.pod.pause_clients()
    scene.pod.sleep()


def _waking(matches: Callable[[Scene], Callable[[int, str], bool]]) -> Callable[[Scene], None]:
    def way(scene: Scene) -> None:
        _asleep(scene)
        held = _hold(scene, matches(scene))
        scene.pod.resume_clients()
        if not held.wait(DEADLINE_SECONDS):
            raise FaultError(f"{scene.step} is not reached: {scene.pod.node.log()[-3000:]}")

    return way


def _stopping(scene: Scene) -> None:
    container = scene.pod.container
    assert container is not None
    container.kill("TERM")
    container.until("got TERM")


_WAYS: Final[dict[Step, Callable[[Scene], None]]] = {
    Step.AWAKE: lambda _: None,
    Step.BEFORE_HOLD: _falling(lambda s: _keeper_opens(s, s.pod.uid, ".pod.json.")),
    Step.FREEZING: _falling(lambda s: _criu_opens(s, "/pages-1.img")),
    Step.DUMP: _falling(lambda s: _criu_opens(s, "/inventory.img")),
    Step.AFTER_DUMP: _falling(lambda s: _keeper_opens(s, s.pod.uid, "/image/dump.exit")),
    Step.ASLEEP: _asleep,
    Step.BEFORE_RESTORE: _waking(lambda s: _keeper_opens(s, s.pod.uid, "/app/meta.json")),
    Step.RESTORE: _waking(lambda s: _criu_opens(s, "/pages-1.img")),
    Step.BEFORE_RELEASE: _waking(lambda s: _keeper_opens(s, s.pod.uid, "/image/restore.exit")),
    Step.STOP: _stopping,
    Step.DELETE: _deleting,
}
