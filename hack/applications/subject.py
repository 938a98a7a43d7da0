"""One application as a pod in the cluster: made, put to sleep under load, asked about it."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo import network
from demo.errors import DemoError
from demo.pods import RUNTIME, Application
from lab import errors, waiting
from lab.patience import patient

PROGRAMS: Final = Path(__file__).parent / "programs"
PROGRAMS_NAME: Final = "programs"
PROGRAMS_PATH: Final = "/programs"
"""Where a pod has them, from the ConfigMap of that name."""
SLEEP_SECONDS: Final = 120.0
NOT_NOW: Final = ("Busy", "does not come to rest", "is waking", "is not ready", "cannot sleep now")
"""In the words of a refusal that says nothing about the next try."""
CLIENTS: Final = "clients"
"""The pod that client programs run in; nobody manages it."""


@dataclass(frozen=True, kw_only=True)
class Subject(Application):
    """A Deployment of one pod, whose container under test has its name."""

    @functools.cached_property
    def address(self) -> str:
        """Its Service's address."""
        return str(self.service()["clusterIP"])

    def connect(self, port: int) -> Any:
        """Return a connection to its Service from outside the nodes."""
        return network.tcp(self.cluster.plane.machine.network, self.address, port)

    def ask_runtime(self, verb: str) -> dict[str, Any]:
        """Return what ``architect-runtime`` on its node answers about it."""
        pod = f"{self.namespace}/{self.pod()['metadata']['name']}"
        said = self.node().exec(
            [RUNTIME, verb, pod, "-o", "json"], timeout_seconds=patient(SLEEP_SECONDS)
        )
        return dict(json.loads(said))

    def sleep(self) -> None:
        """Put it to sleep now, however busy it is at first.

        Raises CommandFailed for a sleep that failed, DeadlineExceeded if it did not come to rest.
        """

        def has_slept() -> bool:
            try:
                self.ask_runtime("sleep")
            except errors.CommandFailed as error:
                if any(word in str(error) for word in NOT_NOW):
                    return False
                raise
            return True

        waiting.until(
            has_slept,
            what=f"{self.name} falls asleep",
            timeout_seconds=SLEEP_SECONDS,
            last_seen=self.diagnosis,
        )

    def wait_until_awake(self) -> None:
        """Return once the keeper says that it is awake."""
        waiting.until(
            lambda: self.ask_runtime("status")["state"] == "awake",
            what=f"{self.name} is awake",
            timeout_seconds=SLEEP_SECONDS,
            last_seen=self.diagnosis,
        )

    def wait_until_running(self) -> None:
        """Return once its pod is Ready, managed or not."""
        waiting.until(
            self._is_ready,
            what=f"{self.name} is ready",
            timeout_seconds=180.0,
            interval_seconds=0.5,
            last_seen=self.diagnosis,
        )

    def events(self, reason: str) -> list[str]:
        """Return the messages of its pod's events with *reason*."""
        uid = self.pod()["metadata"]["uid"]
        chosen = f"involvedObject.uid={uid},reason={reason}"
        found = json.loads(self.kubectl("get", "events", "--field-selector", chosen, "-o", "json"))
        return [str(event["message"]) for event in found["items"]]

    def execute(self, *words: str, timeout_seconds: float = 60) -> str:
        """Run a program in its container."""
        pod = self.pod()["metadata"]["name"]
        command = ("exec", pod, "-c", self.name, "--", *words)
        return self.kubectl(*command, timeout_seconds=timeout_seconds)

    def clients(self) -> Subject:
        """Return the pod beside it in which client programs run."""
        return dataclasses.replace(self, name=CLIENTS)


def container(
    name: str,
    image: str,
    command: Sequence[str],
    *,
    port: int = 8080,
    probe: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return a container with the programs mounted; *more* adds fields."""
    found: dict[str, Any] = {
        "name": name,
        "image": image,
        "imagePullPolicy": "Never",
        "command": list(command),
        "ports": [{"containerPort": port}],
        "readinessProbe": {
            **(probe or {"tcpSocket": {"port": port}}),
            "periodSeconds": 1,
            "timeoutSeconds": 5,
        },
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
        **more,
    }
    mounts = [{"name": PROGRAMS_NAME, "mountPath": PROGRAMS_PATH}, *more.get("volumeMounts", ())]
    return {**found, "volumeMounts": mounts}


def deployment(
    name: str,
    containers: Sequence[Mapping[str, Any]],
    *,
    annotations: Mapping[str, str],
    node: str,
    port: int = 8080,
    **more: Any,
) -> list[dict[str, Any]]:
    """Return a Deployment of one pod on *node* and its Service; *more* adds to the pod's spec."""
    programs = {"name": PROGRAMS_NAME, "configMap": {"name": PROGRAMS_NAME, "defaultMode": 0o755}}
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "terminationGracePeriodSeconds": 2,
        "containers": list(containers),
        **more,
        "volumes": [programs, *more.get("volumes", ())],
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}, "annotations": dict(annotations)},
                    "spec": spec,
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
        },
    ]


def programs() -> dict[str, Any]:
    """Return the ConfigMap with the programs."""
    data = {path.name: path.read_text() for path in sorted(PROGRAMS.iterdir()) if path.is_file()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": PROGRAMS_NAME},
        "data": data,
    }


def apply(subject: Subject, objects: Sequence[Mapping[str, Any]]) -> None:
    """Apply *objects* in the namespace of *subject*."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    words = ["-n", subject.namespace, "apply", "-f", "-"]
    subject.cluster.kubectl(*words, input=json.dumps(listed))


def remove(subject: Subject) -> None:
    """Remove the Deployment and Service, and wait for the pod's end: what it took is free then."""
    names = [f"{kind}/{subject.name}" for kind in ("deployment", "service")]
    subject.kubectl("delete", *names, "--wait=false", "--ignore-not-found")
    deadline = time.monotonic() + patient(120.0)
    while subject.kubectl("get", "pods", "-l", f"app={subject.name}", "-o", "name").strip():
        if time.monotonic() > deadline:
            raise DemoError(f"{subject.name}: its pod does not end\n{subject.diagnosis()}")
        time.sleep(0.3)
