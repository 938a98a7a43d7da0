"""Azure's scheduled events."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core.errors import FormatError, Rejected, Unavailable
from architect.daemon.notices import azure, providers
from architect.daemon.notices.azure import Azure
from architect.daemon.notices.metadata import Absent
from architect.daemon.notices.notice import Announcement, Kind
from support.cloudmetadata.azure import COMPUTE, EVENTS, MACHINE, AzureImds
from support.cloudmetadata.server import Reply
from support.jsonvalues import JSON, paths, replace
from unit.daemon.notices.conftest import answer, service

NAME = "602d9444-d2cd-49c7-8624-8643e7171297"
OTHER = "aks-spot-12345678-vmss_4"


def provider(server: AzureImds) -> Azure:
    made = Azure(service(server.url))
    made.identify()
    return made


def looked(asked: Azure) -> tuple[Announcement, ...]:
    """Look, and return what was heard; nothing may be wrong."""
    part = asked.look().parts["events"]
    assert part.problem is None
    return part.announcements or ()


@pytest.mark.parametrize(
    ("priority", "is_spot"), [("Spot", True), ("Low", True), ("Regular", False), (None, True)]
)
def test_the_machine_says_who_it_is(
    azure_imds: AzureImds, priority: str | None, is_spot: bool
) -> None:
    azure_imds.priority = priority
    asked = Azure(service(azure_imds.url))
    found = asked.identify()
    assert (found.name, found.is_spot) == (MACHINE, is_spot)
    again = asked.look().again_seconds
    assert again == (azure.SPOT_SECONDS if is_spot else azure.REGULAR_SECONDS)
    assert all(r.headers["metadata"] == "true" for r in azure_imds.requests)


def test_another_clouds_service_is_not_azures(azure_imds: AzureImds) -> None:
    azure_imds.replies[COMPUTE] = Reply(status=404)
    with pytest.raises(Absent):
        Azure(service(azure_imds.url)).identify()


def test_the_first_answer_may_take_long(
    azure_imds: AzureImds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "NEXT_SECONDS", 0.01)
    azure_imds.first_delay_seconds = 0.3
    assert looked(provider(azure_imds)) == ()


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("Preempt", Kind.INTERRUPTION),
        ("Terminate", Kind.INTERRUPTION),
        ("Reboot", Kind.MAINTENANCE),
        ("Redeploy", Kind.MAINTENANCE),
    ],
)
def test_what_ends_the_machine_is_heard_with_its_time(
    azure_imds: AzureImds, what: str, kind: Kind
) -> None:
    asked = provider(azure_imds)
    assert looked(asked) == ()
    ends = azure_imds.announce(what)
    (found,) = looked(asked)
    assert (found.kind, found.id, found.ends_unix) == (kind, NAME, ends)
    azure_imds.start(NAME)
    (begun,) = looked(asked)
    assert (begun.id, begun.ends_unix, begun.ends_in_seconds) == (NAME, None, 0.0)
    azure_imds.withdraw()
    assert looked(asked) == ()


def test_a_freeze_ends_nothing_and_a_recommendation_has_no_end(azure_imds: AzureImds) -> None:
    azure_imds.announce("Freeze", name="a")
    azure_imds.announce("SpotRebalanceRecommendation", name="b")
    azure_imds.announce("Preempt", name="c", EventStatus="Advisory")
    heard = looked(provider(azure_imds))
    assert [a.id for a in heard] == ["b", "c"]
    for found in heard:
        assert (found.kind, found.ends_unix, found.ends_in_seconds) == (Kind.REBALANCE, None, None)


def test_events_of_other_machines_are_theirs(azure_imds: AzureImds) -> None:
    azure_imds.announce(resources=(OTHER,), name="a")
    azure_imds.announce(resources=(MACHINE + "0",), name="b")
    azure_imds.announce("Reboot", resources=(OTHER, MACHINE.upper()), name="c")
    assert [a.id for a in looked(provider(azure_imds))] == ["c"]


def test_an_event_that_is_not_understood_hides_no_other(azure_imds: AzureImds) -> None:
    azure_imds.announce("Melt", name="a")
    azure_imds.announce(name="b")
    azure_imds.events.append({"EventId": "c"})
    part = provider(azure_imds).look().parts["events"]
    assert [a.id for a in part.announcements or ()] == ["b"]
    assert isinstance(part.problem, FormatError)


def test_a_document_that_is_not_understood_takes_nothing_back(azure_imds: AzureImds) -> None:
    asked = provider(azure_imds)
    for reply in (Reply(body=b"{}"), Reply(body=b"<html>"), Reply(status=404)):
        azure_imds.replies[EVENTS] = reply
        part = asked.look().parts["events"]
        assert part.announcements is None
        assert part.problem is not None
    azure_imds.replies[EVENTS] = Reply(status=429)
    assert isinstance(asked.look().parts["events"].problem, Unavailable)


def test_an_event_is_acknowledged_when_that_is_asked_for_and_not_before(
    azure_imds: AzureImds,
) -> None:
    asked = provider(azure_imds)
    azure_imds.announce()
    looked(asked)
    looked(asked)
    assert azure_imds.acknowledged == []
    asked.acknowledge(NAME)
    assert azure_imds.acknowledged == [NAME]
    assert [r.method for r in azure_imds.requests].count("POST") == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"resources": (MACHINE, OTHER)}, "other machines"),
        ({"EventStatus": "Started"}, "has begun"),
        ({"name": "another"}, "does not stand"),
    ],
)
def test_what_is_not_ours_to_acknowledge_is_not(
    azure_imds: AzureImds, change: dict[str, Any], why: str
) -> None:
    asked = provider(azure_imds)
    azure_imds.announce(**change)
    looked(asked)
    with pytest.raises(Rejected, match=why) as caught:
        asked.acknowledge(NAME)
    assert caught.value.reason == providers.NOT_ASKED
    assert azure_imds.acknowledged == []


EVENT: dict[str, Any] = {
    "EventId": NAME,
    "EventType": "Preempt",
    "ResourceType": "VirtualMachine",
    "Resources": [MACHINE],
    "EventStatus": "Scheduled",
    "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT",
    "Description": "",
    "EventSource": "Platform",
    "DurationInSeconds": -1,
}


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("Mon, 19 Sep 2016 18:29:47 GMT", 1474309787),
        ("2016-09-19T18:29:47Z", 1474309787),
        ("Mon, 19 Sep 2016", None),
        ("", None),
        (None, None),
        (1474309787, None),
    ],
)
def test_a_time_that_is_not_understood_is_no_reason_not_to_hear(
    text: object, ends: float | None
) -> None:
    _, found = azure.parse_event({**EVENT, "NotBefore": text}, machine=MACHINE)
    assert found is not None
    assert (found.kind, found.ends_unix) == (Kind.INTERRUPTION, ends)


@given(JSON)
def test_any_event_is_read_or_said_not_to_be_one(value: Any) -> None:
    check(value)


@given(st.data(), JSON)
def test_an_event_with_another_value_is_read_or_said_not_to_be_one(
    data: st.DataObject, value: Any
) -> None:
    document = json.loads(json.dumps(EVENT))
    replace(document, data.draw(st.sampled_from(paths(document))), value)
    check(document)


@given(st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_document_is_read_or_said_not_to_be_one(body: bytes) -> None:
    for parse in (azure.parse_document, azure.parse_compute):
        with contextlib.suppress(FormatError):
            parse(answer(body))


def check(value: Any) -> None:
    try:
        event, found = azure.parse_event(value, machine=MACHINE)
    except FormatError:
        return
    assert (event is None) == (found is None)
    if found is not None:
        assert found.said.isprintable()
