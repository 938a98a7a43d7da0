"""A daemon whose node goes stays until nothing is lost with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from architect.core.errors import Unavailable
from architect.daemon.moves import handover
from architect.daemon.moves.handover import Handover


def checkpoint(storage: str = "ObjectStore", **conditions: str) -> dict[str, Any]:
    return {
        "spec": {"trigger": "NodeShutdown", "storage": storage},
        "status": {"conditions": [{"type": t, "status": s} for t, s in conditions.items()]},
    }


SAVED = {"Captured": "True", "Available": "True"}


@pytest.mark.parametrize(
    ("value", "has_store", "needs"),
    [
        (None, True, False),
        (checkpoint(Captured="Unknown"), True, True),
        (checkpoint(**SAVED), True, True),
        (checkpoint(**SAVED, Stored="False"), True, True),
        (checkpoint(**SAVED, Stored="True"), True, False),
        # Nobody takes what is not said to be there.
        (checkpoint(Captured="Unknown", Stored="True"), True, True),
        (checkpoint(**SAVED, Claimed="True"), True, True),
        (checkpoint(**SAVED, Restored="Unknown"), True, True),
        (checkpoint(Captured="True", Available="False", Restored="True"), True, False),
        (checkpoint(Captured="True", Available="False"), True, False),
        (checkpoint(Captured="False", Failed="True"), True, False),
        (checkpoint("Node", **SAVED), True, True),
        (checkpoint("Node", **SAVED, Restored="True"), True, False),
        (checkpoint(**SAVED), False, True),
        (checkpoint(**SAVED, Restored="True"), False, False),
    ],
)
def test_what_is_lost_with_its_node(value: Any, has_store: bool, needs: bool) -> None:
    assert handover.needs_node(value, has_store=has_store) is needs


class Ending:
    """A daemon in its last minutes."""

    def __init__(self, node: Any, *, has_store: bool) -> None:
        self.is_serving = False
        self.handover = Handover(
            node.api,
            depot=node.depot,
            store=node.store,
            departures=node.departures,
            has_store=has_store,
            is_serving=lambda: self.is_serving,
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.handover.run, args=(self.stop,), daemon=True)

    def why(self) -> str:
        return self.handover.why_not_yet()


@pytest.fixture
def ending(node: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ending]:
    monkeypatch.setattr(handover, "STEP_SECONDS", 0.01)
    node.shuts_down = True
    made = Ending(node, has_store=False)
    yield made
    made.stop.set()
    if made.thread.is_alive():
        made.thread.join(20)


def test_it_waits_for_pods_that_kubelet_has_yet_to_end(node: Any, ending: Ending) -> None:
    node.pod("old")
    node.pod("other")
    node.watched("old", "other")
    assert "default/old, default/other" in ending.why()
    for name in ("old", "other"):
        node.end(name)
    node.watched("old", "other")
    assert ending.why() == ""


def test_it_waits_for_pods_that_are_being_saved(node: Any, ending: Ending) -> None:
    node.keeper.gate = threading.Event()
    node.pod("old")
    job = node.departures._job(node.ref("old"))
    node.until(lambda: "Captured" in node.conditions("old"))
    assert "being saved" in ending.why()
    node.keeper.gate.set()
    assert job.result(20).is_captured
    assert "uid-old" in ending.why()


def test_it_ends_once_the_successor_goes_on(node: Any, ending: Ending) -> None:
    node.saved()
    ending.thread.start()
    node.until(lambda: "uid-old" in ending.why())
    assert ending.thread.is_alive()
    value = node.checkpoint("old")
    value["status"]["conditions"].append({"type": "Restored", "status": "True", "reason": "R"})
    ending.thread.join(20)
    assert not ending.thread.is_alive()


def test_it_waits_for_an_api_server_that_is_away(node: Any, ending: Ending) -> None:
    node.saved()
    node.cluster.failures.append(lambda _: Unavailable("503"))
    assert "uid-old" in ending.why()
    node.cluster.failures.clear()
    node.checkpoint("old")["status"]["conditions"] = [{"type": "Restored", "status": "True"}]
    assert ending.why() == ""


def test_it_waits_for_who_fetches_what_lies_elsewhere_too(node: Any) -> None:
    node.saved()
    stored = {"type": "Stored", "status": "True", "reason": "Stored"}
    node.checkpoint("old")["status"]["conditions"].append(stored)
    ending = Ending(node, has_store=True)
    assert ending.why() == ""
    ending.is_serving = True
    assert "fetches" in ending.why()


def test_a_daemon_that_has_failed_is_not_kept(node: Any, ending: Ending) -> None:
    node.saved()
    ending.thread.start()
    ending.stop.set()
    ending.thread.join(20)
    assert not ending.thread.is_alive()
