"""Questions to a daemon that is restarted, is not there, or does not answer."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from architect.api import daemon, names
from architect.core import clocks, wire
from architect.core.errors import Rejected, Unavailable
from architect.shim import daemon_client

Answer = Callable[[dict[str, Any]], dict[str, Any] | None]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(names, "DAEMON_SOCKET", tmp_path / "daemon.sock")
    monkeypatch.setattr(daemon_client, "STEP_SECONDS", 0.01)
    return tmp_path / "daemon.sock"


def listen(path: Path, *answers: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Answer one question a connection; None closes it instead. Return what is asked."""
    asked: list[dict[str, Any]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    asked.extend(wire.Decoder().feed(connection.recv(65536)))
                    if answer is not None:
                        connection.sendall(wire.encode(answer))
        path.unlink()

    threading.Thread(target=serve, daemon=True).start()
    return asked


def test_the_one_that_comes_after_is_asked_the_same(path: Path) -> None:
    asked = listen(path, None, None, {"ok": True, "restore": True})
    answer = daemon_client.ask("arriving", timeout_seconds=20, pod="uid-1")
    assert answer["restore"] is True
    assert [a["pod"] for a in asked] == ["uid-1"] * 3


def test_where_none_listens_nobody_is_waited_for(path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot connect"):
        daemon_client.ask("arriving", timeout_seconds=20)


def test_one_that_was_at_work_for_us_is_waited_for(path: Path) -> None:
    asked: list[list[dict[str, Any]]] = []
    timer = threading.Timer(0.3, lambda: asked.append(listen(path, {"ok": True, "captured": True})))
    timer.start()
    answer = daemon_client.ask("leaving", timeout_seconds=20, is_awaited=lambda: True, pod="u")
    timer.join()
    assert answer["captured"] is True
    assert [a["pod"] for a in asked[0]] == ["u"]


def test_one_that_was_at_work_for_us_and_stays_away_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_client, "RESTART_SECONDS", 0.1)
    with pytest.raises(Unavailable, match="cannot connect"):
        daemon_client.ask("leaving", timeout_seconds=20, is_awaited=lambda: True)


def test_one_that_ends_and_does_not_come_back_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_client, "RESTART_SECONDS", 0.1)
    listen(path, None)
    with pytest.raises(Unavailable, match="cannot connect"):
        daemon_client.ask("arriving", timeout_seconds=20)


def test_one_that_does_not_answer_is_given_up_when_the_time_is_over(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with listener, pytest.raises(Unavailable, match="no answer"):
        daemon_client.ask("arriving", timeout_seconds=0.2)


def test_a_refusal_is_an_answer(path: Path) -> None:
    error = {"code": "rejected", "reason": "Protocol", "message": "unknown operation"}
    asked = listen(path, {"ok": False, "error": error})
    with pytest.raises(Rejected, match="unknown operation"):
        daemon_client.ask("arriving", timeout_seconds=20)
    assert len(asked) == 1


def test_one_that_is_being_replaced_is_expected_for_a_minute(path: Path) -> None:
    assert not daemon_client.is_being_replaced()
    left = path.with_name(daemon.LEFT)
    now = clocks.boot_seconds()
    for said, is_expected in (
        (now, True),
        (now - daemon_client.REPLACED_SECONDS / 2, True),
        (now - daemon_client.REPLACED_SECONDS, False),
    ):
        left.write_text(f"{said:.3f}\n")
        assert daemon_client.is_being_replaced() is is_expected
    left.write_text("damaged")
    assert not daemon_client.is_being_replaced()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(jump=st.floats(min_value=-86400, max_value=86400))
def test_whether_one_comes_does_not_depend_on_the_wall_clock(path: Path, jump: float) -> None:
    left = path.with_name(daemon.LEFT)
    left.write_text(f"{clocks.boot_seconds():.3f}\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time", lambda: 1e9 + jump)
        assert daemon_client.is_being_replaced()


def test_what_an_earlier_daemon_has_left_is_told_by_its_time(path: Path) -> None:
    left = path.with_name(daemon.LEFT)
    left.touch()
    assert daemon_client.is_being_replaced()
    long_ago = time.time() - daemon_client.REPLACED_SECONDS
    os.utime(left, (long_ago, long_ago))
    assert not daemon_client.is_being_replaced()
