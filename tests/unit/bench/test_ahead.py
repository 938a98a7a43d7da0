"""The table of a copy ahead, and who asks the applications meanwhile."""

from __future__ import annotations

import socket
import time

import pytest

from bench import ahead, aheadapps
from bench.ahead import Row
from bench.aheadapps import Asking


def row() -> Row:
    return Row(
        name="web",
        text="a server",
        mib=255.6,
        seconds=60.0,
        still_seconds=(3.0, 2.04),
        longest_answer_seconds=2.5,
        dump_processor_seconds=0.4,
        seal_processor_seconds=0.55,
        sealed_mib=110.2,
        same=dict.fromkeys(ahead.CUTS, 0.5) | {"shards": 0.0, "pages": 0.9949},
    )


def test_a_row_has_a_cell_for_each_cut() -> None:
    head, rule, line = ahead.table([row()]).splitlines()
    assert {text.count("|") for text in (head, rule, line)} == {6 + len(ahead.CUTS)}
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert (cells["8 MiB"], cells["pages"]) == ("0 %", "99 %")
    assert (cells["MiB"], cells["stood still"], cells["processor"]) == ("256", "2.0 s", "1.0 s")


def test_applications_have_names_of_their_own() -> None:
    assert len({app.name for app in aheadapps.APPS}) == len(aheadapps.APPS)
    assert len({app.text for app in aheadapps.APPS}) == len(aheadapps.APPS)


def test_the_longest_answer_is_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        waits = iter([0.0, 0.3])

        def ask(_: socket.socket) -> None:
            time.sleep(next(waits, 0.0))

        asking = Asking(ours, ask)
        asking.start()
        while asking.asked < 3:
            time.sleep(0.01)
        asking.end()
    assert asking.longest_seconds >= 0.3


def test_what_ended_it_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def ask(_: socket.socket) -> None:
            raise OSError("it is gone")

        asking = Asking(ours, ask)
        asking.start()
        asking.join()
        with pytest.raises(OSError, match="it is gone"):
            asking.end()
