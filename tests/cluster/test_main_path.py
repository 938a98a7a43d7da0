"""The main job on the real cluster: an annotated pod sleeps and goes on with its memory."""

from __future__ import annotations

import json

import pytest

from lab import errors
from lab.cluster import Cluster
from support.patience import patient
from support.workloads import eventually, memory_server, workload

pytestmark = pytest.mark.concurrent


def test_an_idle_pod_falls_asleep_by_itself_and_wakes_on_a_request_with_its_memory(
    architect: Cluster, namespace: str
) -> None:
    with workload(
        architect, namespace, "idle", mebibytes=64, annotations={"architect.dev/idle": "3s"}
    ) as app:
        before = app.get("/digest")
        eventually(lambda: app.label() == "SCALED_DOWN", what="the label says SCALED_DOWN")
        assert app.is_ready()
        after = app.get("/digest")
        assert after["digest"] == before["digest"]
        assert after["identity"] == before["identity"]
        assert after["count"] == before["count"] + 1
        assert app.restarts() == 0
        events = json.loads(app.kubectl("get", "events", "-o", "json"))["items"]
        eventually(
            lambda: (
                {"Slept", "Woke"}
                <= {
                    e["reason"]
                    for e in json.loads(app.kubectl("get", "events", "-o", "json"))["items"]
                }
            ),
            what=f"events Slept and Woke (at first {[e['reason'] for e in events]})",
        )


def test_a_sleeping_pod_gives_its_requests_back_and_gets_them_again(
    architect: Cluster, namespace: str
) -> None:
    def requests() -> dict[str, str]:
        status = app.pod()["status"]["containerStatuses"][0]
        found: dict[str, str] = status.get("resources", {}).get("requests", {})
        return found

    with workload(architect, namespace, "resize") as app:
        before = memory_server()["resources"]["requests"]
        eventually(lambda: requests() == before, what="requests are told")
        app.sleep()
        # One after the other, maybe.
        low = {"cpu": "1m", "memory": "1Ki"}
        eventually(lambda: requests() == low, what="requests are lowered")
        app.get()
        eventually(lambda: requests() == before, what="requests are back")


def test_exec_wakes_a_sleeping_pod(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "exec") as app:
        identity = app.get()["identity"]
        app.sleep()
        said = app.kubectl("exec", "deploy/exec", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline")
        assert "memory.py" in said
        assert app.state() == "awake"
        assert app.get()["identity"] == identity


def test_a_datagram_wakes_a_sleeping_pod_and_is_answered(
    architect: Cluster, namespace: str
) -> None:
    client = (
        "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);"
        f"s.settimeout({patient(30.0)});"
        "s.sendto(b'ping',(sys.argv[1],8080)); print(s.recv(100).decode())"
    )
    with workload(architect, namespace, "udp") as app:
        identity = app.get()["identity"]
        app.sleep()
        said = architect.in_control_plane(["python3", "-c", client, app.service_ip()])
        assert said.strip() == f"{identity} ping"


def test_an_annotation_that_cannot_be_read_is_refused_by_key_and_value(
    architect: Cluster, namespace: str
) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "wrong", "annotations": {"architect.dev/idle": "soon"}},
        "spec": {"containers": [{"name": "a", "image": "localhost/py:3"}]},
    }
    try:
        architect.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(manifest))
    except errors.CommandFailed as error:
        assert "architect.dev/idle" in str(error)
        assert "soon" in str(error)
    else:
        raise AssertionError("the pod was admitted")
