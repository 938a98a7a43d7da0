"""A container that is told more than once to go on with what came for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.api.keeper import PodState
from architect.api.policy import OnRestoreFailure
from architect.core.errors import FormatError, Rejected
from architect.shim.keeper import podstate
from architect.shim.keeper.loop import Task
from support.podworld import UID, Keeper, Tree, World, outside


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, trees={"app": Tree.hollow("app")})
    with outside(made):
        yield made


def run(keeper: Keeper, world: World, task: Task[None]) -> None:
    """Let everything end, and end well."""
    done = keeper.loop.spawn(task, name="test")
    while True:
        if keeper.loop.turn():
            continue
        working = [tree for tree in world.trees.values() if tree.criu]
        if not working:
            break
        world.end_criu(working[0], "done")
        keeper.told(working[0])
    done.result()


def test_who_went_on_and_sleeps_by_now_is_left_asleep(world: World) -> None:
    keeper, (tree,) = Keeper(world, OnRestoreFailure.FRESH), world.trees.values()
    run(keeper, world, keeper.pod.adopt("app"))
    assert tree.runs
    tree.memory += 1
    run(keeper, world, keeper.pod.sleep(reason="test", patience_seconds=0.0))
    # The runtime asks again if the first answer was lost. Nothing begins beside what sleeps.
    run(keeper, world, keeper.pod.adopt("app"))
    assert keeper.pod.state is PodState.ASLEEP
    assert tree.image is not None
    assert not tree.runs
    run(keeper, world, keeper.pod.wake(reason="test"))
    assert tree.runs


def test_for_whom_nothing_came_begins_afresh(world: World) -> None:
    keeper, (tree,) = Keeper(world, OnRestoreFailure.FRESH), world.trees.values()
    tree.come = None
    with pytest.raises(Rejected, match="nothing came"):
        run(keeper, world, keeper.pod.adopt("app"))
    assert tree.runs


def test_one_that_begins_afresh_wakes_those_that_came_asleep(world: World) -> None:
    bad = world.trees["bad"] = Tree.hollow("bad", is_bad=True)
    world.came_asleep = True
    keeper, tree = Keeper(world, OnRestoreFailure.FRESH), world.trees["app"]
    run(keeper, world, keeper.pod.adopt("app"))
    assert keeper.pod.state is PodState.ASLEEP
    with pytest.raises(FormatError, match="damaged"):
        run(keeper, world, keeper.pod.adopt("bad"))
    # A pod sleeps and wakes as one: else it would be saved without what runs.
    assert (bad.runs, tree.runs) == (True, True)
    assert podstate.read(UID).phase is PodState.AWAKE
