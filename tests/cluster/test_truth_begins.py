"""Init containers, sidecars and ephemeral containers beside one that sleeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from lab.cluster import Cluster
from support import truth
from support.truth import KEPT, WAIT, Plan, Subject, Trio, container
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

INITS: Final = [
    container("first", "echo first >> /go/order"),
    container(
        "sidecar",
        "echo sidecar >> /go/order; "
        "trap 'echo sidecar ends with $(cat /go/ended) > /dev/termination-log; exit 0' TERM; "
        "while :; do date +%s%N > /go/beat; sleep 0.3; done",
        restartPolicy="Always",
    ),
    container(
        "second", "[ -e /go/tried ] || { touch /go/tried; exit 1; }; echo second >> /go/order"
    ),
]
APP: Final = container(
    "app",
    "echo app >> /go/order; trap 'echo app > /go/ended; exit 7' TERM; "
    f"{WAIT} cat /go/order; while :; do sleep 0.3; done",
)

PLANS: Final = {
    "begins": Plan(
        containers=[APP],
        spec={"initContainers": INITS, "terminationGracePeriodSeconds": 60},
        metadata=KEPT,
    ),
    "debugged": Plan(containers=[container("app", ["sleep", "1000"])]),
    "joined": Plan(containers=[container("app", ["sleep", "1000"])]),
}


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    with truth.running(architect, theme, PLANS) as made:
        yield made


@truth.behaviour("init containers and sidecars: their order, their restarts, and none after a wake")
@truth.behaviour("a sidecar ends after the application, in its own grace period")
def test_init_containers_run_once_and_sidecars_all_the_time(pods: dict[str, Trio]) -> None:
    trio = pods["begins"]
    trio.sleep()
    # The sidecar goes on beside a sleeping application.
    before = _beat(trio.slept)
    eventually(lambda: _beat(trio.slept) != before, what="the sidecar goes on")
    assert trio.slept.is_asleep, "a command in a sidecar wakes nobody"
    trio.go("app")
    for said in trio.each(Subject.until_said, "app", "app").values():
        assert said == ["first", "sidecar", "second", "app"]
    seen = trio.each(lambda pod: {name: s["restartCount"] for name, s in pod.statuses().items()})
    truth.check(seen, {"first": 0, "sidecar": 0, "second": 1, "app": 0})
    # Their end: the application's first.
    trio.sleep()
    trio.each(truth.delete)
    truth.check(trio.each(lambda pod: pod.ending("app")["exitCode"]), 7)
    ended = trio.each(Subject.ending, "sidecar")
    truth.check(ended, {"exitCode": 0, "reason": "Completed", "message": "sidecar ends with app\n"})


def _beat(pod: Subject) -> str:
    return pod.run("sidecar", "cat", "/go/beat")


LOOK: Final = "for p in /proc/[0-9]*; do cat $p/comm; done 2>/dev/null | sort -u; exit 4"


def _debug(pod: Subject, *words: str) -> tuple[list[str], int]:
    pod.kubectl(
        *("debug", pod.name, "--image=localhost/py:3", "--image-pull-policy=Never"),
        *("--target=app", "--container=debugger", *words, "--", "sh", "-c", LOOK),
    )
    status = int(pod.ending("debugger")["exitCode"])
    ignored = {"sh", "sort", "cat"}
    return [name for name in pod.said("debugger") if name not in ignored], status


@truth.behaviour(
    "`kubectl debug --target`: an ephemeral container that sees the application's processes",
    managed="two more, called `init`",
    slept="two more, called `init`; with `SYS_PTRACE`, as kubectl's default, it wakes the pod",
)
def test_a_debugger_sees_the_application(pods: dict[str, Trio]) -> None:
    trio = pods["debugged"]
    trio.sleep()
    seen = trio.each(_debug, "--profile=general")
    more = (["init", "sleep"], 4)
    truth.check(seen, (["sleep"], 4), managed=more, slept=more)
    truth.check(trio.each(Subject.restarts), 0)


@truth.behaviour(
    "`kubectl debug --target` without capabilities",
    managed="two more processes, called `init`",
    slept="it does not wake the pod, and sees `init` alone",
)
def test_a_container_without_capabilities_joins_without_a_wake(pods: dict[str, Trio]) -> None:
    trio = pods["joined"]
    trio.sleep()
    seen = trio.each(_debug, "--profile=baseline")
    truth.check(seen, (["sleep"], 4), managed=(["init", "sleep"], 4), slept=(["init"], 4))
    assert trio.slept.is_asleep
