"""What a node needs, and what limits it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings

from architect.core.obstacles import Obstacle
from architect.daemon.spot import planner
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request, State
from architect.daemon.spot.need import Limit, Need, need
from support.spot import MIB, pods, requests, saved

FAST = Rates(
    capture_fixed_seconds=0.0,
    dump_bytes_per_second_per_core=1e12,
    hash_bytes_per_second_per_core=1e12,
    disk_bytes_per_second=1e12,
    seal_bytes_per_second_per_core=1e12,
    upload_bytes_per_second=1e12,
    upload_object_seconds=0.0,
)


def node(*pods: Pod, rates: Rates = FAST) -> Request:
    return Request(
        deadline_seconds=25.0, pods=pods, cores=64, rates=rates, bounds=Bounds(captures=4)
    )


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("dump_bytes_per_second_per_core", 50e6, Limit.DUMP),
        ("disk_bytes_per_second", 50e6, Limit.DISK),
        ("seal_bytes_per_second_per_core", 50e6, Limit.SEALING),
        ("hash_bytes_per_second_per_core", 50e6, Limit.SEALING),
        ("upload_bytes_per_second", 50e6, Limit.UPLOAD),
        ("capture_fixed_seconds", 5.0, Limit.CAPTURES),
        ("upload_object_seconds", 1.0, Limit.OBJECTS),
    ],
)
def test_what_is_slow_is_what_limits(name: str, value: float, limit: Limit) -> None:
    pods_of_it = [Pod(name=f"p{n}", image_bytes=256 * MIB) for n in range(8)]
    found = need(node(*pods_of_it, rates=replace(FAST, **{name: value})))
    assert found.limit is limit
    assert (found.pods, found.bytes) == (8, 2048 * MIB)


def test_only_who_can_be_saved_and_is_not_counts() -> None:
    hindered = Pod(name="a", image_bytes=MIB, obstacle=Obstacle("DaemonSet", "stays"))
    kept = Pod(name="b", image_bytes=MIB, is_for_store=False)
    there = Pod(name="c", image_bytes=MIB, state=State.STORED)
    assert need(node(hindered, kept, there)) == Need(seconds=0.0, limit=None, pods=0, bytes=0)
    assert need(node()) == Need(seconds=0.0, limit=None, pods=0, bytes=0)


def test_at_no_rate_it_would_take_for_ever() -> None:
    found = need(node(Pod(name="a", image_bytes=MIB), rates=Rates(upload_bytes_per_second=0)))
    assert found == Need(seconds=None, limit=None, pods=1, bytes=MIB)


@given(request=requests(pods()))
@settings(max_examples=25)
def test_within_what_it_needs_a_node_saves_everybody_who_can_be_saved(request):
    found = need(request)
    assert found.seconds is not None
    plan = planner.plan(replace(request, deadline_seconds=found.seconds))
    assert len(saved(plan)) == found.pods
    sooner = replace(request, deadline_seconds=math.nextafter(found.seconds, -math.inf))
    assert found.pods == 0 or len(saved(planner.plan(sooner))) < found.pods


@given(request=requests(pods()))
@settings(max_examples=25)
def test_the_deadline_and_the_stores_silence_mean_nothing(request):
    other = replace(request, deadline_seconds=-7.0, is_store_reachable=False)
    assert need(request) == need(other)
