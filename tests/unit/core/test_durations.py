"""Durations in Go's syntax."""

from __future__ import annotations

import pytest

from architect.core import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("500ms", 0.5), ("0", 0), ("1.5m", 90), ("2h0m5s", 7205)],
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert durations.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "60", "-5s", "5 s", "1d", "s", "1h-2m", "∞"])
def test_other_texts_are_refused_by_value(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        durations.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.085, "85ms"), (12.5, "12.5s"), (200, "3m20s"), (7500, "2h05m")]
)
def test_durations_are_shown_short(seconds: float, text: str) -> None:
    assert durations.render(seconds) == text
