"""What a process may do and finds about itself; and pods that are refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from lab import errors
from lab.cluster import Cluster
from support import look, truth
from support.truth import AWAKE, GO, Kind, Plan, Subject, Trio, container
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

SECCOMP: Final = {"type": "RuntimeDefault"}

CONTEXTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "user": {"runAsUser": 10001, "runAsGroup": 10002, "runAsNonRoot": True},
    "dropped": {"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False},
    "added": {"capabilities": {"add": ["NET_ADMIN", "SYS_TIME"]}},
    "readonly": {"readOnlyRootFilesystem": True},
    "filtered": {"seccompProfile": SECCOMP},
    "restricted": {
        "runAsUser": 10001,
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": SECCOMP,
    },
}


def looking(name: str, **more: Any) -> dict[str, Any]:
    """Return a container that says what it finds, and says it again after it may go on."""
    env = [{"name": "AGAIN", "value": GO}, *more.pop("env", ())]
    return container(name, ["python3", "-u", "/app/look.py", "one", "two words"], env=env, **more)


REFUSED: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "HostNetwork": ({"hostNetwork": True}, {}),
    "HostPID": ({"hostPID": True}, {}),
    "HostIPC": ({"hostIPC": True}, {}),
    "ShareProcessNamespace": ({"shareProcessNamespace": True}, {}),
    "UserNamespace": ({"hostUsers": False}, {}),
    "Privileged": ({}, {"securityContext": {"privileged": True}}),
    "Capability": ({}, {"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}),
}
"""Reason; what of the pod, and of its container, is refused."""


def _refused(spec: dict[str, Any], more: dict[str, Any]) -> Plan:
    return Plan(containers=[looking("app", **more)], spec=spec, kinds=AWAKE, is_awaited=False)


PLANS: Final = {
    "looks": Plan(
        containers=[looking(name, securityContext=found) for name, found in CONTEXTS.items()],
        spec={
            "hostname": "same",
            "securityContext": {
                "fsGroup": 2000,
                "supplementalGroups": [3000, 3001],
                "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "81"}],
            },
        },
    ),
    "unset": Plan(
        containers=[
            looking("app", env=[{"name": "GODEBUG", "value": "gctrace=0"}], workingDir="/usr"),
            looking("fixed", env=[{"name": "GODEBUG", "value": "multipathtcp=1"}]),
        ],
        spec={"hostname": "same"},
    ),
    **{f"refused-{name.lower()}": _refused(*found) for name, found in REFUSED.items()},
}


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    with truth.running(architect, theme, PLANS) as made:
        yield made


@pytest.fixture(scope="module")
def looked(pods: dict[str, Trio]) -> dict[str, Trio]:
    """Pods whose containers have looked twice; some slept in between."""
    trios = [pods["looks"], pods["unset"]]
    for trio, first in zip(trios, ("plain", "app"), strict=True):
        trio.each(lambda pod: [_finds(pod, name, 1) for name in pod.statuses()])
        trio.sleep_and_go(first)
    return pods


def _finds(pod: Subject, name: str, times: int) -> list[dict[str, Any]]:
    """Return what a container has said that it finds, once it has said so *times*."""
    found = eventually(
        lambda: lines if len(lines := pod.said(name)) >= times else None,
        what=f"{name} of {pod.name} has looked {times} times",
    )
    return [json.loads(line) for line in found]


KNOWN: Final = (
    "the same but for its pid, group, session and parent, the mount of `/dev/.architect/init`, "
    "`GODEBUG`, and `Seccomp: 2` instead of 0 ([runtime.md](runtime.md))"
)


@truth.behaviour(
    "securityContext: user, groups, fsGroup, capabilities, noNewPrivileges, seccomp, "
    "readOnlyRootFilesystem, sysctls; and all else that a process finds about itself: limits, "
    "environment, mounts, descriptors, devices",
    managed=KNOWN,
    slept=KNOWN,
)
@pytest.mark.parametrize("name", CONTEXTS)
def test_a_process_finds_what_it_finds_under_runc(looked: dict[str, Trio], name: str) -> None:
    seen = looked["looks"].each(lambda pod: _finds(pod, name, 2))
    plain, again = seen.pop(Kind.RUNC)
    assert plain == again, "nothing happens to it"
    for kind, (first, second) in seen.items():
        assert first == second, f"{kind}: what was found before is found again"
        assert look.without_decisions(first, plain) == plain, kind


@truth.behaviour(
    "`GODEBUG` of the user: what it says is kept",
    managed="`multipathtcp=0` is added, unless it is set",
    slept="`multipathtcp=0` is added, unless it is set",
)
def test_a_godebug_of_the_user_is_kept(looked: dict[str, Trio]) -> None:
    seen = looked["unset"].each(lambda pod: _finds(pod, "app", 2))
    plain = seen.pop(Kind.RUNC)[0]
    assert plain["cwd"] == "/usr"
    for first, second in seen.values():
        assert first == second
        assert look.without_decisions(first, plain) == plain
    fixed = looked["unset"].each(lambda pod: dict(_finds(pod, "fixed", 2)[1]["environ"])["GODEBUG"])
    truth.check(fixed, "multipathtcp=1")


PIDS: Final = {"pid", "group", "session", "parent"}


@truth.behaviour(
    "hostNetwork, hostPID, hostIPC, shareProcessNamespace, `hostUsers: false`, privileged, "
    "`SYS_PTRACE`",
    managed="not managed, with the reason by name: it runs as under runc, and does not sleep",
    slept=None,
)
@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_managed_is_refused_by_name_and_runs_as_under_runc(
    pods: dict[str, Trio], reason: str
) -> None:
    trio = pods[f"refused-{reason.lower()}"]
    seen = trio.each(lambda pod: _finds(pod, "app", 1)[0])
    for found in seen.values():
        found.pop("host")
        if reason in ("HostPID", "ShareProcessNamespace"):
            for key in PIDS:  # among others' processes
                found.pop(key)
        if reason == "UserNamespace":
            found.pop("uid_map")  # a range of its own
        if reason == "Privileged":
            found.pop("dev")  # the node's, which come and go
        found["environ"] = [item for item in found["environ"] if item[0] != "HOSTNAME"]
    truth.alike(seen)
    managed = trio.pods[Kind.MANAGED]
    told = eventually(lambda: managed.events("Unmanaged"), what="event Unmanaged")
    assert reason in told[0], told
    with pytest.raises(errors.CommandFailed):
        managed.runtime("sleep")
    truth.check(trio.each(lambda pod: pod.restarts()), 0)
