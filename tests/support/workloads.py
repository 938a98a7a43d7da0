"""Managed pods of the cluster tests: made, asked, put to sleep, removed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import errors
from lab.cluster import Cluster

APPS = Path(__file__).parent / "apps"
DEADLINE_SECONDS = 120.0


def eventually(
    condition: Callable[[], Any], *, what: str, seconds: float = DEADLINE_SECONDS
) -> Any:
    """Return the first truthy result of *condition*; fail with its last one after *seconds*."""
    deadline = time.monotonic() + seconds
    while True:
        seen = condition()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s; last seen: {seen!r}")
        time.sleep(0.2)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A Deployment of one pod and its Service."""

    cluster: Cluster
    namespace: str
    name: str

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, input=input)

    def pod(self) -> dict[str, Any]:
        """Return the one pod that is not going away."""
        pods = json.loads(self.kubectl("get", "pods", "-l", f"app={self.name}", "-o", "json"))
        living = [p for p in pods["items"] if "deletionTimestamp" not in p["metadata"]]
        assert len(living) == 1, [p["metadata"]["name"] for p in living]
        found: dict[str, Any] = living[0]
        return found

    def is_ready(self) -> bool:
        conditions = self.pod()["status"].get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def restarts(self) -> int:
        return sum(c["restartCount"] for c in self.pod()["status"]["containerStatuses"])

    def runtime(self, verb: str, *words: str) -> dict[str, Any]:
        """Run `architect-runtime VERB` for the pod on its node."""
        pod = self.pod()
        said = self.cluster.node(pod["spec"]["nodeName"]).exec(
            [
                "/opt/architect/current/bin/architect-runtime",
                verb,
                f"{self.namespace}/{pod['metadata']['name']}",
                *words,
                "-o",
                "json",
            ]
        )
        answer: dict[str, Any] = json.loads(said)
        return answer

    def sleep(self) -> None:
        """Put the pod to sleep now, however often it is busy."""
        eventually(self._fell_asleep, what=f"{self.name} falls asleep")

    def _fell_asleep(self) -> bool:
        try:
            self.runtime("sleep")
        except errors.CommandFailed as error:
            if "Busy" in str(error) or "does not come to rest" in str(error):
                return False
            raise
        return self.state() == "asleep"

    def state(self) -> str:
        answer = self.runtime("status")
        return str(answer.get("status", answer)["state"])

    def label(self) -> str | None:
        labels = self.pod()["metadata"]["labels"]
        return next((v for k, v in labels.items() if k.startswith("status.architect.dev/")), None)

    def service_ip(self) -> str:
        return self.kubectl("get", "service", self.name, "-o", "jsonpath={.spec.clusterIP}")

    def get(self, path: str = "/", *, host: str | None = None) -> dict[str, Any]:
        """Ask the application through its Service (or at *host*) from outside the nodes."""
        said = self.cluster.in_control_plane(
            ["curl", "-sS", "-m", "30", f"http://{host or self.service_ip()}:8080{path}"]
        )
        answer: dict[str, Any] = json.loads(said)
        return answer


@contextmanager
def workload(
    cluster: Cluster,
    namespace: str,
    name: str,
    *,
    mebibytes: int = 16,
    annotations: dict[str, str] | None = None,
    container: dict[str, Any] | None = None,
    node: str | None = None,
) -> Iterator[Workload]:
    """Run the memory server as a managed Deployment and wait until it is ready."""
    made = Workload(cluster=cluster, namespace=namespace, name=name)
    code = (APPS / "memory.py").read_text()
    objects = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"memory.py": code},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "selector": {"app": name},
                "ports": [
                    {"name": "http", "port": 8080},
                    {"name": "echo", "port": 8080, "protocol": "UDP"},
                ],
            },
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {
                        "labels": {"app": name},
                        "annotations": annotations or {"architect.dev/idle": "1h"},
                    },
                    "spec": {
                        "terminationGracePeriodSeconds": 5,
                        **({"nodeName": node} if node else {}),
                        "containers": [
                            {
                                "name": "app",
                                "image": "localhost/py:3",
                                "imagePullPolicy": "Never",
                                "command": ["python3", "-u", "/app/memory.py", str(mebibytes)],
                                "ports": [{"containerPort": 8080}],
                                "readinessProbe": {
                                    "tcpSocket": {"port": 8080},
                                    "periodSeconds": 1,
                                },
                                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
                                "volumeMounts": [{"name": "code", "mountPath": "/app"}],
                                **(container or {}),
                            }
                        ],
                        "volumes": [{"name": "code", "configMap": {"name": name}}],
                    },
                },
            },
        },
    ]
    for each in objects:
        made.kubectl("apply", "-f", "-", input=json.dumps(each))
    eventually(made.is_ready, what=f"{name} is ready")
    yield made
    made.kubectl("delete", "deployment,service,configmap", name, "--wait=false")
