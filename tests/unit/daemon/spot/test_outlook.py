"""What is told of a node stands still while nothing of weight changes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from architect.core.obstacles import Obstacle
from architect.daemon.spot import outlook
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request, State
from support.spot import MIB, pods, requests

NODE = Request(
    deadline_seconds=25.0,
    cores=4,
    pods=(
        Pod(name="a/small", image_bytes=64 * MIB),
        Pod(name="a/large", image_bytes=64 << 30),
        Pod(name="a/there", image_bytes=MIB, state=State.STORED),
        Pod(name="a/odd", image_bytes=MIB, obstacle=Obstacle("PersistentVolume", "data stays")),
        Pod(name="a/young", image_bytes=MIB, obstacle=Obstacle("NotBegun", "has not run")),
    ),
)


def told(request: Request = NODE) -> dict[str, Any]:
    return outlook.annotation(outlook.look(request, notice_seconds=30.0))


def test_the_annotation_says_what_is_needed_and_who_is_lost() -> None:
    found = outlook.look(NODE, notice_seconds=30.0)
    assert (found.saved, found.stored) == (1, 1)
    assert told() == {
        "version": 1,
        "noticeSeconds": 30.0,
        "neededSeconds": told()["neededSeconds"],
        "limit": "upload",
        "pods": 2,
        "bytes": (64 << 30) + 64 * MIB,
        "misfits": {"PersistentVolume": 1, "TooLarge": 1},
    }
    assert 1000 < told()["neededSeconds"] < 10_000


def test_what_can_never_be_sent_has_no_seconds() -> None:
    found = told(replace(NODE, rates=Rates(upload_bytes_per_second=0)))
    assert (found["neededSeconds"], found["limit"]) == (None, None)
    assert outlook.is_news(found, told()) and outlook.is_news(told(), found)
    assert not outlook.is_news(found, dict(found))


@given(request=requests(pods()))
@settings(max_examples=25)
def test_whatever_there_is_can_be_written(request: Request) -> None:
    assert json.loads(json.dumps(told(request))) == told(request)


@given(request=requests(pods()))
@settings(max_examples=25)
def test_what_is_the_same_is_no_news(request: Request) -> None:
    assert outlook.is_same(request, request)
    assert outlook.is_same(request, replace(request, pods=request.pods[::-1]))
    assert not outlook.is_news(told(request), told(request))


def with_pod(**changes: Any) -> Request:
    return replace(NODE, pods=(replace(NODE.pods[0], **changes), *NODE.pods[1:]))


@pytest.mark.parametrize(
    "other",
    [
        with_pod(image_bytes=64 * MIB + outlook.SAME_BYTES),
        with_pod(stored_bytes=outlook.SAME_BYTES),
        replace(NODE, rates=replace(Rates(), upload_bytes_per_second=121e6 * 1.04)),
    ],
)
def test_what_drifts_changes_nothing(other: Request) -> None:
    assert outlook.is_same(NODE, other)
    assert not outlook.is_news(told(), told(other))


@pytest.mark.parametrize(
    "other",
    [
        with_pod(image_bytes=69 * MIB),
        with_pod(state=State.ASLEEP),
        with_pod(priority=1),
        with_pod(is_for_store=False),
        with_pod(obstacle=Obstacle("Fresh", "x")),
        replace(NODE, pods=NODE.pods[1:]),
        replace(NODE, deadline_seconds=115.0),
        replace(NODE, bounds=Bounds(captures=1)),
        replace(NODE, is_store_reachable=False),
        replace(NODE, cores=8),
        replace(NODE, rates=replace(Rates(), upload_bytes_per_second=121e6 * 1.1)),
    ],
)
def test_what_matters_is_planned_anew(other: Request) -> None:
    assert not outlook.is_same(NODE, other)


def test_news_are_who_is_lost_the_limit_and_more_than_a_little() -> None:
    now = told()
    assert outlook.is_news(None, now)
    for key, value in (
        ("misfits", {}),
        ("limit", "disk"),
        ("pods", 3),
        ("noticeSeconds", 120.0),
        ("neededSeconds", now["neededSeconds"] * 1.06),
        ("bytes", int(now["bytes"] * 1.06)),
    ):
        assert outlook.is_news(now, {**now, key: value}), key
    assert not outlook.is_news(now, {**now, "neededSeconds": now["neededSeconds"] + 2})
