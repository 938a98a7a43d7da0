"""Requests, limits, quality of service, and what kubelet tells of a pod's use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from architect.api import names
from lab.cluster import Cluster
from lab.node import CAP_SYS_RESOURCE, has_capability
from support import truth
from support.truth import Kind, Plan, Subject, Trio, container
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

MIB: Final = 1 << 20
HOLDS: Final = truth.python("import time\nheld = b'x' * (24 << 20)\nwhile True: time.sleep(0.5)")


MEMORY: Final = "container_memory_working_set_bytes"


def sized(cpu: str, memory: str, *, limits: Mapping[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"requests": {"cpu": cpu, "memory": memory}}
    return found | ({"limits": dict(limits)} if limits else {})


GUARANTEED: Final = {"cpu": "50m", "memory": "64Mi"}

PLANS: Final = {
    "guaranteed": Plan(
        containers=[container("app", HOLDS, resources=sized(**GUARANTEED, limits=GUARANTEED))]
    ),
    "burstable": Plan(
        containers=[
            container("app", HOLDS, resources=sized("20m", "32Mi", limits={"memory": "96Mi"}))
        ]
    ),
    "besteffort": Plan(containers=[container("app", HOLDS, resources={})]),
    "resized": Plan(
        containers=[
            container(
                "app",
                HOLDS,
                resources=sized("20m", "32Mi", limits={"cpu": "500m", "memory": "96Mi"}),
            )
        ]
    ),
}


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    with truth.running(architect, theme, PLANS) as made:
        yield made


CLASSES: Final = {
    "guaranteed": "Guaranteed",
    "burstable": "Burstable",
    "besteffort": "BestEffort",
}


def _quality(pod: Subject) -> tuple[str, str, str]:
    """Return the class, the killer's score of the application, and the cgroup's parent."""
    look = "for p in /proc/[0-9]*; do grep -qx python3 $p/comm && cat $p/oom_score_adj; done; true"
    score = pod.run("app", "sh", "-c", look).strip()
    if not has_capability(CAP_SYS_RESOURCE):
        score = ""  # nobody may lower it here, whoever restores a process included
    found = pod.node().exec(
        ["sh", "-c", 'grep -hs "$0" /proc/[0-9]*/cgroup | grep memory | sort | uniq -c', pod.uid()]
    )
    parents = {
        part
        for line in found.splitlines()
        for part in line.split("/")
        if part in ("burstable", "besteffort")
    }
    return pod.pod()["status"]["qosClass"], score, ",".join(sorted(parents))


@truth.behaviour(
    "QoS classes Guaranteed, Burstable and BestEffort: cgroup, and the score for the OOM killer"
)
@pytest.mark.parametrize("name", CLASSES)
def test_the_class_stays(pods: dict[str, Trio], name: str) -> None:
    trio = pods[name]
    trio.sleep()
    assert trio.slept.pod()["status"]["qosClass"] == CLASSES[name]
    seen = truth.alike(trio.each(_quality))
    assert seen[0] == CLASSES[name]
    assert seen[2] == ("" if name == "guaranteed" else name)


ASLEEP: Final = (
    "requests are lowered to 1m and 1Ki while asleep, and are back after the wake; Guaranteed and "
    "BestEffort pods keep what they have"
)


@truth.behaviour("requests of the pod's object and its status", slept=ASLEEP)
@pytest.mark.parametrize("name", CLASSES)
def test_requests_come_back(pods: dict[str, Trio], name: str) -> None:
    trio = pods[name]
    # Who slept before may be about to get them back.
    expected = _resources_of(trio.pods[Kind.RUNC])
    trio.each(
        lambda pod: eventually(
            lambda: _resources_of(pod) == expected, what=f"{pod.name} has its requests"
        )
    )
    trio.sleep()
    if name == "burstable":
        low = {"cpu": "1m", "memory": "1Ki"}
        eventually(lambda: trio.slept.requests() == low, what="requests are lowered")
        limits = trio.slept.pod()["spec"]["containers"][0]["resources"]["limits"]
        assert limits == expected["limits"]
    trio.slept.runtime("wake")
    eventually(
        lambda: trio.slept.pod()["spec"]["containers"][0]["resources"] == expected,
        what="requests are back",
    )
    truth.check(trio.each(Subject.restarts), 0)


def _resources_of(pod: Subject) -> Any:
    return pod.pod()["spec"]["containers"][0]["resources"]


def _resize(pod: Subject, resources: Mapping[str, Any]) -> None:
    change = {"spec": {"containers": [{"name": "app", "resources": resources}]}}
    pod.kubectl(
        *("patch", "pod", pod.name, "--subresource=resize", "--type=strategic"),
        *("-p", json.dumps(change)),
    )


def _limit(pod: Subject) -> int:
    """Return the memory limit that the kernel has for the container."""
    files = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"
    look = f"cat {files} 2>/dev/null; true"
    return int(pod.run("app", "sh", "-c", look).split()[0])


def _resources(pod: Subject) -> dict[str, Any]:
    """Return what the API says of the container's resources, once spec and status agree."""

    def agreed() -> dict[str, Any] | None:
        wanted = pod.pod()["spec"]["containers"][0]["resources"]
        now = pod.container_status().get("resources")
        return dict(wanted) if wanted == now else None

    found: dict[str, Any] = eventually(agreed, what=f"{pod.name} is resized")
    return found


def _until_limits(pod: Subject, limits: Mapping[str, str]) -> None:
    eventually(
        lambda: pod.container_status()["resources"]["limits"] == limits,
        what="the limits hold at once",
    )


def _until_resources(pod: Subject, wanted: Mapping[str, Any]) -> None:
    eventually(lambda: _resources(pod) == wanted, what=f"what the user wanted: {wanted}")


FIRST: Final = sized("30m", "40Mi", limits={"cpu": "600m", "memory": "112Mi"})
SECOND: Final = sized("25m", "36Mi", limits={"cpu": "400m", "memory": "128Mi"})


@truth.behaviour(
    "in-place resize by the user, awake and while it sleeps: requests and limits, no restart"
)
def test_a_resize_by_the_user(pods: dict[str, Trio]) -> None:
    trio = pods["resized"]
    # Awake, and kept by a sleep and a wake.
    trio.each(_resize, FIRST)
    truth.check(trio.each(_resources), FIRST)
    trio.sleep()
    eventually(lambda: trio.slept.requests()["cpu"] == "1m", what="requests are lowered")
    trio.slept.runtime("wake")
    _until_resources(trio.slept, FIRST)
    # Asleep: higher requests than before at first, then lower ones.
    for wanted in (sized("40m", "48Mi", limits=FIRST["limits"]), SECOND):
        trio.sleep()
        eventually(lambda: trio.slept.requests()["cpu"] == "1m", what="requests are lowered")
        trio.each(_resize, wanted)
        _until_limits(trio.slept, wanted["limits"])
        # Whoever it is that resizes it, it sleeps on, and its node has the room.
        eventually(lambda: trio.slept.requests()["cpu"] == "1m", what="requests are lowered again")
        assert trio.slept.is_asleep
        trio.slept.runtime("wake")
        _until_resources(trio.slept, wanted)
        truth.check(trio.each(_resources), wanted)
    truth.check(trio.each(_limit), 128 * MIB)
    truth.check(trio.each(Subject.restarts), 0)


def _metrics(pod: Subject) -> dict[str, float]:
    """Return what metrics-server reads of the pod: `kubectl top` shows no more."""
    node = pod.pod()["spec"]["nodeName"]
    said = pod.cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics/resource")
    return {
        line.split("{")[0]: float(line.split()[1])
        for line in said.splitlines()
        if f'pod="{pod.name}"' in line
    }


@truth.behaviour(
    "kubelet's statistics (`metrics/resource`), of which `kubectl top` is made",
    slept="the same series; of the application's memory nothing is left",
)
def test_statistics(pods: dict[str, Trio]) -> None:
    trio = pods["burstable"]
    trio.each(
        lambda pod: eventually(
            lambda: _working_set(pod) > 20 * MIB, what=f"{pod.name} is in the statistics"
        )
    )
    trio.sleep()
    eventually(lambda: _working_set(trio.slept) < 12 * MIB, what="its memory is given back")
    series = truth.alike(trio.each(lambda pod: sorted(_metrics(pod))))
    assert {"container_cpu_usage_seconds_total", MEMORY, f"pod_{MEMORY.partition('_')[2]}"} <= set(
        series
    )
    assert trio.slept.is_asleep
    trio.slept.runtime("wake")
    trio.each(lambda pod: eventually(lambda: _working_set(pod) > 0, what=f"{pod.name} uses memory"))


def _working_set(pod: Subject) -> float:
    return _metrics(pod).get(MEMORY, 0.0)


SUMMARY: Final = "/api/v1/nodes/{}/proxy/stats/summary?only_cpu_and_memory=true"


def _summary(pod: Subject) -> dict[str, Any]:
    """Return what kubelet's summary has of the pod; empty while it has nothing."""
    path = SUMMARY.format(pod.pod()["spec"]["nodeName"])
    told = json.loads(pod.cluster.kubectl("get", "--raw", path))
    wanted = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid()}
    return next((one for one in told["pods"] if one["podRef"] == wanted), {})


def _shape(value: Any, path: str = "") -> set[str]:
    """Return the names of all numbers and words in *value*, whatever they are."""
    if isinstance(value, dict):
        return {one for key, below in value.items() for one in _shape(below, f"{path}/{key}")}
    if isinstance(value, list):
        return {one for below in value for one in _shape(below, path)}
    return {path}


def _resident(pod: Subject) -> int:
    """Return how much memory of the application's own its container has; -1 while untold."""
    containers = _summary(pod).get("containers", [])
    found = [c["memory"].get("rssBytes", -1) for c in containers if "memory" in c]
    return int(found[0]) if found else -1


@truth.behaviour(
    "kubelet's summary (`stats/summary`) of processor and memory",
    slept="the same fields; of the application's memory nothing is left",
)
def test_the_summary(pods: dict[str, Trio]) -> None:
    trio = pods["burstable"]
    trio.each(
        lambda pod: eventually(
            lambda: _resident(pod) > 20 * MIB, what=f"{pod.name} is in the summary"
        )
    )
    trio.sleep()
    eventually(lambda: 0 <= _resident(trio.slept) < 12 * MIB, what="its memory is given back")
    # What is told per second is there from the second look of kubelet's own on.
    shapes: dict[Kind, set[str]] = {}

    def are_alike() -> bool:
        shapes.update(trio.each(lambda pod: _shape(_summary(pod))))
        return all(shape == shapes[Kind.RUNC] for shape in shapes.values())

    eventually(are_alike, what="all have the same fields")
    assert {"/containers/memory/workingSetBytes", "/containers/cpu/usageCoreNanoSeconds"} <= shapes[
        Kind.SLEPT
    ]
    assert trio.slept.is_asleep, "who is only looked at sleeps on"
    trio.slept.runtime("wake")
    eventually(lambda: _resident(trio.slept) > 20 * MIB, what="its memory is told of again")
    truth.check(trio.each(Subject.restarts), 0)


# Limits of a namespace


@pytest.fixture
def limited(architect: Cluster, namespace: str) -> str:
    """A namespace with defaults, a minimum, and a quota."""
    objects = [
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "limits"},
            "spec": {
                "limits": [
                    {
                        "type": "Container",
                        "min": {"cpu": "4m", "memory": "8Mi"},
                        "default": {"cpu": "500m", "memory": "64Mi"},
                        "defaultRequest": {"cpu": "40m", "memory": "32Mi"},
                    }
                ]
            },
        },
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "quota"},
            "spec": {"hard": {"requests.cpu": "100m", "pods": "3"}},
        },
    ]
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    architect.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(listed))
    return namespace


@truth.behaviour(
    "LimitRange (defaults, minimum) and ResourceQuota",
    slept="requests are lowered to the LimitRange's minimum; the quota that this frees may be "
    "taken by others: the pod wakes all the same, and keeps the low requests until there is quota",
)
def test_a_namespace_with_limits(architect: Cluster, limited: str) -> None:
    plan = Plan(containers=[container("app", HOLDS, resources={})], kinds=(Kind.RUNC, Kind.SLEPT))
    with truth.running(architect, limited, {"app": plan}) as made:
        trio = made["app"]
        defaults = sized("40m", "32Mi", limits={"cpu": "500m", "memory": "64Mi"})
        truth.check(
            trio.each(lambda pod: pod.pod()["spec"]["containers"][0]["resources"]), defaults
        )
        eventually(lambda: _used(architect, limited) == 80, what="the quota is used")
        trio.sleep()
        low = {"cpu": "4m", "memory": "8Mi"}
        eventually(lambda: trio.slept.requests() == low, what="requests at the minimum")
        eventually(lambda: _used(architect, limited) == 44, what="the quota is given back")
        # Somebody else takes it.
        other = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "other"},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        **container("app", ["sleep", "1000"], resources=sized("50m", "16Mi")),
                        "volumeMounts": [],
                    }
                ],
            },
        }
        architect.kubectl("-n", limited, "apply", "-f", "-", input=json.dumps(other))
        assert trio.slept.run("app", "echo", "awake") == "awake\n"
        said = eventually(
            lambda: trio.slept.events(names.EVENT_RESIZE_PENDING), what="event ResizePending"
        )
        assert "quota" in said[0], said
        assert trio.slept.requests() == low
        architect.kubectl("-n", limited, "delete", "pod", "other", "--wait=false")
        eventually(lambda: trio.slept.requests() == defaults["requests"], what="requests are back")
        truth.check(trio.each(Subject.restarts), 0)


def _used(cluster: Cluster, namespace: str) -> int:
    """Return the millicores of the quota that are used."""
    found = cluster.api.get(f"/api/v1/namespaces/{namespace}/resourcequotas/quota")
    used = str(found["status"]["used"]["requests.cpu"])
    return int(used[:-1]) if used.endswith("m") else 1000 * int(used)
