"""Managed pods of the cluster tests: made, asked, put to sleep, removed."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from architect.api import names
from architect.kube import checkpoints, resources
from lab import errors
from lab.cluster import Cluster
from lab.machine import Machine
from lab.node import Node
from support.patience import patient

APPS = Path(__file__).parent / "apps"
DEADLINE_SECONDS = patient(180.0)
REQUEST_SECONDS = patient(30.0)
UNREADY_AFTER = round(patient(30))
"""Probes, one a second, that fail one after the other before a pod counts as not ready, and its
Service refuses: a machine that stands still for some seconds makes no pod unready. Kubernetes' own
3 are for tests in which a pod is to become so."""
CURL_REFUSED = 7
"""curl's exit status where nobody takes the connection."""
NOT_NOW = (
    *("Busy", "does not come to rest", "is waking", "is not ready"),
    # Of an exec probe that begins: runc has not given its capabilities up yet.
    "cannot sleep now: exec session '/usr/sbin/runc init'",
)
"""In the words of a refusal that says nothing about the next try."""
RUNTIME = names.CURRENT / "bin" / "architect-runtime"
READ = {
    "pod": "/api/v1/namespaces/{}/pods",
    "pods": "/api/v1/namespaces/{}/pods",
    "service": "/api/v1/namespaces/{}/services",
    "events": "/api/v1/namespaces/{}/events",
    "job": "/apis/batch/v1/namespaces/{}/jobs",
    **{
        f"{r.plural}.{r.group}": f"/apis/{r.group}/{r.version}/namespaces/{{}}/{r.plural}"
        for r in (resources.CHECKPOINTS, resources.PERSISTENT_CHECKPOINTS)
    },
}
"""By what :meth:`Workload.get_json` is asked for."""


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

    def kubectl(
        self, *arguments: str, input: str | None = None, timeout_seconds: float = DEADLINE_SECONDS
    ) -> str:
        return self.cluster.kubectl(
            "-n", self.namespace, *arguments, input=input, timeout_seconds=timeout_seconds
        )

    def get_json(
        self, kind: str, name: str = "", *, labels: str = "", fields: str = ""
    ) -> dict[str, Any]:
        """Return an object of the workload's namespace, or a list; one of :data:`READ`.

        As ``kubectl get``, but without a program for each look: tests look again and again, and
        that takes from whom they wait for what they have to work with.
        """
        path = READ[kind].format(self.namespace)
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = urllib.parse.urlencode({key: text for key, text in selectors.items() if text})
        return self.cluster.api.get(
            f"{path}{f'/{name}' if name else ''}{f'?{query}' if query else ''}",
            timeout_seconds=REQUEST_SECONDS,
        )

    def pod(self) -> dict[str, Any]:
        """Return the one pod that is not going away."""
        pods = self.get_json("pods", labels=f"app={self.name}")
        living = [p for p in pods["items"] if "deletionTimestamp" not in p["metadata"]]
        assert len(living) == 1, [p["metadata"]["name"] for p in living]
        found: dict[str, Any] = living[0]
        return found

    def pod_name(self) -> str:
        return str(self.pod()["metadata"]["name"])

    def uid(self) -> str:
        return str(self.pod()["metadata"]["uid"])

    def node(self) -> Node:
        """Return the node that the pod is on."""
        return self.cluster.node(self.pod()["spec"]["nodeName"])

    def is_ready(self) -> bool:
        return (self.condition("Ready") or {}).get("status") == "True"

    def exists_and_is_ready(self) -> bool:
        """As :meth:`is_ready`, also before the pod is there."""
        pods = self.get_json("pods", labels=f"app={self.name}")["items"]
        return len(pods) == 1 and self.is_ready()

    def condition(self, kind: str) -> dict[str, Any] | None:
        """Return a condition of the pod; None if it has none of that type."""
        conditions = self.pod()["status"].get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), None)

    def asleep_reason(self) -> tuple[str, str, str]:
        """Return status, reason and message of the condition that tells of sleep."""
        found = self.condition(names.CONDITION_ASLEEP) or {}
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def restarts(self) -> int:
        return sum(c["restartCount"] for c in self.pod()["status"]["containerStatuses"])

    def container_status(self, container: str = "app") -> dict[str, Any]:
        statuses: list[dict[str, Any]] = self.pod()["status"].get("containerStatuses", [])
        return next((s for s in statuses if s["name"] == container), {})

    def requests(self, container: str = "app") -> dict[str, str]:
        """Return the requests that hold now."""
        found: dict[str, str] = (
            self.container_status(container).get("resources", {}).get("requests", {})
        )
        return found

    def events(self, reason: str) -> list[str]:
        """Return the messages of the pod's events with *reason*."""
        listed = self.get_json("events", fields=f"involvedObject.uid={self.uid()},reason={reason}")
        return [str(e["message"]) for e in listed["items"]]

    def checkpoint(self) -> dict[str, Any] | None:
        """Return the Checkpoint object of the pod; None if there is none."""
        pod = self.pod()["metadata"]
        ref = checkpoints.ref_of(resources.pod(self.namespace, pod["name"], uid=pod["uid"]))
        found = self.get_json("checkpoints.architect.dev")["items"]
        return next((c for c in found if c["metadata"]["name"] == ref.name), None)

    def runtime(self, verb: str, *words: str) -> dict[str, Any]:
        """Run `architect-runtime VERB` for the pod on its node."""
        pod = self.pod()
        node = self.cluster.node(pod["spec"]["nodeName"])
        return ask_runtime(node, verb, f"{self.namespace}/{pod['metadata']['name']}", *words)

    def sleep(self) -> None:
        """Put the pod to sleep now, however often it is busy."""
        eventually(self._fell_asleep, what=f"{self.name} falls asleep")

    def _fell_asleep(self) -> bool:
        return try_to_sleep(lambda: self.runtime("sleep")) and self.state() == "asleep"

    def status(self) -> dict[str, Any]:
        """Return the keeper's status of the pod."""
        return self.runtime("status")

    def state(self) -> str:
        return str(self.status()["state"])

    def why(self) -> str:
        """Return what `architect-runtime why` says."""
        return "\n".join(self.runtime("why")["why"])

    def label(self) -> str | None:
        return next(iter(self.labels().values()), None)

    def labels(self) -> dict[str, str]:
        """Return container → status label."""
        prefix = names.STATUS_LABEL_PREFIX
        labels = self.pod()["metadata"]["labels"]
        return {k.removeprefix(prefix): v for k, v in labels.items() if k.startswith(prefix)}

    def service_ip(self, family: str = "IPv4") -> str:
        """Return the Service's address of the family ``IPv4`` or ``IPv6``."""
        spec = self.get_json("service", self.name)["spec"]
        return str(spec["clusterIPs"][spec["ipFamilies"].index(family)])

    def pod_ip(self) -> str:
        return str(self.pod()["status"]["podIP"])

    def get(self, path: str = "/", *, host: str | None = None, port: int = 8080) -> dict[str, Any]:
        """Ask the application through its Service (or at *host*) from outside the nodes."""
        where = _in_url(host or self.service_ip())
        return ask(self.cluster, f"http://{where}:{port}{path}")

    def get_itself(self, path: str = "/") -> dict[str, Any]:
        """Ask the pod at its own address.

        That leads to it whatever kube-proxy has heard of by now: that a pod was not ready for a
        moment, it may believe later than that it is ready again.
        """
        return self.get(path, host=self.pod_ip())

    def get_when_reachable(self, path: str = "/") -> dict[str, Any]:
        """As :meth:`get`, but again while the Service leads nowhere.

        After a restart of its container, or of kubelet, a pod is not ready for a moment, and
        kube-proxy, which refuses connections then, follows both changes in its own time: a moment
        later it may refuse (see :meth:`get_itself`).
        """
        found: list[dict[str, Any]] = []

        def answers() -> bool:
            try:
                found.append(self.get(path))
            except errors.CommandFailed as error:
                if error.status != CURL_REFUSED:
                    raise
            return bool(found)

        eventually(answers, what=f"the Service of {self.name} leads to it")
        return found[0]

    @contextmanager
    def pending_request(
        self, *, seconds: float = patient(280.0)
    ) -> Iterator[subprocess.Popen[str]]:
        """Send a request and do not wait for its answer, which :func:`answer_of` returns."""
        url = f"http://{self.service_ip()}:8080/"
        process = subprocess.Popen(
            self.cluster.plane.machine.in_network("curl", "-gsS", "-m", f"{seconds:g}", url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        except BaseException:
            process.kill()
            process.communicate()
            raise


@dataclass(frozen=True, kw_only=True)
class BarePod(Workload):
    """A pod without an owner; it is asked at its own address."""

    def pod(self) -> dict[str, Any]:
        return self.get_json("pod", self.name)

    def is_gone(self) -> bool:
        return not self.kubectl("get", "pod", self.name, "--ignore-not-found", "-o", "name")

    def service_ip(self, family: str = "IPv4") -> str:
        addresses = [str(a["ip"]) for a in self.pod()["status"]["podIPs"]]
        return next(a for a in addresses if (":" in a) == (family == "IPv6"))


def ask(cluster: Cluster, url: str, *, seconds: float = REQUEST_SECONDS) -> dict[str, Any]:
    """Return what an application answers to a request from outside the nodes."""
    said = cluster.in_control_plane(
        ["curl", "-gsS", "-m", f"{seconds:g}", url], timeout_seconds=seconds + 30
    )
    answer: dict[str, Any] = json.loads(said)
    return answer


def answer_of(request: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what the application answers to a request that was sent before."""
    said, complaint = request.communicate(timeout=patient(300.0))
    assert request.returncode == 0, complaint
    answer: dict[str, Any] = json.loads(said)
    return answer


def ask_runtime(node: Node, verb: str, *words: str) -> dict[str, Any]:
    """Run ``architect-runtime`` on *node* and return what it says."""
    said = node.exec([RUNTIME, verb, *words, "-o", "json"], timeout_seconds=180)
    answer: dict[str, Any] = json.loads(said)
    return answer


def try_to_sleep(sleep: Callable[[], object]) -> bool:
    """Call *sleep*; return False where the pod was only busy, waking, or not known to be ready."""
    try:
        sleep()
    except errors.CommandFailed as error:
        if _is_not_now(error):
            return False
        raise
    return True


def refusal(app: Workload) -> errors.CommandFailed:
    """Return why *app* cannot be put to sleep, once that is more than that it is busy."""

    def refused() -> errors.CommandFailed | None:
        try:
            app.runtime("sleep")
        except errors.CommandFailed as error:
            return None if _is_not_now(error) else error
        raise AssertionError(f"{app.name} fell asleep")

    found: errors.CommandFailed = eventually(refused, what=f"{app.name} is refused a sleep")
    return found


def _is_not_now(error: errors.CommandFailed) -> bool:
    return any(word in str(error) for word in NOT_NOW)


def memory_server(
    name: str = "app", *, mebibytes: int = 16, port: int = 8080, **more: Any
) -> dict[str, Any]:
    """Return a container that runs ``apps/memory.py``; *more* replaces or adds fields."""
    return {
        "name": name,
        "image": "localhost/py:3",
        "imagePullPolicy": "Never",
        "command": ["python3", "-u", "/app/memory.py", str(mebibytes), str(port)],
        "ports": [{"containerPort": port}],
        "readinessProbe": readiness(port),
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
        "volumeMounts": [{"name": "code", "mountPath": "/app"}],
        **more,
    }


def readiness(port: int = 8080, *, failures: int = UNREADY_AFTER) -> dict[str, Any]:
    """Return the readiness probe of what listens at *port*."""
    return {"tcpSocket": {"port": port}, "periodSeconds": 1, "failureThreshold": failures}


def pod_template(
    name: str,
    containers: Sequence[Mapping[str, Any]],
    *,
    annotations: Mapping[str, str] | None = None,
    node: str | None = None,
    spec: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return metadata and spec of a pod that mounts the applications' code; idle for an hour."""
    return {
        "metadata": {
            "labels": {"app": name},
            "annotations": {names.IDLE: "1h"} if annotations is None else dict(annotations),
        },
        "spec": {
            "terminationGracePeriodSeconds": 5,
            **({"nodeName": node} if node else {}),
            "containers": list(containers),
            "volumes": [{"name": "code", "configMap": {"name": name}}],
            **(spec or {}),
        },
    }


def code(name: str, **files: str) -> dict[str, Any]:
    """Return the ConfigMap with the applications' code and *files* (``.`` written as ``_``)."""
    programs = {path.name: path.read_text() for path in APPS.glob("*.py")}
    data = programs | {key.replace("_", "."): text for key, text in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def service(name: str) -> dict[str, Any]:
    """Return the Service of a workload: TCP and UDP 8080, both families."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "ipFamilyPolicy": "PreferDualStack",
            "selector": {"app": name},
            "ports": [
                {"name": "http", "port": 8080},
                {"name": "echo", "port": 8080, "protocol": "UDP"},
            ],
        },
    }


@contextmanager
def workload(
    cluster: Cluster,
    namespace: str,
    name: str,
    *,
    mebibytes: int = 16,
    annotations: Mapping[str, str] | None = None,
    container: Mapping[str, Any] | None = None,
    more_containers: Sequence[Mapping[str, Any]] = (),
    spec: Mapping[str, Any] | None = None,
    node: str | None = None,
) -> Iterator[Workload]:
    """Run the memory server as a managed Deployment and wait until it is ready."""
    made = Workload(cluster=cluster, namespace=namespace, name=name)
    containers = [{**memory_server(mebibytes=mebibytes), **(container or {})}, *more_containers]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": pod_template(
                name, containers, annotations=annotations, node=node, spec=spec
            ),
        },
    }
    apply(made, code(name), service(name), deployment)
    eventually(made.exists_and_is_ready, what=f"{name} is ready")
    wait_for_service(cluster.plane.machine, made.service_ip())
    yield made
    made.kubectl(
        "delete", "deployment,service,configmap", name, "--wait=false", "--ignore-not-found"
    )


@contextmanager
def bare_pod(
    cluster: Cluster,
    namespace: str,
    name: str,
    *,
    containers: Sequence[Mapping[str, Any]] = (),
    annotations: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    node: str | None = None,
    files: Mapping[str, str] | None = None,
) -> Iterator[BarePod]:
    """Run a managed pod without an owner (the memory server by default); wait until it is ready."""
    made = BarePod(cluster=cluster, namespace=namespace, name=name)
    template = pod_template(
        name, containers or [memory_server()], annotations=annotations, node=node, spec=spec
    )
    template["metadata"] |= {"name": name, **(metadata or {})}
    apply(made, code(name, **(files or {})), {"apiVersion": "v1", "kind": "Pod", **template})
    eventually(made.is_ready, what=f"{name} is ready")
    yield made
    made.kubectl("delete", "pod,configmap", name, "--wait=false", "--ignore-not-found")


def apply(made: Workload, *objects: Mapping[str, Any]) -> str:
    """Apply *objects* in the workload's namespace; return what kubectl says."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    return made.kubectl("apply", "-f", "-", input=json.dumps(listed))


def wait_for_service(machine: Machine, address: str) -> None:
    """Return once a Service leads somewhere: kube-proxy is later than a pod's readiness."""

    def answers() -> bool:
        try:
            url = f"http://{_in_url(address)}:8080/"
            machine.run_in_network("curl", "-gsS", "-m", f"{patient(10.0):g}", url)
        except errors.CommandFailed:
            return False
        return True

    eventually(answers, what=f"the Service at {address} answers in the network of {machine.name}")


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
