"""A managed pod is to kubelet and to its owner what it is under plain runc."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from architect.api import names
from lab import errors
from lab.cluster import Cluster
from support import moves, nodefiles
from support.workloads import (
    BarePod,
    ask_runtime,
    bare_pod,
    eventually,
    memory_server,
    workload,
)

pytestmark = pytest.mark.concurrent

LIMITED = {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "96Mi"}}
TERM_SECONDS = 3

TICKER: dict[str, Any] = {
    "name": "ticker",
    "image": "localhost/py:3",
    "imagePullPolicy": "Never",
    "command": ["sh", "-c", "while :; do echo tick; sleep 0.3; done"],
    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
}


@pytest.fixture(scope="module")
def trio(architect: Cluster, theme: str) -> Iterator[BarePod]:
    """Two managed containers and one that is not."""
    containers = [memory_server("app"), memory_server("cache", port=8081), TICKER]
    annotations = {names.IDLE: "1h", names.CONTAINERS: "app,cache"}
    with bare_pod(architect, theme, "trio", containers=containers, annotations=annotations) as made:
        yield made


def _identities(pod: BarePod) -> list[str]:
    return [pod.get(port=port)["identity"] for port in (8080, 8081)]


def _ticks(pod: BarePod) -> int:
    return pod.kubectl("logs", pod.name, "-c", "ticker").count("tick")


def test_two_containers_sleep_and_wake_as_one_beside_one_that_goes_on(trio: BarePod) -> None:
    before = _identities(trio)
    trio.sleep()
    down = names.STATUS_SCALED_DOWN
    eventually(lambda: trio.labels() == {"app": down, "cache": down}, what="labels of both")
    ticks = _ticks(trio)
    eventually(lambda: _ticks(trio) > ticks, what="the unmanaged container goes on")
    trio.kubectl("exec", trio.name, "-c", "ticker", "--", "true")
    assert trio.state() == "asleep", "an unmanaged container's exec is not the pod's"
    # A request to one wakes both.
    assert trio.get(port=8081)["identity"] == before[1]
    assert trio.state() == "awake"
    assert _identities(trio) == before
    assert trio.restarts() == 0


def test_a_container_of_the_pod_wakes_it_through_the_loopback(trio: BarePod) -> None:
    before = _identities(trio)
    trio.sleep()
    said = trio.kubectl(
        *("exec", trio.name, "-c", "ticker", "--"),
        *("curl", "-sS", "-m", "30", "http://127.0.0.1:8080/"),
    )
    assert json.loads(said)["identity"] == before[0]
    assert trio.state() == "awake"
    assert _identities(trio) == before


def test_a_hardened_pod_sleeps_and_wakes(architect: Cluster, theme: str) -> None:
    security = {
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"securityContext": security, "resources": LIMITED}
    with workload(architect, theme, "hardened", mebibytes=32, container=container) as app:
        before = app.get("/digest")
        for _ in range(2):
            app.sleep()
            after = app.get("/digest")
            assert after["digest"] == before["digest"]
            assert after["identity"] == before["identity"]
        assert app.restarts() == 0


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("exits", 3, "Error"),
        pytest.param("is-killed", 137, "Error", marks=pytest.mark.long),
        ("eats", 137, "OOMKilled"),
    ],
)
def test_kubelet_sees_how_the_application_of_a_woken_pod_ends(
    architect: Cluster, theme: str, how: str, status: int, reason: str
) -> None:
    with bare_pod(
        architect, theme, f"it-{how}", containers=[memory_server(resources=LIMITED)]
    ) as pod:
        before = pod.get()
        pod.sleep()
        if how == "is-killed":
            pod.kubectl("exec", pod.name, "--", "sh", "-c", f"kill -9 {before['pid']}")
        else:
            # The answer comes before the end, if it comes.
            _ask_anyhow(pod, "/exit/3" if how == "exits" else "/eat")
        eventually(lambda: pod.restarts() == 1, what="kubelet has started it again")
        ended = pod.container_status()["lastState"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (status, reason)
        eventually(pod.is_ready, what="it is ready again")
        # The new one is managed as the old one was.
        identity = pod.get()["identity"]
        assert identity != before["identity"]
        pod.sleep()
        assert pod.get()["identity"] == identity
        assert pod.restarts() == 1


def _ask_anyhow(pod: BarePod, path: str) -> None:
    try:
        pod.get(path)
    except (errors.CommandFailed, ValueError):
        return


def test_a_pod_deleted_asleep_has_its_grace_period(architect: Cluster, theme: str) -> None:
    server = memory_server(env=[{"name": "TERM_SECONDS", "value": str(TERM_SECONDS)}])
    with (
        bare_pod(
            architect,
            theme,
            "graceful",
            containers=[server],
            # The object stays after its end, to be looked at.
            metadata={"finalizers": ["tests.architect.dev/look"]},
            spec={"terminationGracePeriodSeconds": 60},
        ) as pod,
        _without_finalizer(pod),
    ):
        pod.sleep()
        with moves.said(pod, pod.pod()) as said:
            pod.kubectl("delete", "pod", pod.name, "--wait=false")
            eventually(
                lambda: pod.container_status().get("state", {}).get("terminated"),
                what="the container has ended",
            )
        ended = pod.container_status()["state"]["terminated"]
        # Its own handler's status: it was there, got SIGTERM, and nobody cut it short.
        assert ended["exitCode"] == 7, ended
        assert said[-2:] == [
            "got TERM",
            f"used {TERM_SECONDS} s of the grace period",
        ]


@contextmanager
def _without_finalizer(pod: BarePod) -> Iterator[None]:
    try:
        yield
    finally:
        pod.kubectl(
            *("patch", "pod", pod.name, "--type=merge"),
            *("-p", json.dumps({"metadata": {"finalizers": None}})),
        )


def test_a_pod_deleted_asleep_leaves_nothing(architect: Cluster, theme: str) -> None:
    with (
        bare_pod(architect, theme, "deleted") as deleted,
        bare_pod(architect, theme, "forced") as forced,
    ):
        traces = [_Traces(pod) for pod in (deleted, forced)]
        for pod in (deleted, forced):
            pod.sleep()
            eventually(pod.checkpoint, what="a Checkpoint object stands for the image")
        for each in traces:
            assert each.left(), "what is looked for is not there to begin with"
        deleted.kubectl("delete", "pod", deleted.name, "--wait=false")
        forced.kubectl("delete", "pod", forced.name, "--wait=false", "--force", "--grace-period=0")
        for pod, each in zip((deleted, forced), traces, strict=True):
            eventually(pod.is_gone, what=f"{pod.name} is gone")
            eventually(each.are_gone, what=f"nothing of {pod.name} is left")


class _Traces:
    """Where a sleeping pod leaves something, remembered while the pod is there."""

    def __init__(self, pod: BarePod) -> None:
        self._pod = pod
        self._node = pod.node()
        self._uid = pod.uid()
        status = pod.status()["containers"]["app"]
        self._record = names.CONTAINER_RECORDS / f"{status['id']}.json"
        record = json.loads(self._node.exec(["cat", self._record]))
        # The rules and the packet queue live in the network namespace and go with it.
        self._paths = {
            "image": names.PODS / self._uid,
            "record": self._record,
            "network namespace": record["netns"],
            "container": record["bundle"],
            "init": f"/proc/{status['init_pid']}",
        }

    def are_gone(self) -> bool:
        """Whether nothing is there any more; what is, is in the output of a failed test."""
        found = self.left()
        print(f"{self._pod.name}: {', '.join(found) or 'nothing'} left")
        return not found

    def left(self) -> list[str]:
        """Return what is still there."""
        found = [n for n, path in self._paths.items() if nodefiles.exists(self._node, path)]
        pods = ask_runtime(self._node, "list")["pods"]
        found += ["keeper"] * any(p["pod"] == self._uid for p in pods)
        objects = self._pod.get_json("checkpoints.architect.dev")["items"]
        found += ["Checkpoint"] * any(o["spec"]["podRef"]["uid"] == self._uid for o in objects)
        return found
