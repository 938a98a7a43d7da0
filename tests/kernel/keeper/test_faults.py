"""Whoever is killed in the middle of a dump or a restore: it converges, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from architect.api.keeper import PodState
from architect.core.errors import NodeError
from architect.shim.keeper import criu, dumping, images, processes, recovery, restoring
from architect.shim.keeper.loop import Future
from architect.shim.keeper.recovery import Recovery
from support import runtime
from support.sleepers import Keeper, Missed, Sleeper, stopped

Make = Callable[..., Sleeper]


def begin_dump(keeper: Keeper, sleeper: Sleeper) -> Future[None]:
    return keeper.loop.spawn(sleeper.container.dump(keeper.loop, keeper.server), name="dump")


def begin_restore(keeper: Keeper, sleeper: Sleeper) -> Future[None]:
    return keeper.loop.spawn(sleeper.container.restore(keeper.loop, keeper.server), name="restore")


def dump(keeper: Keeper, sleeper: Sleeper) -> None:
    keeper.until(begin_dump(keeper, sleeper))


def restore(keeper: Keeper, sleeper: Sleeper) -> None:
    keeper.until(begin_restore(keeper, sleeper))


def kill_server(keeper: Keeper) -> None:
    pid = keeper.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    keeper.turn_until(lambda: keeper.server.pid is None, what="the server's end")


def half_a_tree(
    keeper: Keeper, sleeper: Sleeper, *, also: Callable[[], object] = lambda: True
) -> tuple[Future[None], int, int]:
    """Begin a restore, and stop it when CRIU has children of its own.

    Return the restore and the pids of the supervisor and of its CRIU. *also*: what must hold
    besides.
    """

    def catch(work: Future[None]) -> tuple[int, int]:
        while True:
            supervisor, pid = keeper.working("restore", of=work)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                if processes.children(pid) and also():
                    return supervisor, pid
                os.kill(pid, signal.SIGCONT)

    work, (supervisor, pid) = keeper.caught(
        lambda: begin_restore(keeper, sleeper), catch, undo=lambda: dump(keeper, sleeper)
    )
    return work, supervisor, pid


def half_a_dump(
    keeper: Keeper, sleeper: Sleeper, *, when: Callable[[], bool] = lambda: True
) -> tuple[Future[None], int, int]:
    """Begin a dump, and stop its CRIU once *when* holds.

    Return the dump and the pids of the supervisor and of CRIU.
    """

    def catch(work: Future[None]) -> tuple[int, int]:
        while True:
            supervisor, pid = keeper.working("dump", of=work)
            keeper.turn_until(lambda: work.is_done or when(), what="the moment to stop it")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                if not work.is_done and processes.is_alive(pid):
                    return supervisor, pid

    work, (supervisor, pid) = keeper.caught(
        lambda: begin_dump(keeper, sleeper), catch, undo=lambda: restore(keeper, sleeper)
    )
    return work, supervisor, pid


@pytest.mark.parametrize("whom", ["server", "server and supervisor"])
def test_a_dump_that_nobody_reports_has_succeeded(make: Make, keeper: Keeper, whom: str) -> None:
    sleeper = make(mebibytes=16)
    work, supervisor, pid = half_a_dump(keeper, sleeper)
    with stopped(pid):
        if whom != "server":
            os.kill(supervisor, signal.SIGKILL)
        kill_server(keeper)
        for _ in range(5):
            keeper.turn()
        assert not work.is_done
        assert criu.is_working(sleeper.image)
    keeper.until(work)
    assert not sleeper.container.is_running()
    restore(keeper, sleeper)
    sleeper.goes_on()


def test_a_request_is_not_sent_to_a_server_that_only_its_supervisors_outlive(
    make: Make, keeper: Keeper
) -> None:
    slow, other = make(), make()
    first, _, pid = half_a_dump(keeper, slow)
    with stopped(pid):
        kill_server(keeper)
        dump(keeper, other)
        restore(keeper, other)
        assert not first.is_done
    keeper.until(first)
    other.goes_on()


def test_a_killed_dump_leaves_the_application_running(make: Make, keeper: Keeper) -> None:
    sleeper = make(mebibytes=256)
    work, _, pid = half_a_dump(keeper, sleeper, when=sleeper.has_written_pages)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(NodeError) as raised:
        keeper.until(work)
    assert raised.value.reason == "CriuKilled"
    sleeper.goes_on()
    dump(keeper, sleeper)
    restore(keeper, sleeper)
    sleeper.goes_on()


@pytest.mark.parametrize("turns", range(5))
def test_a_dump_killed_anywhere_leaves_the_truth(make: Make, keeper: Keeper, turns: int) -> None:
    sleeper = make(mebibytes=16)
    work = begin_dump(keeper, sleeper)
    with contextlib.suppress(Missed, ProcessLookupError):  # it has done all by now
        _, pid = keeper.working("dump", of=work)
        for _ in range(turns):
            keeper.loop.run_once(at_most_seconds=0.002)
        os.kill(pid, signal.SIGKILL)
    try:
        keeper.until(work)
    except dumping.TreeLost:
        # Killed while the application ran CRIU's code: it ends, and its container with it.
        assert sleeper.real.wait() != 0
    except NodeError as error:
        assert error.reason == "CriuKilled"
        try:
            sleeper.goes_on()
        except EOFError:
            # As above, but it was still on its way out of CRIU's code when it was looked at.
            assert sleeper.real.wait() != 0
    else:
        restore(keeper, sleeper)
        sleeper.goes_on()


def test_a_dump_that_takes_too_long_is_ended(
    make: Make, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumping, "DUMP_LIMIT_SECONDS", 3.0)
    sleeper = make(mebibytes=256)
    work, _, _ = half_a_dump(keeper, sleeper, when=sleeper.has_written_pages)
    with pytest.raises(NodeError) as raised:
        keeper.until(work)
    assert raised.value.reason == "Timeout"
    assert not criu.is_working(sleeper.image)
    sleeper.goes_on()


def test_an_application_that_ends_before_its_dump_is_not_called_lost(
    make: Make, keeper: Keeper
) -> None:
    sleeper = make()
    keeper.server.prepare()
    assert keeper.server.pid is not None
    with stopped(keeper.server.pid):
        work = begin_dump(keeper, sleeper)
        _, application, _ = sleeper.tree()
        keeper.turn_until(lambda: criu.is_working(sleeper.image), what="the request")
        os.kill(application, signal.SIGTERM)
        keeper.turn_until(lambda: sleeper.container.tree_root() is None, what="the tree's end")
    with pytest.raises(NodeError) as raised:
        keeper.until(work)
    assert raised.value.reason == "NotRunning"
    assert sleeper.real.wait() == 128 + signal.SIGTERM


def test_a_tree_without_an_image_ends_its_container_and_is_called_lost(
    make: Make, keeper: Keeper
) -> None:
    sleeper = make()
    keeper.server.prepare()
    assert keeper.server.pid is not None
    with stopped(keeper.server.pid):
        work = begin_dump(keeper, sleeper)
        keeper.turn_until(lambda: criu.is_working(sleeper.image), what="the request")
        os.kill(sleeper.tree()[0], signal.SIGKILL)
    with pytest.raises(dumping.TreeLost) as raised:
        keeper.until(work)
    assert raised.value.reason == "ImageLost"
    assert raised.value.container == sleeper.container.name
    assert sleeper.real.wait() == 128 + signal.SIGKILL


@pytest.mark.parametrize("whom", ["server", "server and supervisor"])
def test_a_restore_that_nobody_reports_has_succeeded(make: Make, keeper: Keeper, whom: str) -> None:
    sleeper = make(mebibytes=16)
    dump(keeper, sleeper)
    work, supervisor, pid = half_a_tree(keeper, sleeper)
    if whom != "server":
        os.kill(supervisor, signal.SIGKILL)
    kill_server(keeper)
    for _ in range(5):
        keeper.turn()
    assert not work.is_done
    os.kill(pid, signal.SIGCONT)
    keeper.until(work)
    sleeper.goes_on()


@pytest.mark.parametrize("whom", ["criu", "all"])
def test_a_restore_cut_in_the_middle_is_done_again(make: Make, keeper: Keeper, whom: str) -> None:
    sleeper = make(mebibytes=16)
    dump(keeper, sleeper)
    work, supervisor, pid = half_a_tree(keeper, sleeper)
    for child in processes.children(pid):
        os.kill(child, signal.SIGSTOP)  # it keeps what it has of CRIU, the lock on the image too
    if whom == "all":
        os.kill(supervisor, signal.SIGKILL)
        kill_server(keeper)
    os.kill(pid, signal.SIGKILL)
    keeper.until(work)
    sleeper.goes_on()
    assert len(sleeper.tree()) == 3
    assert len(sleeper.everything()) == 4


REMOVED = """
import os
kept = open('/tmp/kept', 'w')
os.unlink('/tmp/kept')
"""


def test_a_removed_file_that_a_cut_restore_has_made_does_not_stop_the_next_one(
    make: Make, keeper: Keeper
) -> None:
    sleeper = make(mebibytes=64, before=REMOVED)
    dump(keeper, sleeper)
    directory = Path(f"/proc/{sleeper.container.init().pid}/root/tmp")
    work, _, pid = half_a_tree(keeper, sleeper, also=lambda: list(directory.glob("kept*")))
    os.kill(pid, signal.SIGKILL)
    keeper.until(work)
    sleeper.goes_on()
    assert list(directory.glob("kept*")) == []


def test_a_restore_that_takes_too_long_leaves_no_half_tree(
    make: Make, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = make(mebibytes=16)
    dump(keeper, sleeper)
    with monkeypatch.context() as patch:
        patch.setattr(restoring, "RESTORE_LIMIT_SECONDS", 3.0)
        work, _, _ = half_a_tree(keeper, sleeper)
        with pytest.raises(NodeError) as raised:
            keeper.until(work)
    assert raised.value.reason == "Timeout"
    assert sleeper.everything() == [sleeper.container.init().pid]
    assert images.is_complete(sleeper.container.directory)
    restore(keeper, sleeper)
    sleeper.goes_on()


def test_a_new_keeper_does_not_take_half_a_tree_for_a_running_one(
    make: Make, keeper: Keeper
) -> None:
    sleeper = make(mebibytes=16)
    dump(keeper, sleeper)
    _, supervisor, pid = half_a_tree(keeper, sleeper)
    seen = sleeper.seen()
    assert recovery.decide(PodState.WAKING, [seen.facts()]) is Recovery.WAIT
    os.kill(supervisor, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    # The first keeper does nothing from here on.
    runtime.eventually(lambda: not seen.is_criu_working(), what="the end of CRIU")
    assert recovery.decide(PodState.WAKING, [seen.facts()]) is Recovery.FINISH_WAKE
    sleeper.container.close()
    sleeper.container = seen
    restore(keeper.again(), sleeper)
    sleeper.goes_on()
    assert len(sleeper.everything()) == 4
    assert recovery.decide(PodState.WAKING, [seen.facts()]) is Recovery.AWAKE
