"""The lookout, against servers that announce what real ones do."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import Rejected
from architect.daemon import settings
from architect.daemon.metrics import Metrics
from architect.daemon.notices import aws, gcp, lookout, nodewatch
from architect.daemon.notices.detection import Detection
from architect.daemon.notices.lookout import open_lookout
from architect.daemon.notices.notice import Kind
from architect.kube.api import Api
from architect.kube.connection import Request
from architect.kube.errors import translate
from support.cloudmetadata.aws import ACTION, SCHEDULED, Imds
from support.cloudmetadata.azure import AzureImds
from support.cloudmetadata.gcp import Gce
from support.cloudmetadata.server import MetadataServer, Reply
from support.patience import patient
from unit.daemon.notices.conftest import Watching
from unit.daemon.notices.test_nodemarks import node, taint

EARLY_SECONDS = 1.0 + patient(10.0)
"""How early a deadline may be: ``Date`` has whole seconds, and an answer has its way."""


def left_by(server: MetadataServer, ends: float) -> float:
    """Return the monotonic moment of a time of the server's clock."""
    return time.monotonic() + ends - server.now()


def test_an_interruption_appears_moves_and_is_withdrawn(imds: Imds) -> None:
    with Watching("aws", endpoint=imds.url) as watching:
        watching.until(lambda: imds.asked("GET", ACTION) > 2)
        assert watching.changes == []
        ends = imds.interrupt()
        found = watching.one()
        assert (found.kind, found.source, found.ends_unix) == (Kind.INTERRUPTION, "aws", ends)
        assert found.deadline is not None
        assert 0 <= left_by(imds, ends) - found.deadline <= EARLY_SECONDS
        asked = imds.asked("GET", ACTION)
        watching.until(lambda: imds.asked("GET", ACTION) > asked + 5)
        assert watching.told == ["appeared"], "what is said again is no news"
        imds.interrupt("stop", seconds=60)
        watching.until(lambda: watching.told == ["appeared", "changed"])
        assert watching.changes[1].before == found
        imds.withdraw()
        watching.until(lambda: watching.told == ["appeared", "changed", "withdrawn"])
        assert watching.lookout.standing() == ()
        assert watching.failures() == {}


@pytest.mark.parametrize("ahead", [-86400.0, 86400.0])
def test_a_clock_that_differs_moves_no_deadline(
    imds: Imds, azure_imds: AzureImds, ahead: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for name, server in (("aws", imds), ("azure", azure_imds)):
        server.clock_ahead_seconds = ahead
        with Watching(name, endpoint=server.url) as watching:
            ends = (
                imds.interrupt(seconds=100) if name == "aws" else azure_imds.announce(seconds=100)
            )
            found = watching.one()
            assert found.ends_unix == ends
            assert found.deadline is not None
            assert 0 <= left_by(server, ends) - found.deadline <= EARLY_SECONDS
            word = "behind" if ahead > 0 else "ahead of"
            watching.until(lambda word=word: f"{word} the metadata service's" in caplog.text)  # type: ignore[misc]


def test_a_recommendation_announces_no_end(imds: Imds) -> None:
    with Watching("aws", endpoint=imds.url) as watching:
        imds.recommend()
        found = watching.one()
        assert (found.kind, found.deadline) == (Kind.REBALANCE, None)
        assert watching.number("announced_end_seconds") == math.inf


def test_without_a_date_this_machines_clock_counts(imds: Imds) -> None:
    imds.has_date = False
    with Watching("aws", endpoint=imds.url) as watching:
        ends = imds.interrupt(seconds=100)
        found = watching.one()
        assert found.deadline is not None
        assert abs(left_by(imds, ends) - found.deadline) <= EARLY_SECONDS


def test_a_time_in_the_past_has_nothing_left(imds: Imds) -> None:
    with Watching("aws", endpoint=imds.url) as watching:
        imds.interrupt(seconds=-3600)
        assert watching.one().seconds_left(time.monotonic()) == 0.0
        assert watching.number("announced_end_seconds") == 0.0


def test_a_preemption_counts_from_when_it_was_first_seen_beyond_a_restart(
    gce: Gce, tmp_path: Path
) -> None:
    memory = tmp_path / "notices.json"
    with Watching("gcp", endpoint=gce.url, memory=memory, notice_seconds=1000.0) as watching:
        gce.preempt()
        first = watching.one()
        assert first.deadline is not None
        assert 0 <= time.monotonic() + 1000 - first.deadline <= patient(20.0)
    # Its deadline is moved in the file, so that one that begins anew would be another.
    value = json.loads(memory.read_text())
    value["deadlines"] = {k: v - 500 for k, v in value["deadlines"].items()}
    memory.write_text(json.dumps(value))
    with Watching("gcp", endpoint=gce.url, memory=memory, notice_seconds=1000.0) as watching:
        assert watching.one().deadline == first.deadline - 500
        gce.withdraw()
        watching.until(lambda: not watching.lookout.standing())
        gce.preempt()
        again = watching.one()
        assert again.deadline is not None
        assert again.deadline > first.deadline


def test_an_event_that_begins_has_no_time_left_and_stays_one(azure_imds: AzureImds) -> None:
    with Watching("azure", endpoint=azure_imds.url) as watching:
        azure_imds.announce(seconds=1000, name="a")
        watching.one()
        azure_imds.start("a")
        watching.until(lambda: watching.told == ["appeared", "changed"])
        assert watching.one().seconds_left(time.monotonic()) == 0.0
        asked = azure_imds.asked("GET", "/metadata/scheduledevents")
        watching.until(lambda: azure_imds.asked("GET", "/metadata/scheduledevents") > asked + 5)
        assert watching.told == ["appeared", "changed"]


def test_an_event_is_acknowledged_by_whoever_has_saved_everything(azure_imds: AzureImds) -> None:
    with Watching("azure", endpoint=azure_imds.url) as watching:
        azure_imds.announce(name="a")
        found = watching.one()
        asked = azure_imds.asked("GET", "/metadata/scheduledevents")
        watching.until(lambda: azure_imds.asked("GET", "/metadata/scheduledevents") > asked + 5)
        assert azure_imds.acknowledged == []
        watching.lookout.acknowledge(found)
        assert azure_imds.acknowledged == ["a"]


def test_nobody_is_told_who_did_not_ask(imds: Imds) -> None:
    with Watching("aws", endpoint=imds.url) as watching:
        watching.lookout.see_node(node(taint("karpenter.sh/disrupted")))
        with pytest.raises(Rejected, match="nobody waits for node"):
            watching.lookout.acknowledge(watching.one())


# What goes wrong


def test_a_service_that_is_away_takes_nothing_back_and_is_heard_again(
    imds: Imds, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Watching("aws", endpoint=imds.url) as watching:
        imds.interrupt()
        found = watching.one()
        for path in (ACTION, aws.REBALANCE, SCHEDULED):
            imds.replies[path] = Reply(status=500)
        watching.until(lambda: watching.failures().get(("aws", "Unavailable"), 0) > 20)
        assert watching.lookout.standing() == (found,)
        imds.replies.clear()
        imds.withdraw()
        watching.until(lambda: watching.told == ["appeared", "withdrawn"])
        watching.until(lambda: "aws/action are heard again" in caplog.text)
    said = [r for r in caplog.records if "aws/action: Unavailable" in r.getMessage()]
    assert len(said) == 1, "it is said once"


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"{", b"[]", b"[" * 60000, b"x" * 100_000, b'{"action": {}}']
)
def test_an_answer_that_is_none_takes_nothing_back(imds: Imds, body: bytes) -> None:
    with Watching("aws", endpoint=imds.url) as watching:
        imds.interrupt()
        found = watching.one()
        imds.replies[ACTION] = Reply(body=body)
        watching.until(lambda: watching.failures().get(("aws", "Malformed"), 0) > 2)
        assert watching.lookout.standing() == (found,)
        assert watching.told == ["appeared"]


def test_a_broken_part_hides_no_interruption(imds: Imds) -> None:
    for path in (aws.REBALANCE, SCHEDULED):
        imds.replies[path] = Reply(status=500)
    with Watching("aws", endpoint=imds.url) as watching:
        watching.until(lambda: watching.failures().get(("aws", "Unavailable"), 0) > 5)
        imds.interrupt()
        watching.one()


def test_a_missing_service_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    attempts = []

    def connect(host: str, port: int, seconds: float) -> Any:
        attempts.append(host)
        raise OSError("no route to host")

    with Watching("aws", "gcp", "azure", connect=connect) as watching:
        watching.until(lambda: len(attempts) >= 15)
        assert watching.failures() == {}
        assert watching.number("announced_end_seconds") == math.inf
    # What other tests left running may say something, too.
    assert [r for r in caplog.records if r.name.startswith("architect.daemon.notices")] == []


def test_a_service_that_must_be_there_and_is_not_is_one(caplog: pytest.LogCaptureFixture) -> None:
    def connect(host: str, port: int, seconds: float) -> Any:
        raise OSError("no route to host")

    with Watching("aws", connect=connect, is_sure=True) as watching:
        watching.until(lambda: watching.failures().get(("aws", "Absent"), 0) > 4)
    assert len([r for r in caplog.records if "no route to host" in r.getMessage()]) == 1


def test_a_service_that_comes_later_is_found(imds: Imds) -> None:
    imds.replies[aws.TOKEN] = Reply(status=404)
    imds.replies[aws.IDENTITY] = Reply(status=404)
    with Watching("aws", endpoint=imds.url) as watching:
        watching.until(lambda: imds.asked("PUT", aws.TOKEN) > 3)
        imds.replies.clear()
        imds.interrupt()
        watching.one()
        assert watching.number("notice_provider", provider="aws") == 1


def test_the_hop_limit_is_named_with_what_to_do(
    imds: Imds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(aws, "TOKEN_SECONDS", 0.3)
    imds.silent.add(f"PUT {aws.TOKEN}")
    with Watching("aws", "gcp", "azure", endpoint=imds.url) as watching:
        watching.until(lambda: watching.failures().get(("aws", "HopLimit"), 0) > 1)
    (said,) = [r.getMessage() for r in caplog.records if "HopLimit" in r.getMessage()]
    assert "HttpPutResponseHopLimit" in said


def test_a_service_that_is_lost_is_searched_for_anew(
    imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOST_SECONDS", 0.1)
    with Watching("aws", endpoint=imds.url) as watching:
        watching.until(lambda: watching.number("notice_provider", provider="aws") == 1)
        imds.is_enabled = False
        watching.until(lambda: watching.number("notice_provider", provider="aws") == 0)
        imds.is_enabled = True
        imds.interrupt()
        watching.one()


# The Node object


def test_marks_of_the_node_count_beside_the_metadata_service(imds: Imds) -> None:
    with Watching("aws", endpoint=imds.url) as watching:
        watching.lookout.see_node(node())
        watching.lookout.see_node(node(taint("karpenter.sh/disrupted")))
        assert math.isnan(watching.number("announced_end_seconds"))
        imds.interrupt(seconds=100)
        watching.until(lambda: len(watching.lookout.standing()) == 2)
        assert 0 < watching.number("announced_end_seconds") <= 100
        assert watching.number("notices", source="aws", kind="interruption") == 1
        assert watching.number("notices", source="node", kind="interruption") == 1
        watching.lookout.see_node(node())
        watching.until(lambda: len(watching.lookout.standing()) == 1)
        assert watching.number("notices", source="node", kind="interruption") == 0
        seen = {"source": "node", "kind": "interruption"}
        assert watching.number("notices_seen_total", **seen) == 1


class Cluster:
    """An API server with one node, which is watched."""

    def __init__(self) -> None:
        self.value = {**node(), "metadata": {"name": "n1", "resourceVersion": "1"}}
        self.watches: list[Stream] = []
        self.requests: list[Request] = []
        self.is_forbidden = False

    def call(self, request: Request) -> Any:
        self.requests.append(request)
        if self.is_forbidden:
            body = json.dumps({"kind": "Status", "code": 403, "reason": "Forbidden"})
            raise translate(403, body.encode(), what=request.what)
        return {"items": [self.value], "metadata": {"resourceVersion": "1"}}

    def stream(self, request: Request) -> Stream:
        self.requests.append(request)
        made = Stream()
        self.watches.append(made)
        return made

    def send(self, kind: str, value: dict[str, Any]) -> None:
        value = {**value, "metadata": {"name": "n1", "resourceVersion": "2"}}
        self.watches[-1].lines.append(json.dumps({"type": kind, "object": value}).encode())


class Stream:
    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.is_closed = False

    def __iter__(self) -> Any:
        while not self.is_closed:
            if self.lines:
                yield self.lines.pop(0)
            time.sleep(0.01)

    def close(self) -> None:
        self.is_closed = True


def test_this_nodes_object_is_followed_and_its_deletion_says_nothing() -> None:
    cluster = Cluster()
    with Watching(api=Api(cluster, field_manager="test"), node="n1") as watching:
        watching.until(lambda: bool(cluster.watches))
        assert all(r.query.get("fieldSelector") == "metadata.name=n1" for r in cluster.requests)
        mark = taint("ToBeDeletedByClusterAutoscaler", "1700000000")
        cluster.send("MODIFIED", node(mark))
        found = watching.one()
        assert (found.source, found.deadline) == ("node", None)
        cluster.send("DELETED", node())
        cluster.send("ADDED", node(mark, taint("karpenter.sh/disrupted")))
        watching.until(lambda: len(watching.lookout.standing()) == 2)
        cluster.send("MODIFIED", node())
        watching.until(lambda: not watching.lookout.standing())
        assert watching.told == ["appeared", "appeared", "withdrawn", "withdrawn"]


def test_a_missing_permission_is_said_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nodewatch, "RETRY_FIRST_SECONDS", 0.02)
    monkeypatch.setattr(nodewatch, "RETRY_MAX_SECONDS", 0.05)
    cluster = Cluster()
    cluster.is_forbidden = True
    with Watching(api=Api(cluster, field_manager="test"), node="n1") as watching:
        watching.until(lambda: watching.failures().get(("node", "Forbidden"), 0) > 2)
        cluster.value = {
            **node(taint("karpenter.sh/disrupted")),
            "metadata": {"name": "n1", "resourceVersion": "1"},
        }
        cluster.is_forbidden = False
        watching.one()
    assert len([r for r in caplog.records if "Forbidden" in r.getMessage()]) == 1


# Settings


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ((), ("aws", "gcp", "azure")),
        (("--spot-provider=gcp",), ("gcp",)),
        (("--spot-provider=none",), ()),
    ],
)
def test_settings_say_who_is_asked(
    flags: tuple[str, ...], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, ...]] = []

    def detection(names: tuple[str, ...], **arguments: Any) -> Any:
        made.append(names)
        return Detection(names, **arguments)

    monkeypatch.setattr("architect.daemon.notices.lookout.Detection", detection)
    open_lookout(
        settings.parse(list(flags), environment={"NODE_NAME": "n1"}),
        api=Api(Cluster(), field_manager="test"),
        metrics=Metrics(),
        told=lambda _: None,
    )
    assert made == ([names] if names else [])


def test_one_that_is_switched_off_still_ends() -> None:
    with Watching() as watching:
        assert watching.lookout.standing() == ()


def test_a_request_that_is_held_back_does_not_hold_up_the_end(
    gce: Gce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcp, "WAIT_SECONDS", 36000)
    with Watching("gcp", endpoint=gce.url) as watching:
        watching.until(lambda: gce.waiting)
