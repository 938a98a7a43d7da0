"""What is asked again as long as the answer is no."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from architect.daemon.moves import question
from architect.daemon.moves.question import Question


class Asked:
    def __init__(self) -> None:
        self.answers: list[bool] = []
        self.times = 0
        self.is_answered = threading.Event()
        self.goes = threading.Event()
        self.goes.set()

    def ask(self) -> bool:
        self.times += 1
        assert self.goes.wait(20)
        return self.answers.pop(0)

    def question(self) -> Question:
        return Question(self.ask, name="ask", answered=self.is_answered.set)

    def wait(self) -> None:
        assert self.is_answered.wait(20)
        self.is_answered.clear()


def test_a_young_no_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question, "FRESH_SECONDS", 3600.0)
    asked = Asked()
    asked.answers = [False]
    made = asked.question()
    made.begin()
    asked.wait()
    assert [made.is_yes() for _ in range(3)] == [False] * 3
    assert asked.times == 1


def test_an_old_no_is_asked_for_again_and_yes_is_kept(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    monkeypatch.setattr(question, "FRESH_SECONDS", -1.0)
    asked = Asked()
    asked.answers = [False, True]
    made = asked.question()
    made.begin()
    asked.wait()
    eventually(made.is_yes)
    made.begin()
    assert made.is_yes()
    assert asked.times == 2


def test_nobody_waits_and_nobody_asks_twice_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question, "FRESH_SECONDS", -1.0)
    asked = Asked()
    asked.answers = [True]
    asked.goes.clear()
    made = asked.question()
    for _ in range(3):
        made.begin()
        assert not made.is_yes()
    assert not made.has_answer
    asked.goes.set()
    asked.wait()
    assert made.is_yes()
    assert asked.times == 1


def test_a_defect_is_no_answer_that_others_wait_for() -> None:
    asked = Asked()
    made = asked.question()
    made.begin()
    asked.wait()
    assert made.has_answer
    assert not made.is_yes()
