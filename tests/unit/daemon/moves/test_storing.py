"""Saved pods on their way into the object store: late, once, said, and given up in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from architect.api import names
from architect.api.policy import ContainerPolicy, Policy, Storage
from architect.core.errors import FormatError, Rejected, Unavailable
from architect.daemon.moves import objects, question
from architect.daemon.moves.storing import Storing
from architect.kube.resources import CHECKPOINTS, ObjectRef


@pytest.fixture
def storing(node: Any, vault: Any) -> Iterator[Storing]:
    made = _storing(node, vault)
    node.restart()  # its parts are made anew, with the store
    yield made
    made.close()


def _storing(
    node: Any,
    vault: Any,
    *,
    delay_seconds: float = 0.0,
    is_busy: Callable[[], bool] = lambda: False,
    is_late: Callable[[], bool] = lambda: False,
) -> Storing:
    made = Storing(
        node.api,
        depot=node.depot,
        latest=node.latest,
        vault=cast(Any, vault),
        metrics=node.metrics,
        delay_seconds=delay_seconds,
        is_busy=is_busy,
        is_late=is_late,
    )
    node.storing = made
    return made


def test_a_saved_pod_is_handed_to_it(node: Any) -> None:
    node.saved()
    assert node.to_store == ["uid-old"]


@pytest.mark.parametrize(
    ("wish", "usual", "has_store", "storage", "stored"),
    [
        (None, Storage.OBJECT_STORE, True, "ObjectStore", None),
        (None, Storage.NODE, True, "Node", "False StaysOnNode"),
        (Storage.NODE, Storage.OBJECT_STORE, True, "Node", "False StaysOnNode"),
        (Storage.OBJECT_STORE, Storage.NODE, True, "ObjectStore", None),
        (None, Storage.OBJECT_STORE, False, "Node", None),
        (Storage.NODE, Storage.OBJECT_STORE, False, "Node", None),
        (Storage.OBJECT_STORE, Storage.NODE, False, "ObjectStore", "False NoObjectStore"),
    ],
)
def test_a_pod_says_where_it_may_lie_and_else_the_cluster(
    node: Any,
    wish: Storage | None,
    usual: Storage,
    has_store: bool,
    storage: str,
    stored: str | None,
) -> None:
    node.has_store, node.default_storage = has_store, usual
    node.restart()
    node.pod("old", annotations=wishing(wish))
    node.delete("old")
    assert node.departures._job(node.ref("old")).result().is_captured
    node.until(lambda: node.conditions("old").get("Available") == "True OnPeer")
    assert node.checkpoint("old")["spec"]["storage"] == storage
    assert node.conditions("old").get("Stored") == stored
    assert node.to_store == (["uid-old"] if has_store and storage == "ObjectStore" else [])


def wishing(storage: Storage | None) -> dict[str, str]:
    made = Policy(containers={"app": ContainerPolicy()}, storage=storage)
    return {names.POLICY: made.to_json()}


def test_what_stays_on_its_node_stays_there_whatever_daemon_finds_it(
    node: Any, storing: Storing, vault: Any
) -> None:
    node.pod("old", annotations=wishing(Storage.NODE))
    node.delete("old")
    assert node.departures._job(node.ref("old")).result().is_captured
    node.until(lambda: node.conditions("old").get("Available") == "True OnPeer")
    node.restart()
    node.watched()
    assert node.upkeep.run()
    # Its daemon ended before it was said.
    node.checkpoint("old")["status"]["conditions"] = []
    assert node.upkeep.run()
    assert node.conditions("old") == {
        "Captured": "True Captured",
        "Available": "True OnPeer",
        "Stored": "False StaysOnNode",
    }
    assert (storing._jobs, vault.uploaded) == ({}, [])


def test_it_lies_there_beside_its_node(node: Any, storing: Storing, vault: Any) -> None:
    node.saved()
    storing.begin("uid-old")
    node.until(lambda: node.conditions("old").get("Stored") == "True Stored")
    location = node.checkpoint("old")["status"]["location"]
    assert location["peer"]["node"] == "node1"
    assert location["s3"]["key"] == "default/uid-old/manifest.json"
    assert location["s3"]["manifestSha256"] == "c" * 64
    assert vault.uploaded == ["uid-old"]


def test_one_that_goes_on_first_is_never_sent(node: Any, vault: Any) -> None:
    goes = threading.Event()
    storing = _storing(node, vault, delay_seconds=3600.0, is_late=goes.is_set)
    node.saved()
    storing.begin("uid-old")
    node.pod("new", is_running=False)
    assert node.arriving("new")["restore"] is True
    goes.set()
    node.until(lambda: not storing._jobs or storing._jobs["uid-old"].done())
    assert vault.uploaded == []
    assert "Stored" not in node.conditions("old")
    storing.close()


def test_others_that_leave_come_first_and_not_for_ever(node: Any, vault: Any) -> None:
    asked: list[float] = []

    def is_busy() -> bool:
        asked.append(time.monotonic())
        return True

    storing = _storing(node, vault, delay_seconds=0.2, is_busy=is_busy)
    node.saved()
    began = time.monotonic()
    storing.begin("uid-old")
    node.until(lambda: vault.uploaded == ["uid-old"])
    assert time.monotonic() - began >= 4 * 0.2
    assert asked
    storing.close()


def test_what_waits_is_sent_at_once_when_the_node_goes(node: Any, vault: Any) -> None:
    goes = threading.Event()
    storing = _storing(node, vault, delay_seconds=3600.0, is_busy=lambda: True, is_late=goes.is_set)
    node.saved()
    storing.begin("uid-old")
    node.until(lambda: "uid-old" in storing._jobs)
    assert vault.uploaded == []
    goes.set()
    node.until(lambda: vault.uploaded == ["uid-old"])
    storing.close()


def test_it_is_sent_at_once_in_a_hurry_and_waits_again_after_it(node: Any, vault: Any) -> None:
    storing = _storing(node, vault, delay_seconds=3600.0, is_busy=lambda: True)
    node.saved()
    storing.begin("uid-old")
    node.until(lambda: "uid-old" in storing._jobs)
    storing.hurry()
    assert vault.is_hurried
    node.until(lambda: vault.uploaded == ["uid-old"])
    storing.hurry(is_needed=False)
    assert not vault.is_hurried
    assert storing._is_early(time.monotonic())
    storing.close()


def test_all_are_under_way_so_that_the_order_decides(
    node: Any, storing: Storing, vault: Any
) -> None:
    """The vault has the streams; here nobody waits for the end of another one."""
    uids = [f"uid-pod{n}" for n in range(12)]
    for n in range(12):
        node.saved(f"pod{n}")
    vault.gate.clear()
    for uid in uids:
        storing.begin(uid)
    node.until(lambda: all(node.depot.upload_notes(uid).exists() for uid in uids))
    storing.prefer(uids[::-1])
    assert vault.order == uids[::-1]
    vault.gate.set()
    node.until(lambda: sorted(vault.uploaded) == sorted(uids))
    node.until(lambda: all(map(storing.is_stored, uids)))


def test_in_a_hurry_nobody_waits_for_the_api_server(
    node: Any, storing: Storing, vault: Any
) -> None:
    node.saved()
    hangs, asked = threading.Event(), threading.Event()

    def hang(_: Any) -> None:
        asked.set()
        assert hangs.wait(20)

    node.cluster.failures.append(hang)
    storing.begin("uid-old")
    assert asked.wait(20)
    assert vault.uploaded == [], "there is time to ask"
    storing.hurry()
    node.until(lambda: storing.is_stored("uid-old"))
    node.cluster.failures.clear()
    hangs.set()
    node.until(lambda: node.conditions("old").get("Stored") == "True Stored")


def test_what_is_told_late_ends_what_was_sent_in_a_hurry(
    node: Any, storing: Storing, vault: Any
) -> None:
    node.saved()
    value = node.checkpoint("old")
    value["status"]["conditions"].append(
        {"type": "Restored", "status": "True", "reason": "Restored", "message": ""}
    )
    answers = threading.Event()
    node.cluster.failures.append(lambda _: assert_(answers.wait(20)))
    storing.hurry()
    vault.gate.clear()
    storing.begin("uid-old")
    node.until(lambda: node.depot.upload_notes("uid-old").exists())
    answers.set()
    node.cluster.failures.clear()
    node.until(lambda: not any(t.name == "ask-uid-old" for t in threading.enumerate()))
    vault.gate.set()
    node.until(lambda: storing._jobs["uid-old"].done())
    assert vault.uploaded == []
    assert node.metrics.failures.labels("store", "Unwanted")._value.get() == 0


def test_one_that_goes_on_while_it_is_sent_is_not_sent_to_its_end(
    node: Any, vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question, "FRESH_SECONDS", 0.0)
    begun = threading.Event()

    def upload(*_: Any, is_wanted: Callable[[], bool], **__: Any) -> None:
        begun.set()
        node.until(lambda: not is_wanted())
        raise Rejected("not wanted", reason="Unwanted")

    monkeypatch.setattr(vault, "upload", upload)
    storing = _storing(node, vault)
    node.saved()
    storing.begin("uid-old")
    assert begun.wait(20)
    where = ObjectRef.of(CHECKPOINTS, node.checkpoint("old"))
    node.latest.change(where, objects.restored("node2", after_seconds=1.0))
    node.until(lambda: storing._jobs["uid-old"].done())
    assert "Stored" not in node.conditions("old")
    assert node.metrics.failures.labels("store", "Unwanted")._value.get() == 0
    storing.close()


def assert_(is_so: bool) -> None:
    assert is_so


def test_what_fails_in_a_hurry_is_tried_again_at_once(
    node: Any, storing: Storing, vault: Any
) -> None:
    """Such as the metadata service, which does not renew credentials just now."""
    vault.troubles += [
        Rejected("none", reason="NoCredentials"),
        Unavailable("the store is away"),
        OSError("no disk"),
    ]
    node.saved()
    storing.hurry()
    storing.begin("uid-old")
    node.until(lambda: vault.uploaded == ["uid-old"])
    node.until(lambda: node.conditions("old").get("Stored") == "True Stored")


def test_files_that_are_damaged_are_not_tried_again_in_a_hurry(
    node: Any, storing: Storing, vault: Any
) -> None:
    vault.troubles.append(FormatError("pages-1.img is damaged"))
    node.saved()
    storing.hurry()
    storing.begin("uid-old")
    node.until(lambda: storing._jobs["uid-old"].done())
    assert node.conditions("old")["Stored"] == "False FormatError"
    assert vault.uploaded == []


def test_at_its_end_nothing_is_waited_for(node: Any, vault: Any) -> None:
    storing = _storing(node, vault, delay_seconds=3600.0)
    for name in ("one", "two"):
        node.saved(name)
        storing.begin(f"uid-{name}")
    storing.close()
    node.until(lambda: all(job.done() for job in storing._jobs.values()))
    assert vault.uploaded == []
    storing.begin("uid-one")
    assert storing._jobs["uid-one"].done(), "nothing is begun any more"


def test_one_that_is_restored_elsewhere_is_never_sent(
    node: Any, storing: Storing, vault: Any
) -> None:
    node.saved()
    value = node.checkpoint("old")
    value["status"]["conditions"].append(
        {"type": "Restored", "status": "True", "reason": "Restored", "message": ""}
    )
    storing.begin("uid-old")
    node.until(lambda: storing._jobs["uid-old"].done())
    assert vault.uploaded == []


def test_without_the_api_server_it_gets_there_all_the_same(
    node: Any, storing: Storing, vault: Any
) -> None:
    node.saved()
    node.cluster.failures.append(lambda _: Unavailable("503"))
    storing.begin("uid-old")
    node.until(lambda: vault.uploaded == ["uid-old"])
    node.cluster.failures.clear()


def test_what_fails_is_said_and_tried_again_by_upkeep(
    node: Any, storing: Storing, vault: Any
) -> None:
    vault.troubles.append(Rejected("no such key", reason="WrongCredentials"))
    node.saved()
    node.restart()
    node.watched()
    storing.begin("uid-old")
    node.until(lambda: node.conditions("old").get("Stored") == "False WrongCredentials")
    assert node.metrics.failures.labels("store", "WrongCredentials")._value.get() == 1
    node.until(lambda: storing._jobs["uid-old"].done())
    assert node.upkeep.run()
    node.until(lambda: node.conditions("old").get("Stored") == "True Stored")
    assert node.upkeep.run()
    assert vault.uploaded == ["uid-old"], "once is enough"


def test_one_that_goes_while_it_is_sent_is_no_failure(
    node: Any, storing: Storing, vault: Any
) -> None:
    node.saved()
    vault.gate.clear()
    storing.begin("uid-old")
    node.until(lambda: node.depot.upload_notes("uid-old").exists())
    node.depot.drop_departure("uid-old")
    vault.gate.set()
    node.until(lambda: storing._jobs["uid-old"].done())
    assert "Stored" not in node.conditions("old")
    storing.keep_only(set())
    assert not node.depot.upload_notes("uid-old").exists()


def test_what_lies_in_the_store_is_not_lost_with_its_node(
    node: Any, storing: Storing, vault: Any
) -> None:
    node.saved()
    storing.begin("uid-old")
    node.until(lambda: node.conditions("old").get("Stored") == "True Stored")
    node.until(lambda: storing._jobs["uid-old"].done())
    node.depot.drop_departure("uid-old")
    node.watched()
    assert node.upkeep.run()
    assert node.conditions("old")["Available"].startswith("True")
    assert "Failed" not in node.conditions("old")
