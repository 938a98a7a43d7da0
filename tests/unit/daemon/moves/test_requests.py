"""A pod that is copied because somebody asked goes on, and its copy gets to the object store."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from architect.api.keeper import PodState
from architect.core.errors import FormatError, NodeError, Rejected, Unavailable
from architect.daemon.checkpoint import contents
from architect.daemon.moves import requests
from architect.daemon.moves.copies import Copies
from architect.daemon.moves.requests import Requests, Step
from architect.kube.watch import Change, ChangeKind, Snapshot

PATH = "/apis/architect.dev/v1alpha1/namespaces/default/persistentcheckpoints"
ACCEPTED = {"type": "Accepted", "status": "True", "reason": "PodChosen", "message": ""}


class Asking:
    """PersistentCheckpoints, and the daemon's part that follows them."""

    def __init__(self, node: Any, vault: Any) -> None:
        self.node = node
        self.vault = vault
        self.restart()

    def restart(self) -> None:
        """Have another daemon come."""
        self.node.restart()
        self.requests = Requests(
            self.node.api,
            node="node1",
            keeper=self.node.keeper,
            captures=self.node.captures,
            copies=self.node.copies,
            turns=self.node.turns,
            vault=cast(Any, self.vault),
            metrics=self.node.metrics,
            tell=self.node._tell,
        )

    def put(self, name: str = "warm", *, pod: str = "web", **metadata: Any) -> None:
        """Have the operator choose a pod for a new object."""
        value = {
            "apiVersion": "architect.dev/v1alpha1",
            "kind": "PersistentCheckpoint",
            "metadata": {"namespace": "default", "name": name, "uid": f"pc-{name}", **metadata},
            "spec": {"podName": pod},
            "status": {
                "podRef": {"name": pod, "uid": f"uid-{pod}"},
                "node": "node1",
                "conditions": [ACCEPTED],
            },
        }
        self.node.cluster.put(f"{PATH}/{name}", value)

    def hear(self) -> None:
        """Let it have listed the objects."""
        objects = list(self.node.cluster.objects.items())
        found = [v for p, v in objects if p.startswith(PATH)]
        self.requests.take(Snapshot(objects=tuple(found)))

    def delete(self, name: str = "warm") -> None:
        value = self.node.cluster.objects[f"{PATH}/{name}"]
        self.node.cluster.remove(f"{PATH}/{name}")
        self.requests.take(Change(kind=ChangeKind.DELETED, object=value))

    def look(self) -> None:
        """Have it look at what is undone, with what it has heard by now."""
        self.hear()
        self.requests.look()

    def settle(self) -> None:
        """Wait until nothing is under way."""
        asked = self.requests
        # By uid: a job that has ended may have begun another one, which took its place.
        self.node.until(lambda: not any(map(asked.is_working, list(asked._jobs))))

    def ask(self, name: str = "warm", *, pod: str = "web") -> None:
        self.put(name, pod=pod)
        self.hear()
        self.settle()

    def status(self, name: str = "warm") -> Any:
        return self.node.cluster.objects[f"{PATH}/{name}"]["status"]

    def conditions(self, name: str = "warm") -> dict[str, str]:
        found = self.status(name)["conditions"]
        return {c["type"]: f"{c['status']} {c['reason']}" for c in found}


@pytest.fixture
def asking(node: Any, vault: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr(requests, "TOLD_STEP_SECONDS", 0.01)
    node.pod("web")
    made = Asking(node, vault)
    yield made
    made.requests.close()


def failed(reason: str) -> dict[str, str]:
    return {
        "Accepted": "True PodChosen",
        "Captured": f"False {reason}",
        "Failed": "True CaptureFailed",
        "Available": f"False {reason}",
    }


STORED = {
    "Accepted": "True PodChosen",
    "Captured": "True Captured",
    "Stored": "True Stored",
    "Available": "True InStore",
}


def test_a_pod_is_copied_goes_on_and_lies_in_the_store(asking: Asking) -> None:
    asking.ask()
    node = asking.node
    assert asking.conditions() == STORED
    status = asking.status()
    assert status["location"]["s3"]["key"] == "default/pc-warm/manifest.json"
    assert set(status["location"]) == {"s3"}
    assert set(status["durations"]) == {"freeze", "capture", "upload"}
    assert status["containers"] == ["app"]
    assert status["templateHash"].startswith("v1:") and status["templateParts"]
    assert status["bytes"] > 0 and status["capturedAt"] and status["requirements"]
    assert asking.vault.uploaded == ["pc-warm"]
    assert node.keeper.states["uid-web"] is PodState.AWAKE
    assert [op for op, _ in node.keeper.calls] == ["status", "status", "copy", "go_on"]
    assert node.notes == [("web", "Captured")]
    assert node.files() == [], "it lies in the store"
    assert node.metrics.freeze_seconds._sum.get() > 0


def test_its_manifest_is_of_the_pod_and_of_nobody_else(asking: Asking) -> None:
    asking.vault.troubles.append(Unavailable("503"))
    asking.ask()
    whole = asking.node.copies.find("pc-warm")
    about = contents.read(whole).about
    assert (about.id, about.pod_uid, about.pod_name) == ("pc-warm", "uid-web", "web")
    assert about.owner is None
    contents.verify(whole, contents.read(whole))


def test_what_others_have_is_left_alone(asking: Asking) -> None:
    asking.put()
    value = asking.node.cluster.objects[f"{PATH}/warm"]
    value["status"]["node"] = "node2"
    asking.look()
    assert asking.requests._jobs == {}


@pytest.mark.parametrize(
    ("conditions", "has_copy", "step"),
    [
        ({}, False, Step.NOTHING),
        ({"Accepted": "Unknown"}, False, Step.NOTHING),
        ({"Accepted": "False"}, True, Step.DROP),
        ({"Accepted": "True"}, False, Step.CAPTURE),
        ({"Accepted": "True", "Captured": "Unknown"}, False, Step.CAPTURE),
        ({"Accepted": "True", "Captured": "Unknown"}, True, Step.STORE),
        ({"Accepted": "True", "Captured": "True"}, True, Step.STORE),
        ({"Accepted": "True", "Captured": "True", "Stored": "False"}, True, Step.STORE),
        ({"Accepted": "True", "Captured": "True"}, False, Step.LOSE),
        ({"Accepted": "True", "Captured": "True", "Available": "True"}, False, Step.NOTHING),
        ({"Accepted": "True", "Captured": "True", "Available": "True"}, True, Step.DROP),
        ({"Accepted": "True", "Captured": "False", "Failed": "True"}, False, Step.NOTHING),
        ({"Accepted": "True", "Captured": "False", "Failed": "True"}, True, Step.DROP),
    ],
)
def test_what_is_next(conditions: dict[str, str], has_copy: bool, step: Step) -> None:
    value: dict[str, Any] = {
        "metadata": {"uid": "pc"},
        "status": {
            "node": "node1",
            "podRef": {"name": "web", "uid": "uid-web"},
            "conditions": [{"type": t, "status": s} for t, s in conditions.items()],
        },
    }
    assert requests.decide(value, node="node1", has_copy=has_copy) is step
    elsewhere = requests.decide(value, node="node2", has_copy=False)
    assert elsewhere is Step.NOTHING
    value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    going = requests.decide(value, node="node1", has_copy=has_copy)
    assert going is (Step.DROP if has_copy else Step.NOTHING)


def test_one_that_sleeps_is_copied_and_sleeps_on(asking: Asking) -> None:
    asking.node.keeper.capture("uid-web")
    asking.ask()
    assert asking.conditions() == STORED
    assert asking.node.keeper.states["uid-web"] is PodState.ASLEEP
    assert asking.status()["durations"]["freeze"] == "0.000s"


def test_what_cannot_be_copied_goes_on_and_is_not_tried_again(asking: Asking) -> None:
    node = asking.node
    node.keeper.troubles["copy"] = [NodeError("MPTCP sockets cannot be dumped", reason="Mptcp")]
    asking.ask()
    asking.look()
    asking.settle()
    assert asking.conditions() == failed("Mptcp")
    assert node.keeper.ops("copy") == 1
    assert node.keeper.states["uid-web"] is PodState.AWAKE
    assert node.notes == [("web", "CaptureFailed")]
    assert node.files() == []
    assert node.metrics.failures.labels("capture", "Mptcp")._value.get() == 1


@pytest.mark.parametrize("reason", ["NotCaptured", "Busy", "InFlight"])
def test_a_pod_that_does_not_stand_still_is_tried_again(asking: Asking, reason: str) -> None:
    op = "go_on" if reason == "NotCaptured" else "copy"
    asking.node.keeper.troubles[op] = [Rejected("not now", reason=reason)]
    asking.ask()
    assert asking.conditions() == STORED
    assert asking.node.keeper.ops("copy") == 2


def test_a_pod_whose_probes_do_not_succeed_yet_is_waited_for(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "READY_STEP_SECONDS", 0.01)
    trouble = Rejected("container app is not ready", reason="NotReady")
    asking.node.keeper.troubles["copy"] = [trouble] * 5
    asking.ask()
    assert asking.conditions() == STORED
    assert asking.node.keeper.ops("copy") == 6


def test_one_whose_probes_never_succeed_is_given_up(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "READY_STEP_SECONDS", 0.01)
    monkeypatch.setattr(requests, "READY_SECONDS", 0.1)
    trouble = Rejected("container app is not ready", reason="NotReady")
    asking.node.keeper.troubles["copy"] = [trouble] * 1000
    asking.ask()
    assert asking.conditions() == failed("NotReady")


def test_a_keeper_that_is_killed_is_asked_again(asking: Asking) -> None:
    asking.node.keeper.troubles["go_on"] = [Unavailable("closed the connection")]
    asking.ask()
    assert asking.conditions() == STORED


def test_a_keeper_that_is_away_is_waited_for(asking: Asking) -> None:
    asking.node.keeper.troubles["status"] = [Unavailable("no keeper")]
    asking.ask()
    assert asking.conditions() == {"Accepted": "True PodChosen"}
    asking.look()
    asking.settle()
    assert asking.conditions() == STORED


def test_a_pod_is_not_frozen_for_ever_by_a_keeper_that_always_dies(asking: Asking) -> None:
    asking.node.keeper.troubles["go_on"] = [Unavailable("closed the connection")] * 3
    asking.ask()
    assert asking.conditions() == failed("Unavailable")


def test_without_the_api_server_no_pod_is_frozen(asking: Asking) -> None:
    node = asking.node
    asking.put()
    asking.hear()
    asking.settle()
    asking.restart()
    asking.put("another")
    node.cluster.failures.append(lambda _: Unavailable("503"))
    before = node.keeper.ops("copy")
    asking.hear()
    asking.settle()
    assert node.keeper.ops("copy") == before
    node.cluster.failures.clear()
    asking.look()
    asking.settle()
    assert asking.conditions("another") == STORED


def test_an_api_server_that_goes_away_keeps_nothing_from_the_store(asking: Asking) -> None:
    node = asking.node
    node.keeper.gate = threading.Event()
    asking.put()
    asking.hear()
    node.until(lambda: node.keeper.ops("copy") == 1)
    node.cluster.failures.append(lambda _: Unavailable("503"))
    node.keeper.gate.set()
    asking.settle()
    assert asking.vault.uploaded == ["pc-warm"]
    node.cluster.failures.clear()
    assert asking.conditions()["Captured"] == "Unknown Capturing"
    asking.look()
    asking.settle()
    assert asking.conditions() == STORED
    assert node.keeper.ops("copy") == 1


def test_a_store_that_is_away_is_said_and_tried_again(asking: Asking) -> None:
    asking.vault.troubles += [
        Rejected("no such key", reason="WrongCredentials"),
        Unavailable("no answer"),
    ]
    asking.ask()
    assert asking.conditions()["Stored"] == "False WrongCredentials"
    assert asking.conditions()["Available"] == "Unknown WrongCredentials"
    assert asking.conditions()["Captured"] == "True Captured"
    for _ in range(2):
        asking.look()
        asking.settle()
    assert asking.conditions() == STORED
    assert asking.node.keeper.ops("copy") == 1
    assert asking.node.metrics.failures.labels("store", "WrongCredentials")._value.get() == 1


def test_its_own_words_do_not_make_it_try_again_at_once(asking: Asking) -> None:
    asking.vault.troubles += [Unavailable("no answer")] * 5
    asking.ask()
    value = asking.node.cluster.objects[f"{PATH}/warm"]
    asking.requests.take(Change(kind=ChangeKind.MODIFIED, object=value))
    asking.settle()
    assert len(asking.vault.troubles) == 4


def test_the_next_daemon_goes_on_with_an_upload(asking: Asking) -> None:
    asking.vault.troubles.append(Unavailable("no answer"))
    asking.ask()
    asking.restart()
    asking.look()
    asking.settle()
    assert asking.conditions() == STORED
    assert asking.node.keeper.ops("copy") == 1
    assert asking.status()["durations"]["freeze"], "as the earlier daemon said"


def test_the_next_daemon_begins_a_cut_capture_again(asking: Asking) -> None:
    node = asking.node
    asking.put()
    half = node.copies.begin("pc-warm")
    (half / "shm.tar").write_text("half")
    asking.look()
    asking.settle()
    assert asking.conditions() == STORED
    assert node.files() == []


def test_a_pod_that_is_gone_is_said(asking: Asking) -> None:
    asking.node.gone("web")
    asking.ask()
    assert asking.conditions() == failed("PodGone")


def test_another_pod_of_the_name_is_not_copied(asking: Asking) -> None:
    asking.put()
    asking.status()["podRef"]["uid"] = "uid-before"
    asking.look()
    asking.settle()
    assert asking.conditions() == failed("PodGone")
    assert asking.node.keeper.ops("copy") == 0


def test_a_pod_that_goes_away_while_it_is_copied_is_said(asking: Asking) -> None:
    asking.node.keeper.troubles["go_on"] = [Rejected("no managed pod", reason="UnknownPod")]
    asking.ask()
    assert asking.conditions() == failed("UnknownPod")
    assert asking.node.files() == []


def test_one_that_is_deleted_before_its_turn_is_not_copied(asking: Asking) -> None:
    node = asking.node
    asking.put()
    with node.turns.of("uid-web"):
        asking.hear()
        node.delete("web")
    asking.settle()
    assert asking.conditions() == failed("PodLeaves")
    assert node.keeper.ops("copy") == 0


def test_a_pod_that_is_drained_while_it_is_copied_is_copied_and_saved(asking: Asking) -> None:
    node = asking.node
    node.keeper.gate = threading.Event()
    asking.put()
    asking.hear()
    node.until(lambda: node.keeper.ops("copy") == 1)
    node.delete("web")
    job = node.departures._job(node.ref("web"))
    node.until(lambda: node.conditions("web").get("Captured") == "Unknown Capturing")
    assert node.keeper.ops("capture") == 0
    node.keeper.gate.set()
    assert job.result(20).is_captured
    asking.settle()
    assert asking.conditions() == STORED
    assert node.files() == ["checkpoints/uid-web"]


def test_who_asks_for_one_that_leaves_is_told(asking: Asking) -> None:
    node = asking.node
    node.delete("web")
    assert node.leaving("web")["captured"] is True
    asking.ask()
    assert asking.conditions() == failed("PodLeaves")
    assert node.files() == ["checkpoints/uid-web"]


def test_moves_and_copies_do_not_take_each_other_for_their_own(asking: Asking) -> None:
    node = asking.node
    asking.vault.troubles += [Unavailable("no answer")] * 3
    asking.ask()
    node.watched("web")
    assert node.upkeep.run()
    assert node.copies.all() == {"pc-warm"}
    assert node.depot.departures() == []


def test_one_that_nobody_asks_for_any_more_is_given_up(asking: Asking) -> None:
    node = asking.node
    asking.vault.gate.clear()
    asking.put()
    asking.hear()
    node.until(lambda: node.copies.notes("pc-warm").exists())
    asking.delete()
    asking.vault.gate.set()
    asking.settle()
    assert asking.vault.uploaded == []
    assert node.metrics.failures.labels("store", "Unwanted")._value.get() == 0
    asking.requests.look()
    assert node.files() == []


def test_one_that_is_deleted_before_it_is_frozen_is_left_alone(asking: Asking) -> None:
    asking.put()
    with asking.node.turns.of("uid-web"):
        asking.hear()
        asking.delete()
    asking.settle()
    assert asking.node.keeper.ops("copy") == 0


def test_a_full_disk_freezes_nobody(asking: Asking) -> None:
    node = asking.node
    node.copies = Copies(node.state / "requests", floor_bytes=1 << 60)
    asking.restart()
    asking.ask()
    assert asking.conditions() == failed("NoSpace")
    assert node.keeper.ops("copy") == 0
    assert node.files() == []


def test_a_disk_that_fills_up_meanwhile_undoes_it(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path, manifest: object) -> bytes:
        raise OSError(28, "No space left on device", str(directory))

    monkeypatch.setattr(contents, "write", full)
    asking.ask()
    assert asking.conditions() == failed("OSError")
    assert asking.node.keeper.states["uid-web"] is PodState.AWAKE
    assert asking.node.files() == []


def test_a_copy_that_is_lost_is_said(asking: Asking) -> None:
    asking.vault.troubles.append(Unavailable("no answer"))
    asking.ask()
    shutil.rmtree(asking.node.copies.find("pc-warm"))
    asking.look()
    asking.settle()
    assert asking.conditions()["Failed"] == "True Lost"
    assert asking.conditions()["Available"] == "False Lost"
    assert asking.node.keeper.ops("copy") == 1


def test_a_copy_is_not_judged_as_long_as_the_store_is_away(asking: Asking) -> None:
    asking.vault.troubles += [Unavailable("no answer")]
    asking.ask()
    whole = asking.node.copies.find("pc-warm")
    (whole / "manifest.json").write_text('{"version": 99}')
    asking.vault.troubles += [FormatError("manifest of an unknown version")]
    asking.look()
    asking.settle()
    assert asking.node.copies.find("pc-warm") == whole, "another version may come back"
    assert "Failed" not in asking.conditions()


def test_a_copy_that_is_damaged_is_said(asking: Asking) -> None:
    asking.vault.troubles += [Unavailable("no answer"), FormatError("it is damaged")]
    asking.ask()
    whole = asking.node.copies.find("pc-warm")
    (whole / "containers/app/image/inventory.img").write_text("another memory")
    asking.look()
    asking.settle()
    assert asking.conditions()["Failed"] == "True Lost"
    assert asking.node.files() == []


def test_a_wake_leaves_what_was_copied_as_it_was(asking: Asking) -> None:
    node = asking.node
    node.keeper.capture("uid-web")
    image = node.state / "pods/uid-web/app/image"
    (image / "restore.log").write_text("of a restore that was cut")
    half = node.copies.begin("pc-warm")
    node.depot.link_images("uid-web", ["app"], into=half)
    copied = half / "containers/app/image"
    (image / "restore.log").write_text("of another one")
    assert [p.name for p in copied.iterdir()] == ["inventory.img"]


def test_as_many_are_frozen_at_once_as_may_be(asking: Asking) -> None:
    node = asking.node
    node.departures = node.departing(at_once=1)
    asking.requests._turns, asking.requests._captures = node.turns, node.captures
    node.keeper.gate = threading.Event()
    node.pod("other")
    asking.put()
    asking.put("second", pod="other")
    asking.hear()
    node.until(lambda: node.keeper.ops("copy") == 1)
    assert node.keeper.ops("copy") == 1
    node.keeper.gate.set()
    asking.settle()
    assert asking.conditions() == asking.conditions("second") == STORED


def test_one_pod_is_copied_for_two(asking: Asking) -> None:
    asking.put()
    asking.put("second")
    asking.hear()
    asking.settle()
    assert asking.conditions() == asking.conditions("second") == STORED
    assert asking.node.keeper.ops("copy") == 2


def test_it_follows_the_objects_until_it_is_closed(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "REFUSED_SECONDS", 0.01)
    refusals = [Rejected("not allowed", reason="Forbidden")]
    asking.node.cluster.failures.append(lambda _: refusals.pop() if refusals else None)
    asking.put()
    stop = threading.Event()
    thread = threading.Thread(target=asking.requests.run, args=(stop,))
    thread.start()
    asking.node.until(lambda: asking.conditions() == STORED)
    stop.set()
    asking.requests.close()
    thread.join(20)
    assert not thread.is_alive()
