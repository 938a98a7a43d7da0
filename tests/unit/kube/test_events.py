from __future__ import annotations

import datetime

from architect.kube import resources
from architect.kube.events import EventType, Note, Recorder, build

POD = resources.pod("shop", "web-0", uid="u1")
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def record(recorder, *, text="slept in 0.1s", later=0.0, **more):
    at = NOW + datetime.timedelta(seconds=later)
    return recorder.record(POD, Note(reason="Slept", text=text, action="Sleep", **more), now=at)


def test_an_event_names_its_object_and_us(server, api, reply):
    server.replies.append(reply())
    assert record(Recorder(api, component="daemon", instance="n1"))
    body = server.seen[0].body
    assert server.seen[0].path == "/apis/events.k8s.io/v1/namespaces/shop/events"
    assert body["regarding"] == {
        "apiVersion": "v1", "kind": "Pod", "name": "web-0", "namespace": "shop", "uid": "u1",
    }  # fmt: skip
    assert body["reportingController"] == "architect.dev/daemon"
    assert (body["reportingInstance"], body["action"], body["type"]) == ("n1", "Sleep", "Normal")
    assert body["eventTime"] == "2026-01-02T03:04:05.000000Z"


def test_a_repetition_is_counted_in_the_event_that_is_there(server, api, reply):
    recorder = Recorder(api, component="daemon", instance="n1")
    server.replies += [reply(), reply(), reply()]
    assert record(recorder)
    assert record(recorder, later=10)
    assert record(recorder, later=20)
    assert [s.method for s in server.seen] == ["POST", "PATCH", "PATCH"]
    assert server.seen[2].body["series"]["count"] == 3
    assert server.seen[1].path.endswith(server.seen[0].body["metadata"]["name"])


def test_a_late_or_lost_series_starts_anew(server, api, reply):
    recorder = Recorder(api, component="daemon", instance="n1")
    server.replies += [reply(), reply(), reply(status=404), reply()]
    record(recorder)
    record(recorder, later=1000)
    record(recorder, later=1001)
    assert [s.method for s in server.seen] == ["POST", "POST", "PATCH", "POST"]


def test_once_means_once_also_for_another_process(server, api, reply):
    server.replies += [
        reply(),
        reply(status=409, body={"kind": "Status", "reason": "AlreadyExists"}),
    ]
    for instance in ("one", "two"):
        assert record(Recorder(api, component="operator", instance=instance), is_once=True)
    names = {s.body["metadata"]["name"] for s in server.seen}
    assert len(names) == 1


def test_another_note_is_another_event():
    def name(text):
        note = Note(reason="R", text=text, action="A", event_type=EventType.WARNING, is_once=True)
        return build(POD, note, component="c", instance="i", at=NOW)["metadata"]["name"]

    assert name("a") != name("b")


def test_a_long_note_is_cut(server, api, reply):
    server.replies.append(reply())
    assert record(Recorder(api, component="d", instance="i"), text="x" * 5000)
    assert len(server.seen[0].body["note"]) == 1024


def test_a_lost_event_is_no_error(server, api, reply):
    server.replies += [reply(status=403), reply(status=500)]
    recorder = Recorder(api, component="daemon", instance="n1")
    assert not record(recorder)
    assert not record(recorder)


def test_an_event_about_a_node_goes_to_the_default_namespace():
    note = Note(reason="R", text="n", action="A")
    value = build(resources.node("n1", uid="n1"), note, component="c", instance="i", at=NOW)
    assert value["metadata"]["namespace"] == "default"
    assert "namespace" not in value["regarding"]
