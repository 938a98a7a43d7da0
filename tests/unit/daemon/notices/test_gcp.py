"""Google's metadata server."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.core.errors import FormatError, Rejected
from architect.daemon.notices import gcp
from architect.daemon.notices.gcp import Gcp
from architect.daemon.notices.metadata import Absent
from architect.daemon.notices.notice import Announcement, Kind
from support.cloudmetadata.gcp import Gce
from support.cloudmetadata.server import Reply
from support.patience import patient
from unit.daemon.notices.conftest import answer, service


def looked(provider: Gcp) -> dict[str, tuple[Announcement, ...]]:
    """Look, and return what was heard; nothing may be wrong."""
    parts = provider.look().parts
    assert not [p.problem for p in parts.values() if p.problem]
    return {name: part.announcements or () for name, part in parts.items()}


def test_the_machine_says_who_it_is(gce: Gce) -> None:
    found = Gcp(service(gce.url)).identify()
    assert found.name == "4520031799277581759"
    assert found.is_spot
    gce.values["scheduling/preemptible"] = "FALSE"
    assert not Gcp(service(gce.url)).identify().is_spot
    assert all(r.headers["metadata-flavor"] == "Google" for r in gce.requests)


def test_an_answer_without_the_header_is_somebody_elses(gce: Gce) -> None:
    gce.replies[gcp.ID] = Reply(body=b"4520031799277581759")
    with pytest.raises(Absent):
        Gcp(service(gce.url)).identify()
    gce.replies[gcp.PREEMPTED] = Reply(body=b"TRUE")
    part = Gcp(service(gce.url)).look().parts["preempted"]
    assert isinstance(part.problem, FormatError)
    assert part.announcements is None


def test_a_preemption_is_heard_in_the_moment_that_it_is_announced(
    gce: Gce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcp, "WAIT_SECONDS", 3600)
    monkeypatch.setattr(gcp, "WAIT_MARGIN_SECONDS", patient(20.0))
    provider = Gcp(service(gce.url), notice_seconds=45.0)
    assert looked(provider) == {"preempted": (), "maintenance": ()}
    heard: list[dict[str, tuple[Announcement, ...]]] = []
    thread = threading.Thread(target=lambda: heard.append(looked(provider)))
    thread.start()
    deadline = time.monotonic() + patient(20.0)
    while not gce.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    gce.preempt()
    thread.join(patient(20.0))
    (found,) = heard[0]["preempted"]
    assert (found.kind, found.ends_in_seconds) == (Kind.INTERRUPTION, 45.0)


def test_a_change_between_two_questions_is_not_missed(gce: Gce) -> None:
    provider = Gcp(service(gce.url))
    assert looked(provider)["preempted"] == ()
    gce.preempt()
    assert looked(provider)["preempted"]
    gce.withdraw()
    assert looked(provider)["preempted"] == ()


def test_a_question_that_is_held_back_ends_without_a_change(gce: Gce) -> None:
    provider = Gcp(service(gce.url))
    assert provider.look().again_seconds == 0.0, "the next question waits by itself"
    began = time.monotonic()
    assert provider.look().again_seconds == 0.0
    assert time.monotonic() - began >= gcp.WAIT_SECONDS
    waiting = gce.requests[-2]
    assert waiting.query.keys() == {"wait_for_change", "last_etag", "timeout_sec"}


@pytest.mark.parametrize("what", ["holds_back", "has_etags"])
def test_a_server_that_does_not_hold_back_is_not_asked_without_a_pause(
    gce: Gce, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcp, "POLL_SECONDS", patient(20.0))
    setattr(gce, what, False)
    provider = Gcp(service(gce.url))
    provider.look()
    assert provider.look().again_seconds == gcp.POLL_SECONDS


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ("NONE", []),
        ("MIGRATE_ON_HOST_MAINTENANCE", []),
        ("TERMINATE_ON_HOST_MAINTENANCE", [Kind.MAINTENANCE]),
    ],
)
def test_maintenance_counts_if_it_ends_the_machine(gce: Gce, value: str, kinds: list[Kind]) -> None:
    gce.values["maintenance-event"] = value
    assert [a.kind for a in looked(Gcp(service(gce.url)))["maintenance"]] == kinds


def test_a_maintenance_event_of_another_form_hides_no_preemption(gce: Gce) -> None:
    gce.values["maintenance-event"] = '{"window": "soon"}'
    gce.preempt()
    parts = Gcp(service(gce.url)).look().parts
    assert isinstance(parts["maintenance"].problem, FormatError)
    assert parts["preempted"].announcements


def test_gkes_own_server_is_named(gce: Gce) -> None:
    gce.is_concealed = True
    provider = Gcp(service(gce.url))
    assert provider.identify().name == "4520031799277581759"
    part = provider.look().parts["preempted"]
    assert isinstance(part.problem, Rejected)
    assert part.problem.reason == gcp.CONCEALED
    assert "host's network" in part.problem.hint


def test_after_a_failure_the_value_is_asked_for_and_not_its_next_change(gce: Gce) -> None:
    provider = Gcp(service(gce.url))
    looked(provider)
    gce.replies[gcp.PREEMPTED] = Reply(status=503)
    assert provider.look().parts["preempted"].problem
    gce.preempt()
    del gce.replies[gcp.PREEMPTED]
    assert looked(provider)["preempted"]
    plain = [r for r in gce.requests if r.path == gcp.PREEMPTED][-1]
    assert not plain.query


def test_an_etag_cannot_add_to_the_question(gce: Gce) -> None:
    gce.replies[gcp.PREEMPTED] = Reply(
        body=b"FALSE", headers={"Metadata-Flavor": "Google", "ETag": "a&x=1 b/?#"}
    )
    provider = Gcp(service(gce.url))
    looked(provider)
    looked(provider)
    asked = [r for r in gce.requests if r.path == gcp.PREEMPTED][-1]
    assert asked.query["last_etag"] == "a&x=1 b/?#"
    assert "x" not in asked.query


@given(st.binary(max_size=100))
def test_parsers_take_anything_or_say_what_it_is_not(body: bytes) -> None:
    for parse in (
        gcp.parse_maintenance,
        lambda a: gcp.parse_preempted(a, notice_seconds=30.0),
    ):
        with contextlib.suppress(FormatError):
            assert all(a.said for a in parse(answer(body)))
