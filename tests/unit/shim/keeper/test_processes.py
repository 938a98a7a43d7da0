from __future__ import annotations

import errno
import os
import subprocess

import pytest

from architect.shim import procfs
from architect.shim.keeper import processes, tracers


def test_a_tree_may_be_deeper_than_our_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "children", lambda pid: [pid + 1] if pid < 5000 else [])
    assert list(processes.tree(1)) == list(range(1, 5001))


def test_parents_come_before_their_children(monkeypatch: pytest.MonkeyPatch) -> None:
    below = {1: [2, 5], 2: [3, 4], 5: [6]}
    monkeypatch.setattr(processes, "children", lambda pid: below.get(pid, []))
    assert list(processes.tree(1)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH])
def test_what_ends_while_it_is_looked_at_has_no_children(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # ENOENT: before its directory was opened; ESRCH: before that was read.
    def ends(path: str) -> list[str]:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "listdir", ends)
    assert processes.children(4711) == []
    assert list(processes.tree(4711)) == [4711]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH, errno.EACCES])
def test_of_what_ends_while_its_links_are_read_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # EACCES: the kernel cannot ask whether we may any more.
    own = os.getpid()

    def ends(path: str) -> str:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "readlink", ends)
    monkeypatch.setattr(os, "stat", ends)
    assert processes.stdio_pipes(own) == {}
    assert processes.socket_inodes([own]) == set()
    assert processes.pid_namespace(own) is None
    assert tracers.held(own) == 0


def test_who_has_ended_is_ending_until_somebody_has_waited_for_it_and_then() -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert not procfs.is_ending(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.is_ending(child.pid)
    child.communicate()
    assert procfs.is_ending(child.pid)
