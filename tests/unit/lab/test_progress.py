from __future__ import annotations

import io
import threading

import pytest

from lab.progress import Progress, spell


class Listener(io.StringIO):
    """Keeps lines and says when one with *awaited* in it has come."""

    def __init__(self, awaited: str) -> None:
        super().__init__()
        self.awaited = awaited
        self.heard = threading.Event()

    def write(self, text: str) -> int:
        if self.awaited in text:
            self.heard.set()
        return super().write(text)


def test_a_long_step_says_now_and_then_that_it_goes_on() -> None:
    stream = Listener("still building x")
    with Progress(stream, heartbeat_seconds=0.01).step("building x", takes="a while"):
        assert stream.heard.wait(60)
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("building x (a while) …")
    assert "… still building x (" in lines[1]
    assert "building x: done in " in lines[-1]


def test_a_short_step_says_that_it_begins_and_ends() -> None:
    stream = io.StringIO()
    with Progress(stream).step("short"):
        pass
    assert len(stream.getvalue().splitlines()) == 2


def test_a_step_that_fails_says_so() -> None:
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), Progress(stream).step("dividing"):
        _ = 1 / 0
    assert "dividing: failed after" in stream.getvalue()


def test_nothing_is_said_where_nobody_listens() -> None:
    stream = io.StringIO()
    with Progress(stream, quiet=True, heartbeat_seconds=0.01).step("x"):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.26, "7.3 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (150.7, "2 min 30 s")],
)
def test_durations_are_spelt_as_people_say_them(seconds: float, text: str) -> None:
    assert spell(seconds) == text
