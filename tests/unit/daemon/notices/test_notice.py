"""What an announcement is, and which one counts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.daemon.notices.notice import ENDS, MAX_SAID_CHARS, Kind, Notice, foremost, line

NOTICES = st.builds(
    Notice,
    kind=st.sampled_from(Kind),
    source=st.sampled_from(["aws", "node"]),
    id=st.sampled_from("abc"),
    said=st.just(""),
    ends_unix=st.none(),
    deadline=st.none() | st.floats(0, 1000),
)


def notice(**fields: object) -> Notice:
    given_fields = {
        "kind": Kind.INTERRUPTION,
        "source": "aws",
        "id": "a",
        "said": "terminate",
        "ends_unix": None,
        "deadline": 130.0,
        **fields,
    }
    return Notice(**given_fields)  # type: ignore[arg-type]


def test_the_time_left_is_of_the_monotonic_clock_and_never_negative() -> None:
    assert notice().seconds_left(100.0) == 30.0
    assert notice().seconds_left(200.0) == 0.0
    assert notice(deadline=None).seconds_left(100.0) is None


@given(st.lists(NOTICES))
def test_the_foremost_is_the_first_end_that_is_known(notices: list[Notice]) -> None:
    found = foremost(notices)
    if not notices:
        assert found is None
        return
    assert found is not None
    ends = [n for n in notices if n.kind in ENDS]
    known = [n.deadline for n in ends if n.deadline is not None]
    if known:
        assert found.deadline == min(known)
    if ends:
        assert found.kind in ENDS


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"deadline": time.monotonic() - 5}, "interruption in 0 s (aws: terminate)"),
        ({"deadline": None}, "interruption at a time that was not said (aws: terminate)"),
        (
            {"deadline": None, "kind": Kind.REBALANCE},
            "rebalance more likely than usual (aws: terminate)",
        ),
    ],
)
def test_a_notice_says_what_it_is(fields: dict[str, object], text: str) -> None:
    assert str(notice(**fields)) == text


@given(st.text())
def test_what_others_say_is_one_printable_line(text: str) -> None:
    found = line(text)
    assert len(found) <= MAX_SAID_CHARS
    assert found.isprintable()
    assert line(found) == found
