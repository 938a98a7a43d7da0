from __future__ import annotations

import errno
import os

import pytest

from architect.shim.keeper import processes


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
