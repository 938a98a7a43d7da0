"""Values of flags."""

from __future__ import annotations

import pytest

from architect.core import flags


def test_a_switch_is_true_or_false() -> None:
    assert flags.switch("true") is True
    assert flags.switch("false") is False


@pytest.mark.parametrize("text", ["", "True", "yes", "1", " true"])
def test_a_switch_is_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match="is not true or false"):
        flags.switch(text)


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), ("0.5", 0.5), ("1m30s", 90.0)])
def test_seconds_are_a_number_or_a_duration(text: str, seconds: float) -> None:
    assert flags.seconds(text) == seconds


def test_what_are_no_seconds_is_told_by_value() -> None:
    with pytest.raises(ValueError, match="'soon' is not a duration"):
        flags.seconds("soon")
