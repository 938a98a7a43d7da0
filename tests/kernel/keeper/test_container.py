"""Dump and restore of one container as the keeper does them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from architect.shim.keeper import processes
from architect.shim.keeper.loop import Future
from support.sleepers import Keeper, Sleeper, stopped

Make = Callable[..., Sleeper]


def test_a_tree_comes_back_with_memory_pids_and_cgroups(make: Make, keeper: Keeper) -> None:
    sleeper = make()
    before = sleeper.statuses()
    assert len(before) == 3
    for _ in range(3):
        keeper.run(sleeper.container.dump(keeper.loop, keeper.server))
        assert not sleeper.container.is_running()
        keeper.run(sleeper.container.restore(keeper.loop, keeper.server))
        assert sleeper.container.is_running()
        sleeper.goes_on()
        assert sleeper.statuses() == before
        sleeper.container.forget_image()


def test_a_restore_waits_until_init_has_reaped_the_dumped_tree(make: Make, keeper: Keeper) -> None:
    sleeper = make()
    container = sleeper.container

    def catch(dump: Future[None]) -> int:
        while True:
            _, pid = keeper.working("dump", of=dump)  # init has seen by now that it is asleep
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                if processes.is_alive(pid):
                    return pid

    dump, pid = keeper.caught(
        lambda: keeper.loop.spawn(container.dump(keeper.loop, keeper.server), name="dump"),
        catch,
        undo=lambda: keeper.run(container.restore(keeper.loop, keeper.server)),
    )
    with stopped(container.init().pid):
        os.kill(pid, signal.SIGCONT)
        keeper.until(dump)
        restore = keeper.loop.spawn(container.restore(keeper.loop, keeper.server), name="restore")
        for _ in range(50):
            keeper.turn()
        assert not restore.is_done
        assert not (sleeper.image / "restore.log").exists()
    keeper.until(restore)
    sleeper.goes_on()
