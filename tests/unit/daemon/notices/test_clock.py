"""Times of another clock."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.daemon.notices.clock import DATE_SECONDS, Clock, from_http_date, from_iso, to_iso

NOW = 1_900_000_000.0


class Time:
    def __init__(self) -> None:
        self.monotonic, self.unix = 5000.0, NOW

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.monotonic, unix=lambda: self.unix)


def test_without_an_answer_this_machines_clock_counts() -> None:
    time = Time()
    assert time.clock().deadline(NOW + 120) == 5120.0
    assert time.clock().skew_seconds == 0.0


@given(
    ahead=st.floats(-1e6, 1e6),
    left=st.floats(0, 600),
    fraction=st.floats(0, 0.999),
    way=st.floats(0, 1),
)
def test_the_deadline_is_by_the_services_clock_and_never_late(
    ahead: float, left: float, fraction: float, way: float
) -> None:
    """Whatever this machine's clock shows, and wherever in its second the service is."""
    time = Time()
    clock = time.clock()
    service = float(int(NOW)) + fraction
    time.unix = service + ahead
    asked_at = time.monotonic - way
    clock.hear(email.utils.formatdate(service, usegmt=True), asked_at=asked_at)
    truth = time.monotonic + left
    found = clock.deadline(service + left)
    assert truth - DATE_SECONDS - way - 1e-3 <= found <= truth + 1e-3
    assert abs(clock.skew_seconds - ahead) <= 1 + way + 1e-3


def test_a_step_of_the_wall_clock_moves_no_deadline() -> None:
    time = Time()
    clock = time.clock()
    clock.hear(email.utils.formatdate(NOW, usegmt=True), asked_at=time.monotonic)
    before = clock.deadline(NOW + 100)
    time.unix -= 86400
    assert clock.deadline(NOW + 100) == before


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 2020 00:00:00 GMT"])
def test_a_date_that_is_none_changes_nothing(date: str | None) -> None:
    time = Time()
    clock = time.clock()
    clock.hear(date, asked_at=time.monotonic)
    assert clock.deadline(NOW) == time.monotonic


def test_dates_are_read_as_rfc_1123_has_them() -> None:
    assert from_http_date("Mon, 19 Sep 2016 18:29:47 GMT") == 1474309787
    assert from_http_date("Mon, 9 Sep 2024 08:00:00 GMT") == 1725868800
    assert from_http_date("21 Jan 2019 09:00:43 GMT") == 1548061243
    assert from_http_date("Mon, 19 Sep 2016 18:29:47") is None
    assert from_http_date("2016-09-19T18:29:47Z") is None


def test_dates_are_read_as_rfc_3339_has_them() -> None:
    assert from_iso("2017-09-18T08:22:00Z") == 1505722920
    assert from_iso("2017-09-18T10:22:00+02:00") == 1505722920
    for text in ("2017-09-18T08:22:00", "2017-09-18", "now", "", "2017-13-18T08:22:00Z"):
        assert from_iso(text) is None, text


@given(
    st.text(max_size=40) | st.from_regex(r"[0-9T:Z+.-]{0,30}|[A-Z][a-z]{2}, [0-9 :A-Za-z+-]{0,30}")
)
def test_other_texts_are_no_times(text: str) -> None:
    for found in (from_http_date(text), from_iso(text)):
        assert found is None or isinstance(found, float)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_time_can_be_shown(unix: float) -> None:
    assert to_iso(unix)
