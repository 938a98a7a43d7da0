"""Amazon's instance metadata service."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core.errors import FormatError, Rejected, Unavailable
from architect.daemon.notices import aws, metadata
from architect.daemon.notices.aws import Aws
from architect.daemon.notices.metadata import Absent
from architect.daemon.notices.notice import Announcement, Kind
from support.cloudmetadata.aws import ACTION, Imds
from support.cloudmetadata.server import Reply
from support.jsonvalues import JSON, paths, replace
from unit.daemon.notices.conftest import answer, service

TOKEN = "/latest/api/token"


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each look ask for everything."""
    for name in ("ACTION_SECONDS", "REBALANCE_SECONDS", "SCHEDULED_SECONDS"):
        monkeypatch.setattr(aws, name, 0.0)


def looked(provider: Aws) -> dict[str, tuple[Announcement, ...]]:
    """Look, and return what was heard; nothing may be wrong."""
    parts = provider.look().parts
    assert not [p.problem for p in parts.values() if p.problem]
    return {name: part.announcements or () for name, part in parts.items()}


def test_the_instance_says_who_it_is(imds: Imds) -> None:
    found = Aws(service(imds.url)).identify()
    assert (found.name, found.about) == ("i-0123456789abcdef0", "m7i.xlarge, eu-west-2a")
    assert found.is_spot
    imds.documents["/latest/meta-data/instance-life-cycle"] = b"on-demand"
    assert not Aws(service(imds.url)).identify().is_spot


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_an_interruption_is_heard_with_its_time(imds: Imds, action: str) -> None:
    provider = Aws(service(imds.url))
    assert looked(provider) == {"action": (), "rebalance": (), "scheduled": ()}
    ends = imds.interrupt(action)
    (found,) = looked(provider)["action"]
    assert (found.kind, found.ends_unix) == (Kind.INTERRUPTION, ends)
    assert found.said.startswith(action)
    imds.withdraw()
    assert looked(provider)["action"] == ()


def test_a_recommendation_and_scheduled_events_are_heard(imds: Imds) -> None:
    provider = Aws(service(imds.url))
    imds.recommend()
    event = {
        "NotBefore": "21 Jan 2099 09:00:43 GMT",
        "Code": "system-reboot",
        "Description": "scheduled reboot",
        "EventId": "instance-event-0d59937288b749b32",
        "State": "active",
    }
    imds.schedule(event, {**event, "EventId": "other", "State": "completed"})
    found = looked(provider)
    assert [a.kind for a in found["rebalance"]] == [Kind.REBALANCE]
    (scheduled,) = found["scheduled"]
    assert (scheduled.kind, scheduled.ends_unix) == (Kind.MAINTENANCE, 4072669243)
    assert "system-reboot" in scheduled.said


def test_one_token_serves_until_it_is_to_be_renewed(
    imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Aws(service(imds.url))
    provider.identify()
    looked(provider)
    assert imds.asked("PUT", TOKEN) == 1
    assert imds.requests[0].headers["x-aws-ec2-metadata-token-ttl-seconds"] == "21600"
    monkeypatch.setattr(provider, "_renew_at", 0.0)
    looked(provider)
    assert imds.asked("PUT", TOKEN) == 2
    assert all(r.method == "PUT" or "x-aws-ec2-metadata-token" in r.headers for r in imds.requests)


def test_a_token_of_short_life_is_renewed_in_time_and_not_each_time(imds: Imds) -> None:
    imds.most_ttl_seconds = 60
    provider = Aws(service(imds.url))
    for _ in range(5):
        looked(provider)
    assert imds.asked("PUT", TOKEN) == 1


def test_a_token_that_is_refused_is_replaced_at_once(imds: Imds) -> None:
    provider = Aws(service(imds.url))
    looked(provider)
    ends = imds.interrupt()
    imds.expire_tokens()
    (found,) = looked(provider)["action"]
    assert found.ends_unix == ends
    assert imds.asked("PUT", TOKEN) == 2


def test_a_renewal_that_fails_keeps_the_token_that_is_still_good(
    imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Aws(service(imds.url))
    looked(provider)
    monkeypatch.setattr(provider, "_renew_at", 0.0)
    imds.replies[TOKEN] = Reply(status=503)
    imds.interrupt()
    assert looked(provider)["action"]
    monkeypatch.setattr(provider, "_token_ends_at", 0.0)
    parts = provider.look().parts
    assert all(isinstance(p.problem, Unavailable) for p in parts.values())


def test_a_token_that_is_always_refused_is_named_and_not_asked_for_ever(imds: Imds) -> None:
    imds.replies[ACTION] = Reply(status=401)
    provider = Aws(service(imds.url))
    part = provider.look().parts["action"]
    assert isinstance(part.problem, Rejected)
    assert part.problem.reason == metadata.UNAUTHORIZED
    assert imds.asked("GET", ACTION) == 2


def test_a_token_that_does_not_get_here_is_the_hop_limit(
    imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "TOKEN_SECONDS", 0.3)
    imds.silent.add(f"PUT {TOKEN}")
    for requires_tokens in (True, False):
        imds.requires_tokens = requires_tokens
        with pytest.raises(Rejected, match="HttpPutResponseHopLimit") as caught:
            Aws(service(imds.url)).identify()
        assert caught.value.reason == aws.HOP_LIMIT


def test_silence_of_somebody_else_is_not_the_hop_limit(
    imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "TOKEN_SECONDS", 0.3)
    imds.silent.add(f"PUT {TOKEN}")
    imds.replies["/latest/dynamic/instance-identity/document"] = Reply(status=404)
    with pytest.raises(Unavailable, match="has not answered"):
        Aws(service(imds.url)).identify()


def test_who_has_had_a_token_is_not_told_of_hop_limits(
    imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Aws(service(imds.url))
    looked(provider)
    monkeypatch.setattr(aws, "TOKEN_SECONDS", 0.3)
    monkeypatch.setattr(provider, "_token_ends_at", 0.0)
    imds.silent.add(f"PUT {TOKEN}")
    part = provider.look().parts["action"]
    assert isinstance(part.problem, Unavailable)


def test_version_1_alone_is_named(imds: Imds) -> None:
    imds.has_tokens = False
    with pytest.raises(Rejected, match="only IMDSv1 answers") as caught:
        Aws(service(imds.url)).identify()
    assert caught.value.reason == aws.NO_TOKENS


def test_a_service_that_is_disabled_is_named(imds: Imds) -> None:
    imds.is_enabled = False
    with pytest.raises(Rejected, match="HttpEndpoint is disabled") as caught:
        Aws(service(imds.url)).identify()
    assert caught.value.reason == aws.DISABLED


@pytest.mark.parametrize("status", [400, 404, 405, 302])
def test_another_clouds_service_is_not_amazons(imds: Imds, status: int) -> None:
    for path in (TOKEN, "/latest/dynamic/instance-identity/document"):
        imds.replies[path] = Reply(status=status)
    with pytest.raises(Absent):
        Aws(service(imds.url)).identify()


@pytest.mark.parametrize("token", [b"", b"a b", b"a\r\nX: y", b"x" * 3000, b"\xff\xfe"])
def test_a_token_that_no_header_may_have_is_none(imds: Imds, token: bytes) -> None:
    imds.replies[TOKEN] = Reply(body=token)
    with pytest.raises(FormatError):
        Aws(service(imds.url)).identify()
    assert imds.asked("GET", "/latest/dynamic/instance-identity/document") == 0


def test_a_broken_part_hides_no_other(imds: Imds) -> None:
    imds.interrupt()
    imds.documents["/latest/meta-data/events/maintenance/scheduled"] = b"<html>"
    imds.replies["/latest/meta-data/events/recommendations/rebalance"] = Reply(status=500)
    parts = Aws(service(imds.url)).look().parts
    assert parts["action"].announcements
    assert isinstance(parts["scheduled"].problem, FormatError)
    assert isinstance(parts["rebalance"].problem, Unavailable)


def test_nobody_waits_to_be_told(imds: Imds) -> None:
    with pytest.raises(Rejected, match="does not ask"):
        Aws(service(imds.url)).acknowledge("spot/instance-action")


def test_an_instance_that_is_none_of_spot_is_asked_once_a_minute(imds: Imds) -> None:
    imds.documents["/latest/meta-data/instance-life-cycle"] = b"on-demand"
    provider = Aws(service(imds.url))
    provider.identify()
    assert 30 < provider.look().again_seconds <= 60


# Parsers


def test_an_action_whose_time_is_not_understood_is_heard_all_the_same() -> None:
    (found,) = aws.parse_action(answer('{"action": "terminate", "time": "soon"}'))
    assert found.ends_unix is None
    assert found.said == "terminate at a time that is not understood ('soon')"
    (found,) = aws.parse_action(answer('{"action": "melt"}'))
    assert found.said.startswith("melt at a time that is not understood")


@pytest.mark.parametrize("body", ["", "null", "[]", "{}", '{"action": 1}', "[" * 60000, "\xff"])
def test_what_is_no_action_is_none(body: str) -> None:
    with pytest.raises(FormatError):
        aws.parse_action(answer(body))


PARSERS = (aws.parse_action, aws.parse_rebalance, aws.parse_scheduled, aws.parse_identity)
TEMPLATES: tuple[Any, ...] = (
    {"action": "terminate", "time": "2017-09-18T08:22:00Z"},
    {"noticeTime": "2020-10-27T08:22:00Z"},
    [{"Code": "x", "NotBefore": "21 Jan 2019 09:00:43 GMT", "EventId": "y", "State": "active"}],
    {"instanceId": "i-1", "instanceType": "m", "availabilityZone": "z"},
)


@given(
    st.sampled_from(PARSERS), st.binary(max_size=300) | JSON.map(lambda v: json.dumps(v).encode())
)
def test_parsers_take_anything_or_say_what_it_is_not(parse: Any, body: bytes) -> None:
    check(parse, body)


@given(st.sampled_from(PARSERS), st.sampled_from(TEMPLATES), st.data(), JSON)
def test_parsers_take_documents_with_another_value(
    parse: Any, template: Any, data: st.DataObject, value: Any
) -> None:
    document = json.loads(json.dumps(template))
    replace(document, data.draw(st.sampled_from(paths(document))), value)
    check(parse, json.dumps(document).encode())


def check(parse: Any, body: bytes) -> None:
    try:
        found = parse(answer(body))
    except FormatError:
        return
    for item in found:
        text = item.said + item.id if isinstance(item, Announcement) else item
        assert text.isprintable()
        assert len(text) < 700
