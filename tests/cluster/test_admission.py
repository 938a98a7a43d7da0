"""The webhook at the door: what it refuses, what it warns of, and what it lets be."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from architect.api import names
from lab.cluster import Cluster
from support.workloads import (
    eventually,
    memory_server,
    pod_template,
    workload,
)

pytestmark = pytest.mark.concurrent

VENDOR = names.VENDOR_PREFIX


def _deployment(name: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": pod_template(name, [memory_server()], annotations=annotations),
        },
    }


def _pod(name: str, annotations: Mapping[str, str], **spec: Any) -> dict[str, Any]:
    idle = {
        "name": "app",
        "image": "localhost/py:3",
        "imagePullPolicy": "Never",
        "command": ["sleep", "infinity"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": dict(annotations)},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [idle], **spec},
    }


def _create(cluster: Cluster, namespace: str, value: Mapping[str, Any]) -> tuple[int, str]:
    """Create an object; return kubectl's status and what it said to its user."""
    done = subprocess.run(
        [cluster.kubectl_program, "-n", namespace, "create", "-f", "-"],
        env=cluster.client_environment(),
        input=json.dumps(value),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("kind", ["Pod", "Deployment"])
def test_annotations_that_cannot_be_read_are_refused_all_at_once(
    architect: Cluster, theme: str, kind: str
) -> None:
    wrong = {names.IDLE: "soon", names.WAKE_ON: "wishes", names.CONTAINERS: "app,nobody"}
    make = _pod if kind == "Pod" else _deployment
    status, said = _create(architect, theme, make("wrong", wrong))
    assert status != 0
    for key, value in wrong.items():
        assert key in said
        assert value.rpartition(",")[2] in said
    assert "a duration such as 90s" in said
    assert "packets, connections, exec" in said
    assert "allowed: app" in said
    found = architect.kubectl("-n", theme, "get", f"{kind.lower()}s", "-o", "name")
    assert "wrong" not in found


def test_a_vendor_annotated_pod_sleeps_by_itself_and_wakes(architect: Cluster, theme: str) -> None:
    annotations = {
        f"{VENDOR}managed-containers": '["app"]',
        f"{VENDOR}scaledown-durations": '{"app": "4s"}',
        f"{VENDOR}network-monitor": '{"app": "packets"}',
        f"{VENDOR}shadow-ports": '{"mappings": [{"containerName": "app", "appPort": 8080, '
        '"shadowPort": 9090}]}',
    }
    with workload(architect, theme, "vendor", annotations=annotations) as app:
        before = app.get()
        policy = json.loads(app.pod()["metadata"]["annotations"][names.POLICY])
        assert policy["containers"]["app"]["idle_seconds"] == 4.0
        assert policy["containers"]["app"]["shadow_ports"] == [9090]
        eventually(lambda: app.label() == names.STATUS_SCALED_DOWN, what="label SCALED_DOWN")
        assert app.get()["identity"] == before["identity"]


def test_a_pod_in_the_nodes_network_is_warned_of_and_starts_unmanaged(
    architect: Cluster, theme: str
) -> None:
    status, said = _create(architect, theme, _pod("host", {names.IDLE: "60s"}, hostNetwork=True))
    assert status == 0, said
    assert "Warning: not managed by Architect (HostNetwork)" in said

    def pod() -> dict[str, Any]:
        text = architect.kubectl("-n", theme, "get", "pod", "host", "-o", "json")
        found: dict[str, Any] = json.loads(text)
        return found

    eventually(lambda: pod()["status"]["phase"] == "Running", what="it runs")
    assert "runtimeClassName" not in pod()["spec"]
    assert names.POLICY not in pod()["metadata"]["annotations"]
    eventually(
        lambda: "HostNetwork" in _events(architect, theme, "host", "Unmanaged"),
        what="event Unmanaged",
    )


def test_a_pod_of_an_excluded_namespace_is_admitted_untouched(architect: Cluster) -> None:
    name = f"excluded-{uuid.uuid4().hex[:8]}"
    # Refused anywhere else.
    status, said = _create(architect, "kube-system", _pod(name, {names.IDLE: "soon"}))
    try:
        assert status == 0, said
        assert "Warning" not in said
        pod = json.loads(architect.kubectl("-n", "kube-system", "get", "pod", name, "-o", "json"))
        assert pod["metadata"]["annotations"] == {names.IDLE: "soon"}
        assert not pod["metadata"].get("labels")
        assert "runtimeClassName" not in pod["spec"]
    finally:
        architect.kubectl(
            *("-n", "kube-system", "delete", "pod", name, "--ignore-not-found", "--wait=false")
        )


def _events(cluster: Cluster, namespace: str, pod: str, reason: str) -> str:
    return cluster.kubectl(
        *("-n", namespace, "get", "events", "-o", "jsonpath={.items[*].message}"),
        *("--field-selector", f"involvedObject.name={pod},reason={reason}"),
    )
