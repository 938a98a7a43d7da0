"""How containers end: exit codes, reasons, messages; and what kubelet does then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from lab.cluster import Cluster
from support import truth
from support.truth import AWAKE, PYTHON_WAIT, WAIT, Kind, Plan, Subject, Trio, container
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

LIMITED: Final = {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "48Mi"}}
EAT: Final = "b = []\nwhile True: b.append(bytearray(b'x' * (1 << 20)))"
FAULT: Final = "import ctypes; ctypes.string_at(0)"
ITSELF: Final = "$$$$"
"""A shell's own pid: Kubernetes makes one of two dollars."""
MARK: Final = "killed-from-outside"

PID_1: Final = (
    "`143` instead of going on: its application is not PID 1, which ignores what it does not handle"
)

ENDINGS: Final[dict[str, tuple[dict[str, Any], int, str]]] = {
    "zero": (container("zero", WAIT + "exit 0"), 0, "Completed"),
    "three": (container("three", WAIT + "exit 3"), 3, "Error"),
    "below-killed": (
        container("below-killed", f"{WAIT} sh -c 'kill -9 {ITSELF}'; exit $?"),
        137,
        "Error",
    ),
    "faults": (container("faults", truth.python(PYTHON_WAIT + FAULT)), 139, "Error"),
    "below-faults": (
        container("below-faults", f"{WAIT} python3 -c '{FAULT}'; exit $?"),
        139,
        "Error",
    ),
    "eats": (
        container("eats", truth.python(PYTHON_WAIT + EAT), resources=LIMITED),
        137,
        "OOMKilled",
    ),
    "below-eats": (
        container("below-eats", f'{WAIT} python3 -c "{EAT}"; sleep 1; exit 4', resources=LIMITED),
        4,
        "OOMKilled",
    ),
    "outside": (
        container("outside", [*truth.python("import time\nwhile True: time.sleep(0.2)"), MARK]),
        137,
        "Error",
    ),
}
"""Container; its exit code and reason, as the API tells them under runc."""

MESSAGES: Final = [
    container("writes", f"{WAIT} echo why > /dev/termination-log; echo other; exit 5"),
    container(
        "last-words",
        f"{WAIT} echo first; echo last; exit 6",
        terminationMessagePolicy="FallbackToLogsOnError",
    ),
    container(
        "elsewhere",
        f"{WAIT} echo there > /tmp/end; exit 0",
        terminationMessagePath="/tmp/end",
    ),
    container("itself", f"{WAIT} kill -TERM {ITSELF}; exit 3"),
]

ONCE: Final = "[ -e /go/did-{0} ] && exec sleep 1000; {1} touch /go/did-{0}; exit {2}"
"""Ends once; what is started after that stays."""

RESTARTED: Final = [
    container("zero", ONCE.format("zero", WAIT, 0)),
    container("three", ONCE.format("three", WAIT, 3)),
    container("stays", "exec sleep 1000"),
]

PLANS: Final = {
    "ends": Plan(
        containers=[made for made, _, _ in ENDINGS.values()], spec={"restartPolicy": "Never"}
    ),
    "tells": Plan(containers=MESSAGES, spec={"restartPolicy": "Never"}),
    "succeeds": Plan(
        containers=[container("app", WAIT + "echo done")], spec={"restartPolicy": "OnFailure"}
    ),
    "always": Plan(containers=RESTARTED, spec={"restartPolicy": "Always"}),
    "on-failure": Plan(containers=RESTARTED, spec={"restartPolicy": "OnFailure"}),
    "missing": Plan(
        containers=[
            container("nowhere", ["/no/such/thing"]),
            container("not-a-program", ["/etc/hostname"]),
        ],
        spec={"restartPolicy": "Never"},
        kinds=AWAKE,
        is_awaited=False,
    ),
}


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    with truth.running(architect, theme, PLANS) as made:
        yield made


@pytest.fixture(scope="module")
def ended(pods: dict[str, Trio]) -> Trio:
    """A pod of which every container has ended in its own way."""
    trio = pods["ends"]
    trio.sleep_and_go("zero")
    trio.each(_kill_from_outside)
    return trio


def _kill_from_outside(pod: Subject) -> None:
    """Kill the process of one container by its pid on the node, as an administrator may."""
    find = (
        f"for pid in $(pgrep -x python3); do grep -qs {MARK} /proc/$pid/cmdline && "
        'grep -qs "$0" /proc/$pid/cgroup && echo $pid; done; true'
    )
    (pid,) = eventually(
        lambda: pod.node().exec(["sh", "-c", find, pod.uid()]).split(),
        what="the process that is to be killed",
    )
    pod.node().exec(["kill", "-9", pid])


@truth.behaviour(
    "exit code and reason: 0, 3, a signal's 128 + N, a segmentation fault of the first process "
    "and of a child, `OOMKilled` of the first process and of a child, a kill from the node"
)
@pytest.mark.parametrize("name", ENDINGS)
def test_exit_code_and_reason(ended: Trio, name: str) -> None:
    _, status, reason = ENDINGS[name]
    seen = ended.each(Subject.ending, name)
    truth.check(seen, {"exitCode": status, "reason": reason})
    truth.check(ended.each(lambda pod: pod.status_of(name)["restartCount"]), 0)


@truth.behaviour("the phase of a pod whose containers have ended: `Succeeded`, `Failed`")
def test_the_phase_of_a_pod_that_has_ended(pods: dict[str, Trio], ended: Trio) -> None:
    pods["succeeds"].sleep_and_go("app")
    for trio, phase in ((ended, "Failed"), (pods["succeeds"], "Succeeded")):
        truth.check(trio.each(_final_phase), phase)


def _final_phase(pod: Subject) -> str:
    return str(
        eventually(
            lambda: (
                phase if (phase := pod.pod()["status"]["phase"]) in ("Failed", "Succeeded") else ""
            ),
            what=f"{pod.name} has ended",
        )
    )


@truth.behaviour("termination messages, from the file and from the log")
@truth.behaviour("a signal that the first process sends itself", managed=PID_1, slept=PID_1)
def test_what_a_container_says_at_its_end(pods: dict[str, Trio]) -> None:
    trio = pods["tells"]
    trio.sleep_and_go("writes")
    expected = {
        "writes": {"exitCode": 5, "reason": "Error", "message": "why\n"},
        "last-words": {"exitCode": 6, "reason": "Error", "message": "first\nlast\n"},
        "elsewhere": {"exitCode": 0, "reason": "Completed", "message": "there\n"},
    }
    for name, told in expected.items():
        truth.check(trio.each(Subject.ending, name), told)
    truth.check(trio.each(lambda pod: pod.ending("itself")["exitCode"]), 3, managed=143, slept=143)


@truth.behaviour("restartPolicy `Always` and `OnFailure`: who is started again, and how often")
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("always", {"zero": ("running", 1), "three": ("running", 1), "stays": ("running", 0)}),
        (
            "on-failure",
            {"zero": ("terminated", 0), "three": ("running", 1), "stays": ("running", 0)},
        ),
    ],
)
def test_who_is_started_again(
    pods: dict[str, Trio], policy: str, expected: dict[str, tuple[str, int]]
) -> None:
    trio = pods[policy]
    trio.sleep_and_go("stays")

    def settled(pod: Subject) -> dict[str, tuple[str, int]]:
        return dict(
            eventually(
                lambda: found if (found := _states(pod)) == expected else None,
                what=f"{pod.name} is {expected}: {_states(pod)}",
            )
        )

    truth.check(trio.each(settled), expected)
    last = trio.each(lambda pod: truth.told(pod.status_of("three")["lastState"]["terminated"]))
    truth.check(last, {"exitCode": 3, "reason": "Error"})
    # And a pod of which a container has ended, or was started again, sleeps as any other.
    trio.sleep()
    assert trio.slept.run("stays", "echo", "awake") == "awake\n"
    assert _states(trio.slept) == expected


def _states(pod: Subject) -> dict[str, tuple[str, int]]:
    return {
        name: (next(iter(status["state"])), status["restartCount"])
        for name, status in pod.statuses().items()
    }


@truth.behaviour(
    "a command that does not exist, or is no program: why it does not start", slept=None
)
def test_a_command_that_cannot_be_started(pods: dict[str, Trio]) -> None:
    trio = pods["missing"]
    for name in ("nowhere", "not-a-program"):
        seen = trio.each(Subject.ending, name)
        told = truth.alike(seen)
        assert told["exitCode"] == 128 and told["reason"] == "StartError", told
    assert set(trio.pods) == {Kind.RUNC, Kind.MANAGED}
