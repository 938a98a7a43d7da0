"""A pod as kernel and disk have it: what no keeper's death changes, and what may not happen.

The keeper's own code (:mod:`architect.shim.keeper.pod` and what it is made of) runs in it, on a
loop whose time is counted and not waited for. Everything that it does to the outside is an
*effect*: a keeper can be killed before any of them, and CRIU, another process, goes on.

What is wrong whatever was asked is an AssertionError at the effect that does it:

- memory is dumped once at a time, and restored once: never while its tree runs, never when it has
  run since it was dumped, never after the pod was left to its successor;
- packets go in the order in which they came, and only where somebody is there for them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from architect.api import names
from architect.api.keeper import Event, PodState
from architect.api.policy import ContainerPolicy, OnRestoreFailure, Policy
from architect.core.errors import FormatError, NodeError
from architect.shim import record_files
from architect.shim.keeper import cpuquota, criu, images, podstate, processes, resuming, watches
from architect.shim.keeper.container import Container
from architect.shim.keeper.dumping import TreeLost
from architect.shim.keeper.loop import Future, Loop, Task, Timer
from architect.shim.keeper.moving import MovingPod
from architect.shim.keeper.network import PodNetwork
from architect.shim.keeper.recovery import Facts

UID = "uid"


class Killed(BaseException):
    """The keeper was killed at this effect."""


@dataclass
class Image:
    """What CRIU has completed."""

    memory: int
    """Which memory it holds: the number of things that the application had done."""
    is_restored: bool = False


@dataclass
class Tree:
    """One container."""

    name: str
    has_init: bool = True
    runs: bool = True
    memory: int = 0
    image: Image | None = None
    criu: str = ""
    """What CRIU is at: ``dump``, ``restore``, or nothing."""
    has_failed: bool = False
    """A restore of it has failed, or its memory was lost: it may be ended."""
    is_ended: bool = False
    """The keeper had it end, so that kubelet starts it anew."""
    come: Image | None = None
    """What came for it from its predecessor, and is not its own yet."""
    is_bad: bool = False
    """What came cannot be used."""
    is_newcomer: bool = False
    """Its image came from elsewhere, and has not run here."""
    is_ready: bool = True
    """It is in its Service: whoever sends it a packet may expect an answer."""

    @classmethod
    def hollow(cls, name: str, *, is_bad: bool = False) -> Tree:
        """Return a container that was created to go on with what came for it."""
        come = Image(0)
        return cls(name, runs=False, come=come, is_bad=is_bad, is_ready=False)

    def serves(self) -> bool:
        """Whether packets find somebody, or nobody expects that."""
        return self.runs or not self.has_init or self.has_failed or not self.is_ready

    def waits(self) -> bool:
        """Whether it begins nothing until it is told what to do with what came for it."""
        return self.has_init and self.come is not None


@dataclass
class World:
    """The outside of one pod."""

    directory: Path
    trees: dict[str, Tree] = field(default_factory=dict)
    is_holding: bool = False
    held: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    is_busy: bool = False
    is_disk_full: bool = False
    came_asleep: bool = False
    """What came is of a pod that slept."""
    has_left: bool = False
    """The pod is its successor's: nothing of it may ever run here again."""
    effects_left: int | None = None
    """After so many the keeper is killed."""
    has_defect: bool = False
    """The next look at a container after CRIU's work, if that has lost nothing, ends in an error
    that nobody thought of."""
    events: list[tuple[Event, dict[str, Any]]] = field(default_factory=list)

    def effect(self) -> None:
        """Count one; the keeper does not live to do it if it was the last."""
        if self.effects_left is not None:
            if not self.effects_left:
                raise Killed
            self.effects_left -= 1

    def arrive(self) -> None:
        """A packet comes from outside."""
        number = next(self.numbers)
        if self.is_holding:
            self.held.append(number)
        else:
            self._deliver(number)

    def release(self) -> int:
        """Let go what is held, in its order, and hold nothing more."""
        waiting, self.held = self.held, []
        self.is_holding = False
        for number in waiting:
            self._deliver(number)
        return len(waiting)

    def _deliver(self, number: int) -> None:
        assert not self.delivered or self.delivered[-1] < number, "a packet overtook another"
        assert all(tree.serves() for tree in self.trees.values()), "a packet finds nobody"
        self.delivered.append(number)

    def begin(self, tree: Tree, what: str) -> None:
        """Have CRIU begin *what*."""
        assert not any(each.criu for each in self.trees.values()), "CRIU works twice in one pod"
        assert not self.has_left, f"{what} of a pod that is its successor's"
        assert tree.has_init
        if what == "dump":
            assert tree.runs, "what does not run is dumped"
            tree.image = None  # its place is made empty first
        else:
            assert not tree.runs, "memory is restored beside itself"
            assert tree.image is not None, "there is nothing to restore"
            tree.image.is_restored = False
        tree.criu = what

    def end_criu(self, tree: Tree, outcome: str) -> None:
        """Have CRIU end: ``done``, ``failed``, or ``lost`` (a dump that took its tree along)."""
        what, tree.criu = tree.criu, ""
        if what == "dump":
            if outcome == "done":
                tree.image = Image(tree.memory)
            tree.runs = outcome == "failed"
            tree.has_failed = tree.has_failed or outcome == "lost"
        elif outcome == "done":
            assert tree.image is not None
            assert tree.image.memory == tree.memory, "old memory comes back"
            tree.image.is_restored = tree.runs = tree.is_ready = True
        else:
            tree.has_failed = True


class CountedLoop(Loop):
    """A loop whose time passes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self.now = 0.0

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        self.timers.append((self.now + seconds, next(self._count), timer))
        return timer

    def turn(self) -> bool:
        """Make one call that is due; whether there was one."""
        if not self._ready:
            return False
        self._ready.popleft()()
        return True

    def pass_time(self) -> bool:
        """Let time pass until the next timer; whether there was one."""
        self.timers = [entry for entry in self.timers if entry[2].callback is not None]
        if not self.timers:
            return False
        first = min(self.timers, key=lambda entry: entry[:2])
        self.timers.remove(first)
        self.now = first[0]
        assert first[2].callback is not None
        first[2].callback()
        return True


class _Container:
    """A container as one keeper has it in its hands."""

    is_of_other_criu = False

    def __init__(self, world: World, tree: Tree, keeper: Keeper) -> None:
        self._world, self._tree, self._keeper = world, tree, keeper
        self.name = tree.name
        self.directory = images.container_directory(UID, tree.name)
        self.is_hollow = not tree.is_ready or tree.come is not None
        self.record = SimpleNamespace(id=f"id-{tree.name}", hollow=self.is_hollow)
        self.policy = ContainerPolicy()

    def find_init(self) -> object | None:
        return object() if self._tree.has_init else None

    def is_starting(self) -> bool:
        return self._tree.waits()

    @property
    def has_come(self) -> bool:
        return self._tree.come is not None

    @property
    def is_newcomer(self) -> bool:
        return self._tree.is_newcomer

    def wait_for_init(self, loop: Loop) -> Task[None]:
        self._need_init()
        yield from ()

    def init(self) -> object:
        self._need_init()
        return SimpleNamespace(pid=1)

    def adopt(self, *, addresses: frozenset[str]) -> None:
        self._world.effect()
        if self._tree.is_bad:
            self._tree.has_failed = True
            raise FormatError("what came is damaged")
        assert self._tree.come is not None
        assert self._tree.image is None, "an image is written over"
        self._tree.image, self._tree.come = self._tree.come, None
        self._tree.is_newcomer = True

    def refuse_arrival(self) -> None:
        self._world.effect()
        self._tree.come = None

    def start_fresh(self) -> None:
        self._world.effect()
        assert self._tree.image is None, "it begins beside memory that is its own"
        assert self._tree.come is None, "it begins, and what came for it still waits"
        assert not self._tree.runs
        self._tree.runs = self._tree.is_ready = True
        self._tree.memory += 1

    def tree_root(self) -> int | None:
        return 1 if self._tree.runs else None

    def is_running(self) -> bool:
        image = self._tree.image
        return self._tree.runs and (image is None or image.is_restored)

    def cgroups(self) -> dict[str, Path]:
        return {}

    def exec_sessions(self) -> list[int]:
        return []

    def resident_bytes(self) -> int:
        return 0

    def facts(self) -> Facts:
        return Facts(
            is_init_alive=self._tree.has_init,
            is_starting=self.is_starting(),
            is_hollow=self.is_hollow,
            is_tree_alive=self._tree.has_init and self.is_running(),
            is_image_complete=self._tree.image is not None,
            is_criu_working=bool(self._tree.criu),
        )

    def _criu(self, what: str) -> Task[None]:
        self._world.effect()
        self._world.begin(self._tree, what)
        yield self._keeper.criu_ends(self._tree)
        self._world.effect()
        if self._world.has_defect and (self._tree.runs or self._tree.image is not None):
            self._world.has_defect = False
            raise ValueError("a name is no text")

    def find_watched(self, loop: Loop) -> Task[dict[watches.Inode, str]]:
        self._need_init()
        yield from ()
        return {}

    def refuse_removed(self, loop: Loop) -> Task[None]:
        self._need_init()
        yield from ()

    def dump(
        self,
        loop: Loop,
        server: criu.Server,
        *,
        watched: Mapping[watches.Inode, str] = watches.NOTHING,
        is_leaving: bool = False,
    ) -> Task[None]:
        self._need_init()
        yield from self._criu("dump")
        if self._tree.image is None:
            self._need_init()
            if not self._tree.runs:
                self._end()
                raise TreeLost("gone", container=self.name)
            raise NodeError("CRIU says no", reason="IoUring")

    def restore(self, loop: Loop, server: criu.Server) -> Task[None]:
        if self._tree.image is None:
            raise NodeError("there is no image", reason="ImageMissing")
        self._need_init()
        yield from self._criu("restore")
        if not self._tree.image.is_restored:
            raise NodeError("CRIU says no", reason="FileChanged")

    def _need_init(self) -> None:
        if not self._tree.has_init:
            raise NodeError(f"{self.name} has no living init", reason="ContainerGone")

    def note_return(self, *, addresses: frozenset[str]) -> None:
        self._world.effect()

    def mend_connections(self) -> None:
        self._world.effect()

    def leave_earlier(self, *, has_failed: bool) -> None:
        self._world.effect()
        self._tree.image = None

    def forget_image(self) -> None:
        self._world.effect()
        image = self._tree.image
        assert image is None or image.is_restored or self._tree.runs, "the only copy is removed"
        self._tree.image = None
        self._tree.is_newcomer = False

    def settle_awake(self) -> None:
        self._world.effect()
        if not self._tree.runs:
            self._end()

    def end(self, status: int) -> None:
        self._world.effect()
        self._end()

    end_with_tree = end

    def _end(self) -> None:
        if not self._tree.has_init:
            return
        assert self._tree.has_failed or self._world.has_left, f"{self.name} is ended for nothing"
        self._tree.has_init = self._tree.runs = False
        self._tree.is_ended = True

    def close(self) -> None:
        return


class _Network:
    """The network side of the pod, as one keeper has it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.on_wake: Callable[[str], None] = lambda _: None
        self.has_asked = False
        """Whether the packets that wait are looked at, for one that wants the pod awake."""

    held_packets = 0

    def hold(self, _: Sequence[Container]) -> None:
        self._world.effect()
        self._world.is_holding = True

    def busy(self, *, is_brief: bool = False) -> str | None:
        return "a conversation" if self._world.is_busy and not is_brief else None

    freeze = busy

    def cut(self) -> None:
        self._world.effect()

    def sleep(self, _: Sequence[Container]) -> None:
        self._world.effect()
        self.has_asked = True
        self.look_for_wake()

    def look_for_wake(self) -> None:
        if self.has_asked and self._world.held:
            self.on_wake("a packet")

    def prepare_wake(self) -> None:
        self._world.effect()
        self.has_asked = False

    def release(self) -> Task[int]:
        self._world.effect()
        self.has_asked = False
        count = self._world.release()
        yield from ()
        return count

    def release_now(self) -> None:
        self._world.effect()
        self.has_asked = False
        self._world.release()

    def fail(self, _: str) -> None:
        self._world.effect()

    def leave(self, _: Sequence[Container]) -> None:
        self._world.effect()
        self.has_asked = False
        self._world.held.clear()  # their senders get a reset

    def open(self, _: int | None) -> None:
        return

    def adopt(self, _: Sequence[Container], newcomer: Container) -> None:
        self._world.effect()
        self._world.is_holding = True
        self.has_asked = True
        self.look_for_wake()

    def resume_sleep(self, _: Sequence[Container], saved: object) -> None:
        self._world.effect()
        self._world.is_holding = True
        self.has_asked = True
        self.look_for_wake()

    def resume_awake(self, _: Sequence[Container], saved: object) -> None:
        self._world.effect()
        if self._world.has_left:
            self._world.held.clear()
        self._world.release()

    def state(self) -> dict[str, Any]:
        return {"holding": self._world.is_holding}

    def unready(self) -> tuple[str, ...]:
        return ()

    def addresses(self) -> frozenset[str]:
        return frozenset()

    def close(self) -> None:
        return


class _Pod(MovingPod):
    """Whose images are safe at once: nothing here loses its power."""

    def sync_in_background(self) -> Future[bool]:
        safe: Future[bool] = Future()
        safe.set_result(True)
        return safe

    def save_for_good(self) -> Future[None]:
        self.save()
        saved: Future[None] = Future()
        saved.set_result(None)
        return saved


class Keeper:
    """One life of the keeper."""

    def __init__(self, world: World, policy: OnRestoreFailure) -> None:
        self._world = world
        self.loop = CountedLoop()
        self.network = _Network(world)
        self._working: dict[str, Future[None]] = {}
        self.pod = _Pod(
            uid=UID,
            namespace="shop",
            name="web-0",
            policy=Policy(on_restore_failure=policy),
            loop=self.loop,
            server=cast(criu.Server, None),
            network=cast(PodNetwork, self.network),
            emit=lambda event, details: world.events.append((event, details)),
        )
        self.pod.volumes = cast(Any, SimpleNamespace())
        for tree in world.trees.values():
            self.register(tree)

    def register(self, tree: Tree, *, is_new: bool = False) -> None:
        """Take in a container, as :meth:`.Registry.register` does."""
        self.pod.refused = None
        self.pod.signalled.discard(tree.name)
        made = self.pod.containers[tree.name] = cast(Container, _Container(self._world, tree, self))
        if is_new:
            made.leave_earlier(has_failed=self.pod.state is PodState.FAILED)
            self.pod.begin_anew()

    def bury(self) -> None:
        """Let nothing that is still on its stacks reach the world: it was killed."""
        self.loop.close()
        nowhere = World(self._world.directory)
        self.network._world = nowhere
        self.pod.save = lambda: None  # type: ignore[method-assign]
        self.pod._emit = lambda *_: None
        for container in self.pod.containers.values():
            dead = cast(_Container, container)
            dead._world, dead._tree = nowhere, Tree(dead.name)

    def recover(self) -> None:
        """Pick up what an earlier keeper has left."""
        self.pod.recover(self.loop.spawn(resuming.resume(self.pod), name="recover"))

    def criu_ends(self, tree: Tree) -> Future[None]:
        """Return what is done when CRIU has ended its work on *tree*."""
        return self._working.setdefault(tree.name, Future())

    def told(self, tree: Tree) -> None:
        """Hear that CRIU has ended."""
        if (waiting := self._working.pop(tree.name, None)) is not None:
            waiting.set_result(None)


@contextlib.contextmanager
def outside(world: World) -> Iterator[None]:
    """Put *world* in the place of kernel and disk, for the ``with`` block."""
    write = podstate.write

    def write_down(uid: str, remembered: podstate.Remembered) -> None:
        world.effect()
        if world.is_disk_full:
            raise OSError(28, "No space left on device")
        write(uid, remembered)

    def set_aside(directory: Path) -> None:
        world.effect()
        tree = world.trees[directory.name]
        assert tree.has_failed or not tree.has_init, "an image that is good is given up"
        assert not tree.runs
        tree.image = None
        tree.is_newcomer = False

    patches: list[tuple[Any, str, Any]] = [
        (names, "STATE", world.directory),
        (names, "PODS", world.directory / "pods"),
        (names, "ARRIVALS", world.directory / "arrivals"),
        (record_files, "UNMANAGED", world.directory / "unmanaged"),
        (podstate, "write", write_down),
        (images, "set_aside", set_aside),
        (images, "size_bytes", lambda _: 0),
        (images, "free_bytes", lambda: 1 << 40),
        (images, "note_addresses", lambda *_: world.effect()),
        (images, "came_asleep", lambda _: world.came_asleep),
        (images, "keep_data", lambda _: world.effect()),
        (images, "is_complete", lambda directory: world.trees[directory.name].image is not None),
        (processes, "available_memory_bytes", lambda: 1 << 40),
        (cpuquota, "lifted", lambda *_: contextlib.nullcontext()),
    ]
    with contextlib.ExitStack() as stack:
        for module, name, value in patches:
            stack.enter_context(mock.patch.object(module, name, value))
        yield
