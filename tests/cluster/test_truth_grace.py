"""The end of a pod that is deleted: its hooks, its signal, and all of its grace period."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from lab.cluster import Cluster
from lab.node import Node
from support import truth
from support.truth import KEPT, Kind, Plan, Subject, Trio, container
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

NOTE: Final = "/dev/termination-log"
"""What is written there is in the container's status at its end, hooks and handlers in order."""
LOOP: Final = "while :; do sleep 0.2; done"
SET: Final = "mktemp /go/set-XXXXXX > /dev/null; "
"""Says that a container has set its trap: a pod is ready as soon as its processes are there."""
HANDLES: Final = (
    f"trap 'echo got TERM >> {NOTE}; sleep 3; echo used 3 s >> {NOTE}; exit 7' TERM; {SET}{LOOP}"
)
PORT: Final = 8090
ASKED: Final = f"""
import http.server, os, signal
def note(text):
    with open({NOTE!r}, 'a') as file: print(text, file=file)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        note('asked for ' + self.path)
        self.send_response(200); self.send_header('content-length', '0'); self.end_headers()
    def log_message(self, *_): pass
def end(*_):
    note('got TERM'); os._exit(7)
signal.signal(signal.SIGTERM, end)
http.server.ThreadingHTTPServer(('', {PORT}), Page).serve_forever()
"""

AT_ONCE: Final = "`143` at once instead of `137` at the end of the grace period, without a handler"


def hooks(**handlers: Any) -> dict[str, Any]:
    return {"lifecycle": handlers}


PLANS: Final = {
    "long": Plan(
        containers=[
            container("handles", HANDLES),
            container(
                "hooked",
                HANDLES,
                **hooks(
                    postStart={"exec": {"command": ["sh", "-c", f"echo postStart >> {NOTE}"]}},
                    preStop={
                        "exec": {
                            "command": ["sh", "-c", f"sleep 1; echo preStop >> {NOTE}; kill -0 1"]
                        }
                    },
                ),
            ),
            container(
                "asked",
                truth.python(ASKED),
                **hooks(preStop={"httpGet": {"path": "/stop", "port": PORT}}),
                readinessProbe={"tcpSocket": {"port": PORT}, "periodSeconds": 1},
            ),
        ],
        spec={"terminationGracePeriodSeconds": 120},
        metadata=KEPT,
    ),
    "brief": Plan(
        containers=[
            container("slow", f"trap 'echo got TERM > {NOTE}; {LOOP}' TERM; {SET}{LOOP}"),
            container("deaf", ["sleep", "1000"]),
            container(
                "stuck",
                f"trap 'echo got TERM > {NOTE}; exit 7' TERM; {SET}{LOOP}",
                **hooks(preStop={"exec": {"command": ["sleep", "1000"]}}),
            ),
        ],
        # Longer than a machine stands still: in it, who slept is woken and handles its signal.
        spec={"terminationGracePeriodSeconds": 15},
        metadata=KEPT,
    ),
    "none": Plan(
        containers=[container("app", HANDLES)],
        spec={"terminationGracePeriodSeconds": 0},
        metadata=KEPT,
    ),
    "late": Plan(
        containers=[container("app", HANDLES)],
        spec={"terminationGracePeriodSeconds": 30, "restartPolicy": "Never"},
    ),
    "refused": Plan(
        containers=[
            container(
                "app",
                f"trap 'exit 9' TERM; touch /go/trap; {LOOP}",
                # Not before it can handle a signal: both begin at once.
                **hooks(
                    postStart={
                        "exec": {
                            "command": [
                                *("sh", "-c"),
                                "while [ ! -e /go/trap ]; do sleep 0.1; done; echo no; exit 4",
                            ]
                        }
                    }
                ),
            )
        ],
        spec={"terminationGracePeriodSeconds": 20, "restartPolicy": "Never"},
        kinds=truth.AWAKE,
        is_awaited=False,
    ),
    "forced": Plan(containers=[container("app", HANDLES)]),
}


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    with truth.running(architect, theme, PLANS) as made:
        # All ends begin at once, and their grace periods pass side by side.
        ending = [made[name] for name in ("long", "brief", "none")]
        for name, container, count in (("long", "handles", 2), ("brief", "slow", 2)):
            made[name].each(_have_set_traps, container, count)
        truth.for_all(ending, Trio.sleep)
        truth.for_all(ending, lambda trio: trio.each(truth.delete))
        yield made


def _have_set_traps(pod: Subject, container: str, count: int) -> None:
    look = "ls /go | grep -c set- || true"
    eventually(
        lambda: int(pod.run(container, "sh", "-c", look)) == count,
        what=f"{count} containers of {pod.name} handle their signal",
    )


@truth.behaviour("a SIGTERM handler has its time, and its exit code counts (grace period 120 s)")
def test_a_handler_has_its_time(pods: dict[str, Trio]) -> None:
    seen = pods["long"].each(Subject.ending, "handles")
    truth.check(seen, {"exitCode": 7, "reason": "Error", "message": "got TERM\nused 3 s\n"})


@truth.behaviour("postStart and preStop hooks (`exec`): they run, in order, and before the signal")
def test_hooks_run_before_the_signal(pods: dict[str, Trio]) -> None:
    seen = pods["long"].each(Subject.ending, "hooked")
    story = "postStart\npreStop\ngot TERM\nused 3 s\n"
    truth.check(seen, {"exitCode": 7, "reason": "Error", "message": story})


@truth.behaviour("preStop hook (`httpGet`): the application is asked before its signal")
def test_a_hook_that_asks_the_application(pods: dict[str, Trio]) -> None:
    seen = pods["long"].each(Subject.ending, "asked")
    story = "asked for /stop\ngot TERM\n"
    truth.check(seen, {"exitCode": 7, "reason": "Error", "message": story})


@truth.behaviour("SIGKILL at the end of the grace period, for a handler that takes longer")
def test_who_takes_too_long_is_killed(pods: dict[str, Trio]) -> None:
    seen = pods["brief"].each(Subject.ending, "slow")
    truth.check(seen, {"exitCode": 137, "reason": "Error", "message": "got TERM\n"})


@truth.behaviour("an application without a handler for SIGTERM", managed=AT_ONCE, slept=AT_ONCE)
def test_without_a_handler(pods: dict[str, Trio]) -> None:
    seen = pods["brief"].each(lambda pod: pod.ending("deaf")["exitCode"])
    truth.check(seen, 137, managed=143, slept=143)


@truth.behaviour("a preStop hook that hangs costs the grace period, and the signal comes after it")
def test_a_hook_that_hangs(pods: dict[str, Trio]) -> None:
    seen = pods["brief"].each(Subject.ending, "stuck")
    truth.check(seen, {"exitCode": 7, "reason": "Error", "message": "got TERM\n"})


@truth.behaviour("terminationGracePeriodSeconds 0")
def test_no_grace_period_at_all(pods: dict[str, Trio]) -> None:
    truth.alike(pods["none"].each(lambda pod: pod.ending("app")["exitCode"]))


@truth.behaviour("activeDeadlineSeconds: the signal, and `DeadlineExceeded`")
def test_a_deadline(pods: dict[str, Trio]) -> None:
    trio = pods["late"]
    trio.sleep()
    trio.each(lambda pod: truth.patch(pod, {"spec": {"activeDeadlineSeconds": 1}}))

    def ended(pod: Subject) -> tuple[str, str, int]:
        status = eventually(
            lambda: found if (found := pod.pod()["status"])["phase"] == "Failed" else None,
            what=f"{pod.name} has failed",
        )
        return status["phase"], status["reason"], int(pod.ending("app")["exitCode"])

    truth.check(trio.each(ended), ("Failed", "DeadlineExceeded", 7))


@truth.behaviour("a postStart hook that fails: the container ends by its signal", slept=None)
def test_a_hook_that_fails(pods: dict[str, Trio]) -> None:
    trio = pods["refused"]
    truth.check(trio.each(lambda pod: pod.ending("app")["exitCode"]), 9)
    assert truth.alike(trio.each(_failed_hooks))
    assert set(trio.pods) == {Kind.RUNC, Kind.MANAGED}


def _failed_hooks(pod: Subject) -> list[str]:
    found: list[str] = eventually(
        lambda: pod.events("FailedPostStartHook"), what="event FailedPostStartHook"
    )
    return found


@truth.behaviour("`kubectl delete --force --grace-period=0`: nothing of the pod is left")
def test_a_forced_deletion(pods: dict[str, Trio]) -> None:
    trio = pods["forced"]
    trio.sleep()
    places = trio.each(lambda pod: (pod.node(), pod.uid()))
    trio.each(truth.delete, "--force", "--grace-period=0")
    for kind, (node, uid) in places.items():
        _until_no_process(node, uid, kind)


def _until_no_process(node: Node, uid: str, kind: Kind) -> None:
    find = ["sh", "-c", 'grep -ls "$0" /proc/[0-9]*/cgroup || true', uid]
    eventually(lambda: not node.exec(find).split(), what=f"no process of the pod ({kind}) is left")
