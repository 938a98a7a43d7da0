"""Requests to a process: answers, refusals, silence and death."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.remote import Remote

SERVER = """
import sys, time
from bench.serving import serve
def fail(): raise ValueError("no such thing")
def end(): print("gone", file=sys.stderr, flush=True); sys.exit(3)
serve({"add": lambda a, b: {"sum": a + b}, "fail": fail, "end": end,
       "hang": lambda: time.sleep(600)})
"""


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            start_new_session=True,
        )
    made = Remote("helper", process, log=log)
    yield made
    process.kill()
    made.close()
    made.close()


def test_answers_come_back(remote: Remote) -> None:
    assert remote.call("add", timeout_seconds=30, a=1, b=2) == {"sum": 3}
    assert remote.call("add", timeout_seconds=30, a=[1], b=[2]) == {"sum": [1, 2]}


def test_a_failure_names_process_operation_and_cause_and_is_not_the_end(remote: Remote) -> None:
    with pytest.raises(BenchError, match=r"helper: fail .*ValueError: no such thing"):
        remote.call("fail", timeout_seconds=30)
    assert remote.call("add", timeout_seconds=30, a=1, b=1) == {"sum": 2}


def test_an_unknown_operation_is_a_failure(remote: Remote) -> None:
    with pytest.raises(BenchError, match="KeyError"):
        remote.call("subtract", timeout_seconds=30)


def test_a_process_that_ends_is_told_with_what_it_said(remote: Remote) -> None:
    with pytest.raises(BenchError, match=r"ended during end\ngone"):
        remote.call("end", timeout_seconds=30)
    with pytest.raises(BenchError, match="helper"):
        remote.call("add", timeout_seconds=30, a=1, b=1)


def test_silence_is_bounded(remote: Remote) -> None:
    with pytest.raises(BenchError, match=r"no answer within 0\.2 s"):
        remote.call("hang", timeout_seconds=0.2)
