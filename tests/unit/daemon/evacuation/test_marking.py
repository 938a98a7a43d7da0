"""The node's object is made to say what is wanted, sooner or later."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import Unavailable
from architect.core.interruption import Interruption
from architect.daemon.evacuation import marking
from architect.daemon.evacuation.marking import Marking
from architect.kube.api import Api
from support.runtime import eventually

PATH = "/api/v1/nodes/node1"
SAID = Interruption(
    kind="interruption",
    source="gcp",
    ends=datetime.datetime(2026, 12, 1, 10, tzinfo=datetime.UTC),
    uncordon=False,
)


@pytest.fixture
def wanting(
    cluster: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, Marking]]:
    monkeypatch.setattr(marking, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(marking, "MAX_SECONDS", 0.05)
    node = {
        **{"apiVersion": "v1", "kind": "Node"},
        "metadata": {"name": "node1", "uid": "node-uid"},
        "spec": {"taints": [{"key": "theirs", "effect": "NoSchedule"}]},
    }
    cluster.put(PATH, node)
    made, stop = Marking(api, node="node1"), threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,), daemon=True)
    thread.start()
    yield cluster, made
    stop.set()
    made.close()
    thread.join(20)
    assert not thread.is_alive()


def spec(cluster: Any) -> Any:
    return cluster.objects[PATH]["spec"]


def test_it_is_marked_and_as_before_again(wanting: tuple[Any, Marking]) -> None:
    cluster, made = wanting
    assert made.was_marked() is False
    made.want(SAID)
    eventually(lambda: spec(cluster).get("unschedulable"), what="the node is cordoned")
    assert [t["key"] for t in spec(cluster)["taints"]] == ["theirs", names.INTERRUPTION]
    assert made.was_marked() is True
    made.want(None)
    eventually(lambda: not spec(cluster).get("unschedulable"), what="it is not any more")
    assert [t["key"] for t in spec(cluster)["taints"]] == ["theirs"]


def test_an_api_server_that_is_away_is_tried_again(wanting: tuple[Any, Marking]) -> None:
    cluster, made = wanting
    troubles = [Unavailable("503") for _ in range(4)]
    cluster.failures.append(lambda _: troubles.pop() if troubles else None)
    made.want(SAID)
    eventually(lambda: spec(cluster).get("unschedulable"), what="the node is cordoned")
    assert troubles == []


def test_that_nobody_can_tell_is_said(wanting: tuple[Any, Marking]) -> None:
    cluster, made = wanting
    cluster.failures.append(lambda _: Unavailable("503"))
    assert made.was_marked() is None
    cluster.failures.clear()
