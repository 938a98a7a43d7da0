"""A pod that was saved leaves for good, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.api.keeper import PodState
from architect.api.policy import OnRestoreFailure
from architect.shim.keeper import podstate
from support.podworld import UID, Keeper, Tree, World, outside


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, trees={"app": Tree("app")})
    with outside(made):
        yield made


def run(keeper: Keeper, world: World) -> None:
    """Let everything end, and end well."""
    while True:
        if keeper.loop.turn():
            continue
        working = [tree for tree in world.trees.values() if tree.criu]
        if not working:
            return
        world.end_criu(working[0], "done")
        keeper.told(working[0])


def captured(world: World) -> Keeper:
    keeper = Keeper(world, OnRestoreFailure.FRESH)
    task = keeper.pod.capture(reason="test", patience_seconds=0.0)
    done = keeper.loop.spawn(task, name="capture")
    run(keeper, world)
    done.result()
    return keeper


def test_a_departure_is_known_to_the_next_keeper(world: World) -> None:
    keeper = captured(world)
    keeper.pod.depart(reason="test")
    keeper.bury()
    world.has_left = True
    after = Keeper(world, OnRestoreFailure.FRESH)
    after.recover()
    run(after, world)
    assert after.pod.state is PodState.CAPTURED


def test_a_departure_that_cannot_be_written_down_is_none(world: World) -> None:
    keeper = captured(world)
    world.is_disk_full = True
    world.arrive()
    with pytest.raises(OSError, match="No space left"):
        keeper.pod.depart(reason="test")
    # Nobody was told, and nothing was let go: it wakes as if nothing had been asked.
    assert keeper.pod.state is PodState.ASLEEP
    assert world.held == [0]
    assert podstate.read(UID).phase is PodState.ASLEEP
    woken = keeper.loop.spawn(keeper.pod.wake(reason="test"), name="wake")
    run(keeper, world)
    woken.result()
    assert world.delivered == [0]
