"""A plan as a table: word for word."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from architect.core.obstacles import Obstacle
from architect.daemon.spot import planner, table
from architect.daemon.spot.inputs import Pod, Rates, Request, State
from architect.daemon.spot.need import need
from architect.daemon.spot.remedies import Remedy, remedies

MIB, GIB = 1 << 20, 1 << 30
PODS = (
    Pod(name="shop/db-0", image_bytes=2 * GIB, priority=1000),
    Pod(name="shop/cache", image_bytes=3 * GIB, stored_bytes=2900 * MIB, priority=1000),
    Pod(name="shop/model", image_bytes=64 * GIB, priority=500),
    Pod(name="shop/web-1", image_bytes=64 * MIB),
    Pod(name="shop/web-2", image_bytes=64 * MIB, state=State.ASLEEP),
    Pod(name="shop/web-3", image_bytes=64 * MIB, state=State.STORED),
    Pod(name="shop/batch", image_bytes=4 * GIB, priority=-10),
    Pod(name="shop/files", image_bytes=GIB, obstacle=Obstacle("PersistentVolume", "volume data")),
    Pod(name="shop/local", image_bytes=GIB, is_for_store=False),
)
REQUEST = Request(
    deadline_seconds=115.0, pods=PODS, cores=16, rates=Rates(upload_bytes_per_second=60e6)
)


def told(request: Request) -> str:
    plan = planner.plan(request)
    return table.text("worker-1", request, plan, need(request), remedies(request, plan))


GOLDEN = {
    "mixed": REQUEST,
    "empty": replace(REQUEST, pods=(), deadline_seconds=math.inf),
    "still": replace(REQUEST, pods=PODS[:1], rates=Rates(upload_bytes_per_second=0.0)),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_whole_table(name: str) -> None:
    expected = (Path(__file__).parent / f"table-{name}.txt").read_text(encoding="utf-8")
    assert told(GOLDEN[name]) == expected


def test_a_node_whose_time_is_over() -> None:
    request = replace(REQUEST, pods=PODS[:1], deadline_seconds=-3.0)
    assert told(request).startswith("node worker-1: no time is left; its pod (2.0 GiB) would take ")


@pytest.mark.parametrize(
    ("remedy", "said"),
    [
        (
            Remedy(seconds_more=40.01, upload_factor=1.9, pods_fewer=2),
            "needs 41 s more, or 1.9 times the upload rate, or 2 pods fewer before it",
        ),
        (Remedy(seconds_more=0.04, pods_fewer=1), "needs 0.1 s more, or 1 pod fewer before it"),
        (Remedy(upload_factor=12.0), "needs 12 times the upload rate"),
        (Remedy(), "neither time nor upload rate would help"),
    ],
)
def test_what_would_help_is_told_in_words(remedy: Remedy, said: str) -> None:
    assert table.remedy_text(remedy) == said
