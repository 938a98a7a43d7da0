"""A pod through whatever may happen to it, against a model of what must hold.

Requests, packets, CRIU's ends, a full disk and the keeper's death come in any order and at any
effect. :mod:`support.podworld` has what may never be done; here is what must become of it all.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from architect.api.keeper import PodState
from architect.api.policy import OnRestoreFailure
from architect.core.errors import ArchitectError, Rejected
from architect.shim.keeper import podstate
from architect.shim.keeper.loop import Future, Task
from architect.shim.keeper.moving import MovingPod
from support.podworld import UID, Keeper, Killed, Tree, World, outside
from support.tiers import IS_LONG

STILL = (PodState.AWAKE, PodState.ASLEEP, PodState.FAILED, PodState.CAPTURED)
"""States in which nothing is under way."""
TURNS = 10_000
"""More than anything takes that ends."""


class PodMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.disable()
        self.patches = contextlib.ExitStack()
        self.asked: list[tuple[str, Future[Any]]] = []
        self.keeper: Keeper | None = None

    @initialize(
        containers=st.integers(1, 3),
        policy=st.sampled_from(OnRestoreFailure),
        ends_killed=st.booleans(),
        comes=st.sampled_from(["", "", "awake", "asleep"]),
        bad=st.integers(0, 5),
    )
    def a_pod_runs(
        self,
        containers: int,
        policy: OnRestoreFailure,
        ends_killed: bool,
        comes: str,
        bad: int,
    ) -> None:
        """One that has run, or one that comes with what its predecessor left."""
        self.world = World(Path(tempfile.mkdtemp(prefix="architect-pod-")))
        for number in range(containers):
            name = f"app{number}"
            hollow = Tree.hollow(name, is_bad=number == bad)
            self.world.trees[name] = hollow if comes else Tree(name)
        self.world.came_asleep = comes == "asleep"
        self.policy = policy
        self.ends_killed = ends_killed
        self.patches.enter_context(outside(self.world))
        self.keeper = Keeper(self.world, policy)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.all_comes_to_rest()
        finally:
            self.end_keeper()
            self.patches.close()
            logging.disable(logging.NOTSET)
            if hasattr(self, "world"):
                shutil.rmtree(self.world.directory)

    def end_keeper(self) -> None:
        if self.keeper is not None:
            self.keeper.bury()
            self.keeper = None
        self.asked.clear()

    @contextlib.contextmanager
    def alive(self) -> Any:
        """Run what the keeper does, which may be killed at it."""
        try:
            yield
        except Killed:
            self.end_keeper()
            self.world.effects_left = None

    @property
    def pod(self) -> MovingPod:
        assert self.keeper is not None
        return self.keeper.pod

    def has_keeper(self) -> bool:
        return self.keeper is not None

    # What is asked

    def ask(self, what: str, task: Task[Any]) -> None:
        assert self.keeper is not None
        with self.alive():
            self.asked.append((what, self.keeper.loop.spawn(task, name=what)))

    @precondition(has_keeper)
    @rule(is_forced=st.booleans(), is_patient=st.booleans())
    def sleep_is_asked(self, is_forced: bool, is_patient: bool) -> None:
        patience = 1e9 if is_patient else 0.0
        task = self.pod.sleep(reason="asked", patience_seconds=patience, is_forced=is_forced)
        is_known = self.pod._recovery is None or self.pod._recovery.is_done
        is_well = is_known and self.pod.state is not PodState.FAILED
        self.ask("sleep" if is_well else "sleep, perhaps", task)

    @precondition(has_keeper)
    @rule()
    def wake_is_asked(self) -> None:
        self.ask("wake", self.pod.wake(reason="asked"))

    @precondition(has_keeper)
    @rule()
    def capture_is_asked(self) -> None:
        self.ask("capture", self.pod.capture(reason="asked", patience_seconds=0.0))

    @precondition(has_keeper)
    @rule()
    def copy_is_asked(self) -> None:
        self.ask("copy", self.pod.copy(reason="asked", patience_seconds=0.0))

    @precondition(has_keeper)
    @rule()
    def the_copy_is_made(self) -> None:
        self.ask("go on", self.pod.go_on())

    def may_depart(self) -> bool:
        return self.keeper is not None and self.pod.is_leaving and not self.world.has_left

    @precondition(lambda self: self.keeper is not None and not self.world.has_left)
    @rule(is_full=st.booleans())
    def a_pod_is_saved_for_its_successor(self, is_full: bool) -> None:
        """All of it at once, as a daemon does it."""
        self.world.is_busy = False
        self.capture_is_asked()
        self.all_that_is_under_way_ends()
        self.world.is_disk_full = is_full
        if self.may_depart():
            self.departure_is_asked()

    @precondition(may_depart)
    @rule()
    def departure_is_asked(self) -> None:
        with self.alive():
            try:
                self.pod.depart(reason="asked")
            except (ArchitectError, OSError):
                assert self.pod.state is not PodState.CAPTURED
                return
            # From here on the successor may run.
            self.world.has_left = True
        if self.keeper is None:
            # Killed at it: who asked asks the next one, which says what was written.
            self.world.has_left = self.written() is PodState.CAPTURED

    @precondition(has_keeper)
    @rule(data=st.data())
    def a_signal_goes_to_a_container(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.trees)))
        with self.alive():
            if self.pod.end_captured(f"id-{name}"):
                assert self.world.has_left
            else:
                self.pod.note_signal(f"id-{name}")

    def to_come(self) -> list[str]:
        """Containers of which the runtime has not heard yet that they go on."""
        return sorted(
            tree.name for tree in self.world.trees.values() if tree.has_init and not tree.is_ready
        )

    @precondition(lambda self: self.keeper is not None and self.to_come())
    @rule(data=st.data())
    def the_runtime_starts_a_container(self, data: st.DataObject) -> None:
        self.adopt(self.world.trees[data.draw(st.sampled_from(self.to_come()))])

    def adopt(self, tree: Tree) -> None:
        def adopted() -> Task[None]:
            yield from self.pod.adopt(tree.name)
            tree.is_ready = True

        self.ask("adopt", adopted())

    # What happens

    @rule()
    def a_packet_comes(self) -> None:
        if self.world.has_left:
            return
        self.world.arrive()
        if self.keeper is not None:
            with self.alive():
                self.keeper.network.look_for_wake()

    @precondition(lambda self: any(tree.criu for tree in self.world.trees.values()))
    @rule(outcome=st.sampled_from(["done", "done", "failed", "lost"]))
    def criu_ends(self, outcome: str) -> None:
        (tree,) = [tree for tree in self.world.trees.values() if tree.criu]
        self.world.end_criu(tree, outcome)
        if self.keeper is not None:
            with self.alive():
                self.keeper.told(tree)

    @rule()
    def the_application_works(self) -> None:
        for tree in self.world.trees.values():
            if tree.runs and not tree.criu:
                tree.memory += 1

    @precondition(lambda self: any(tree.runs for tree in self.world.trees.values()))
    @rule(data=st.data())
    def an_application_ends(self, data: st.DataObject) -> None:
        able = [t.name for t in self.world.trees.values() if t.runs and not t.criu]
        if able:
            tree = self.world.trees[data.draw(st.sampled_from(able))]
            tree.runs = tree.has_init = False

    @precondition(lambda self: any(not t.runs and not t.criu for t in self.world.trees.values()))
    @rule(data=st.data())
    def the_init_of_a_sleeping_container_is_killed(self, data: st.DataObject) -> None:
        able = [
            t.name
            for t in self.world.trees.values()
            if t.has_init and t.image is not None and not t.runs and not t.criu
        ]
        if able:
            self.world.trees[data.draw(st.sampled_from(able))].has_init = False

    def ended(self) -> list[str]:
        return sorted(t.name for t in self.world.trees.values() if not t.has_init)

    @precondition(
        lambda self: (
            self.keeper is not None
            and self.ended()
            and self.pod.state is PodState.AWAKE
            and not self.world.has_left
        )
    )
    @rule(data=st.data())
    def kubelet_starts_a_container_anew(self, data: st.DataObject) -> None:
        """One that has ended, with no memory of what was before."""
        tree = self.world.trees[data.draw(st.sampled_from(self.ended()))]
        if tree.criu or tree.come is not None:
            return
        tree.memory += 1
        tree.has_init = tree.runs = tree.is_ready = True
        tree.has_failed = tree.is_newcomer = False
        assert self.keeper is not None
        with self.alive():
            self.keeper.register(tree, is_new=True)

    @rule(is_busy=st.booleans())
    def conversations_come_and_go(self, is_busy: bool) -> None:
        self.world.is_busy = is_busy

    @rule()
    def the_keeper_has_a_defect(self) -> None:
        self.world.has_defect = True

    @rule(is_full=st.booleans())
    def the_disk_is_full_or_not(self, is_full: bool) -> None:
        self.world.is_disk_full = is_full

    @precondition(has_keeper)
    @rule(turns=st.integers(1, 8))
    def the_keeper_goes_on(self, turns: int) -> None:
        assert self.keeper is not None
        with self.alive():
            for _ in range(turns):
                self.keeper.loop.turn()

    @precondition(has_keeper)
    @rule()
    def all_that_is_under_way_ends(self) -> None:
        with self.alive():
            self.run_out()

    @precondition(has_keeper)
    @rule()
    def time_passes(self) -> None:
        assert self.keeper is not None
        with self.alive():
            self.keeper.loop.pass_time()

    @precondition(has_keeper)
    @rule()
    def the_keeper_is_killed(self) -> None:
        self.end_keeper()

    @precondition(has_keeper)
    @rule(effects=st.integers(0, 12))
    def the_keeper_will_be_killed(self, effects: int) -> None:
        self.world.effects_left = effects

    @precondition(lambda self: self.keeper is None)
    @rule()
    def a_keeper_starts(self) -> None:
        self.world.effects_left = None
        self.keeper = Keeper(self.world, self.policy)
        self.keeper.recover()

    # What must hold

    @invariant()
    def every_answer_is_true(self) -> None:
        left = []
        for what, answer in self.asked:
            if not answer.is_done:
                left.append((what, answer))
                continue
            try:
                answer.result()
            except Rejected as error:
                # Who sleeps already, or falls asleep, is not said to be broken.
                assert what != "sleep" or error.reason != "RestoreFailed"
            except (ArchitectError, OSError):
                pass
        self.asked = left

    @invariant()
    def what_left_does_not_run(self) -> None:
        if hasattr(self, "world") and self.world.has_left:
            assert not any(tree.runs for tree in self.world.trees.values())
            assert self.keeper is None or self.pod.state in (PodState.CAPTURED, PodState.AWAKE)

    @invariant()
    def packets_wait_where_memory_is_not_there(self) -> None:
        if not hasattr(self, "world") or self.world.has_left:
            return
        if not all(tree.serves() for tree in self.world.trees.values()):
            assert self.world.is_holding

    def all_comes_to_rest(self) -> None:
        """With nothing more in the way, everything ends, and is what it should be."""
        self.world.effects_left = None
        if self.ends_killed:
            self.end_keeper()
        self.world.is_disk_full = self.world.is_busy = self.world.has_defect = False
        if self.keeper is None:
            self.a_keeper_starts()
        self.run_out()
        for name in self.to_come():  # the runtime asks again whom it has not heard
            self.adopt(self.world.trees[name])
            self.run_out()
        if self.pod.copying is not None:  # whoever copies it, ends
            self.ask("go on", self.pod.go_on())
            self.run_out()
        assert not self.asked, f"unanswered: {[what for what, _ in self.asked]}"
        assert self.pod.state in STILL
        self.everything_agrees()
        self.wakes_if_asked()

    def run_out(self) -> None:
        """Let all that is under way end, and end well; what waits for a conversation may not."""
        for _ in range(TURNS):
            self.every_answer_is_true()
            if self.keeper is None:
                return
            if self.keeper.loop.turn():
                continue
            if any(tree.criu for tree in self.world.trees.values()):
                self.criu_ends("done")
            elif not self.keeper.loop.pass_time():
                return
        assert self.world.is_busy, "it comes to no end"

    def everything_agrees(self) -> None:
        state, trees = self.pod.state, list(self.world.trees.values())
        # Who waits for somebody to look, as its policy wants it, is not there yet.
        living = [tree for tree in trees if tree.has_init and not tree.waits()]
        for tree in trees:
            is_to_wait = tree.is_bad and self.policy is not OnRestoreFailure.FRESH
            assert not tree.waits() or is_to_wait, "what came is not taken"
        for tree in living:
            assert tree.runs or tree.image is not None, "memory is lost, and nobody ends it"
        if state is PodState.AWAKE:
            assert all(tree.runs for tree in living)
            assert not any(tree.image for tree in living), "memory that runs is kept"
            assert not self.world.is_holding
            assert not self.world.held
        elif state in (PodState.ASLEEP, PodState.FAILED):
            assert self.world.is_holding
            # Of one whose wake failed, some may have come back.
            assert state is PodState.FAILED or not any(tree.runs for tree in trees)
        if state is PodState.ASLEEP and not self.pod.is_leaving:
            assert not self.world.held, "packets wait, and nobody wakes it"
        assert (state is PodState.CAPTURED) == self.world.has_left

    def wakes_if_asked(self) -> None:
        """Nothing that went before keeps it from its memory."""
        if self.world.has_left:
            return
        self.ask("wake", self.pod.wake(reason="the end"))
        self.run_out()
        assert self.pod.state is PodState.AWAKE
        self.everything_agrees()

    @staticmethod
    def written() -> PodState | None:
        try:
            return podstate.read(UID).phase
        except FileNotFoundError:
            return None


@pytest.mark.long  # what it finds depends on the order of sets, which differs from run to run
def test_a_pod_keeps_its_promises_whatever_happens() -> None:
    run_state_machine_as_test(
        PodMachine,
        settings=settings(
            max_examples=2000 if IS_LONG else 200,
            stateful_step_count=50,
            deadline=None,
        ),
    )
