"""Pods that kubelet reads from a file of its node: they are nobody's to change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from architect.api import names
from lab import errors
from lab.cluster import Cluster
from lab.node import Node
from support import look, parts, truth
from support.truth import Kind, Subject, Trio
from support.workloads import ask_runtime, eventually

pytestmark = pytest.mark.long

DIRECTORY: Final = "/etc/kubernetes/manifests"
PROGRAM: Final = look.IN_POD.read_text()


def _static(kind: Kind, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"static-{kind}",
            "namespace": namespace,
            "annotations": {} if kind is Kind.RUNC else {names.IDLE: "2s"},
        },
        "spec": {
            "hostname": "same",
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": "app",
                    "image": "localhost/py:3",
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", f"exec python3 -u -c '{_quoted(PROGRAM)}'"],
                    "env": [{"name": "AGAIN", "value": "/nowhere"}],
                }
            ],
        },
    }


def _quoted(program: str) -> str:
    return program.replace("'", "'\\''")


@pytest.fixture
def trio(architect: Cluster, namespace: str) -> Iterator[Trio]:
    """A static pod of each kind that it may be; afterwards kubelet is as before."""
    node = architect.nodes[-1]
    node.exec(["mkdir", "-p", DIRECTORY])
    try:
        for kind in truth.AWAKE:
            _write(node, f"{kind}.json", json.dumps(_static(kind, namespace)))
        node.configure_kubelet(staticPodPath=DIRECTORY)
        yield Trio(
            {
                kind: Subject(
                    cluster=architect,
                    namespace=namespace,
                    name=f"static-{kind}-{node.name}",
                    kind=kind,
                )
                for kind in truth.AWAKE
            }
        )
    finally:
        node.exec(["rm", "-rf", DIRECTORY])
        node.configure_kubelet()
        parts.wait_until_ready(architect)


def _write(node: Node, name: str, text: str) -> None:
    node.exec(["sh", "-c", 'cat > "$0"', f"{DIRECTORY}/{name}"], input=text)


@truth.behaviour(
    "static pods",
    managed="not managed (`StaticPod`): it runs as under runc, and does not sleep",
    slept=None,
)
def test_a_static_pod_runs_as_under_runc(trio: Trio) -> None:
    trio.each(_until_ready)
    said = trio.each(
        lambda pod: eventually(lambda: pod.said("app"), what=f"{pod.name} says what it finds")
    )
    seen = {kind: json.loads(lines[0]) for kind, lines in said.items()}
    truth.alike(seen)
    managed = trio.pods[Kind.MANAGED]
    told = eventually(lambda: managed.events("Unmanaged"), what="event Unmanaged")
    assert "StaticPod" in told[0]
    listed = ask_runtime(managed.node(), "list")["pods"]
    assert managed.name not in {pod.get("name") for pod in listed}
    assert managed.pod()["spec"].get("runtimeClassName") is None


def _until_ready(pod: Subject) -> None:
    def is_ready() -> bool:
        try:
            return pod.is_ready()
        except errors.LabError:  # kubelet has not told of it yet
            return False

    eventually(is_ready, what=f"{pod.name} is ready")
