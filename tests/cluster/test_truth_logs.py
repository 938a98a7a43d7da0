"""What a container says is in its log: whole, in order, and whoever turns the file meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from lab.cluster import Cluster
from support import truth
from support.truth import GO, Plan, Subject, Trio, container
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

BOTH: Final = f"""
import os, sys, time
if os.path.exists({GO!r} + '-end'):
    time.sleep(1000)  # it was started again
count = 0
def say(many):
    global count
    for _ in range(many):
        count += 1
        os.write(1, b'out %d\\n' % count)
        os.write(2, b'err %d\\n' % count)
say(500)
os.write(1, b'ready\\n')
while not os.path.exists({GO!r}):
    say(1); time.sleep(0.05)
say(500)
os.write(1, b'no end of line, '); time.sleep(0.3); os.write(1, b'and then one\\n')
os.write(1, b'x' * 40000 + b'\\n')
os.write(1, b'done\\n')
while not os.path.exists({GO!r} + '-end'): time.sleep(0.2)
os.write(1, b'last words')
sys.exit(3)
"""

TURNED_MEBIBYTES: Final = 11
"""More than kubelet lets a log file become (10 MiB) before it turns it."""
MUCH: Final = f"""
import os, time
line = 'x' * 1000
def say(begin, end):
    for number in range(begin, end): os.write(1, b'%d %s\\n' % (number, line.encode()))
say(0, {TURNED_MEBIBYTES} * 1024)
while not os.path.exists({GO!r}): time.sleep(0.2)
say({TURNED_MEBIBYTES} * 1024, {TURNED_MEBIBYTES} * 1024 + 100)
while True: time.sleep(0.2)
"""

PLANS: Final = {
    "says": Plan(containers=[container("app", truth.python(BOTH))]),
    "turned": Plan(containers=[container("app", truth.python(MUCH))]),
}


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    with truth.running(architect, theme, PLANS) as made:
        yield made


@dataclass(frozen=True, kw_only=True)
class Log:
    """A log's lines by stream, as the node has them."""

    out: list[str]
    err: list[str]


def _log(pod: Subject) -> Log:
    """Return all that the container's log files have, older ones first (the CRI's format)."""
    directory = f"/var/log/pods/{pod.namespace}_{pod.name}_{pod.uid()}/app"
    # 0.log is the newest; those that were turned have their time behind it.
    text = pod.node().exec(
        ["sh", "-c", f"cd {directory} && cat $(ls 0.log.* 2>/dev/null | sort) 0.log"]
    )
    lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
    partial = dict.fromkeys(lines, "")
    # The last line may have been written by half.
    for line in text[: text.rfind("\n") + 1].splitlines():
        _, stream, tag, words = line.split(" ", 3)
        partial[stream] += words
        if tag == "F":
            lines[stream].append(partial[stream])
            partial[stream] = ""
    return Log(out=lines["stdout"], err=lines["stderr"])


def _numbers(lines: list[str], word: str) -> list[int]:
    return [int(m[1]) for line in lines if (m := re.fullmatch(rf"{word} (\d+)", line))]


@truth.behaviour(
    "logs: both streams whole and in order, lines of any length, the last one included"
)
@truth.behaviour("`kubectl logs --previous` after a restart")
def test_both_streams_are_whole_and_in_order(pods: dict[str, Trio]) -> None:
    trio = pods["says"]
    trio.each(lambda pod: pod.until_said("app", "ready"))
    for _ in range(2):
        trio.sleep()
        trio.slept.runtime("wake")
    trio.sleep()
    # Read while it sleeps: that wakes nobody.
    assert "ready" in trio.slept.said("app")
    assert trio.slept.is_asleep
    trio.go("app")
    trio.each(lambda pod: pod.until_said("app", "done"))
    for kind, log in trio.each(_log).items():
        for lines, word in ((log.out, "out"), (log.err, "err")):
            numbers = _numbers(lines, word)
            assert numbers == list(range(1, len(numbers) + 1)), kind
        assert len(_numbers(log.out, "out")) == len(_numbers(log.err, "err")) > 1000
        assert log.out[-3:] == ["no end of line, and then one", "x" * 40000, "done"]
    trio.each(lambda pod: pod.run("app", "touch", f"{GO}-end"))

    def before(pod: Subject) -> tuple[list[str], Any]:
        eventually(lambda: pod.restarts() == 1, what=f"{pod.name} is started again")
        last = truth.told(pod.status_of("app")["lastState"]["terminated"])
        return pod.said("app", "--previous")[-2:], last

    truth.check(trio.each(before), (["done", "last words"], {"exitCode": 3, "reason": "Error"}))


@truth.behaviour(
    "kubelet turns a log that is too large: no line is lost, and what follows is in the new file"
)
def test_a_log_that_is_turned(pods: dict[str, Trio]) -> None:
    trio = pods["turned"]
    last = f"{TURNED_MEBIBYTES * 1024 - 1} "
    # In whichever file: it may be turned by then.
    trio.each(
        lambda pod: eventually(
            lambda: any(line.startswith(last) for line in _log(pod).out[-3:]),
            what=f"{pod.name} has said it all",
        )
    )
    # Asleep it is turned all the same.
    trio.sleep()
    trio.each(
        lambda pod: eventually(lambda: _files(pod) > 1, what=f"the log of {pod.name} is turned")
    )
    assert trio.slept.is_asleep
    trio.go("app")
    whole = TURNED_MEBIBYTES * 1024 + 100

    def said(pod: Subject) -> list[int]:
        eventually(
            lambda: any(x.startswith(f"{whole - 1} ") for x in pod.said("app", "--tail=3")),
            what=f"{pod.name} goes on in the new file",
        )
        return [int(line.split()[0]) for line in _log(pod).out]

    for kind, numbers in trio.each(said).items():
        assert numbers == list(range(whole)), kind


def _files(pod: Subject) -> int:
    directory = f"/var/log/pods/{pod.namespace}_{pod.name}_{pod.uid()}/app"
    return len(pod.node().exec(["sh", "-c", f"ls {directory}"]).split())
