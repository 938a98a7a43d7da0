"""The cluster's metrics server: Kubernetes' own, which `kubectl top` and autoscalers ask.

Beside the control plane, like the object store: as a part of the API server it is there whatever
becomes of the nodes. Only who needs it starts it. It would cost an idle cluster little, but where
an API is registered whose server does not answer, Kubernetes removes no namespace and every client
that lists all APIs complains: a cluster in which the control plane's parts are stopped again and
again is better off without.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from lab import addresses, artefacts, errors, waiting
from lab.cluster import Cluster
from lab.control_plane import METRICS_SERVER, METRICS_SERVER_USER, PKI
from lab.patience import patient

PROGRAM: Final = "/usr/local/bin/metrics-server"
NAMESPACE: Final = "kube-system"
PORT: Final = 4443
API: Final = "v1beta1.metrics.k8s.io"
PATH: Final = "/apis/metrics.k8s.io/v1beta1"
"""Of its API, at the API server."""
RESOLUTION_SECONDS: Final = patient(10.0)
"""How often it asks the nodes; it refuses to do so more often than every 10 s."""
READY_SECONDS: Final = 180.0
_RBAC: Final = "rbac.authorization.k8s.io"


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[None]:
    """Have it for a ``with`` block, once it knows every node; nothing of it is left after.

    Its API is registered only while it answers.
    """
    machine = cluster.plane.machine
    # Another one in its place: one that a killed run has left may still run.
    write = f"cat > {PROGRAM}.new; chmod 755 {PROGRAM}.new; mv {PROGRAM}.new {PROGRAM}"
    with artefacts.metrics_server(cluster.cache).open("rb") as program:
        machine.exec(["sh", "-ec", write], stdin=program)
    try:
        with cluster.progress.step("starting the metrics server"):
            _kubectl(cluster, "apply", objects())
            machine.start_service(METRICS_SERVER, command())
            _wait(cluster, "the metrics server is ready", lambda: _is_ready(cluster))
            authority = (cluster.settings.state / "pki/ca.crt").read_bytes()
            _kubectl(cluster, "apply", [registration(authority)])
            _wait(cluster, "the metrics of every node", lambda: _knows_every_node(cluster))
        yield
    finally:
        cluster.kubectl("delete", "apiservice", API, "--ignore-not-found")
        if METRICS_SERVER in machine.services():
            machine.service(METRICS_SERVER).forget()
        _kubectl(cluster, "delete", objects(), "--wait=false", "--ignore-not-found")
        machine.exec(["rm", "-f", PROGRAM])


def command() -> list[str]:
    """Return the command line."""
    kubeconfig = f"{PKI}/{METRICS_SERVER}.conf"
    return [
        PROGRAM,
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--tls-cert-file={PKI}/{METRICS_SERVER}.crt",
        f"--tls-private-key-file={PKI}/{METRICS_SERVER}.key",
        f"--secure-port={PORT}",
        f"--kubelet-certificate-authority={PKI}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-use-node-status-port",
        f"--metric-resolution={RESOLUTION_SECONDS:.0f}s",
        f"--kubelet-request-timeout={0.9 * RESOLUTION_SECONDS:.0f}s",
    ]


def registration(authority: bytes) -> dict[str, Any]:
    """Return what tells the API server of it; *authority* has signed its certificate."""
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": API},
        "spec": {
            "service": {"name": METRICS_SERVER, "namespace": NAMESPACE},
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "caBundle": base64.b64encode(authority).decode(),
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }


def objects() -> list[dict[str, Any]]:
    """Return its rights, as its own manifest has them, and the Service that leads to it."""
    rules = [
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
    ]
    name = METRICS_SERVER_USER
    role = {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}}
    service = {
        "metadata": {"name": METRICS_SERVER, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "https", "port": 443, "targetPort": PORT}]},
    }
    slice_ = {
        "metadata": {
            "name": METRICS_SERVER,
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": METRICS_SERVER},
        },
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": PORT, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [addresses.CONTROL_PLANE_V4], "conditions": {"ready": True}},
        ],
    }
    reader = "extension-apiserver-authentication-reader"
    return [
        {**role, "rules": rules},
        _binding(name, "ClusterRole", name),
        _binding(f"{name}:auth-delegator", "ClusterRole", "system:auth-delegator"),
        _binding(METRICS_SERVER, "Role", reader),
        {"apiVersion": "v1", "kind": "Service", **service},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", **slice_},
    ]


def _binding(name: str, kind: str, role: str) -> dict[str, Any]:
    metadata = {"name": name}
    if kind == "Role":
        metadata["namespace"] = NAMESPACE
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": role},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": METRICS_SERVER_USER}],
    }


def _is_ready(cluster: Cluster) -> bool:
    """Whether it says so, which it does once it has asked the nodes."""
    url = f"https://{addresses.CONTROL_PLANE_V4}:{PORT}/readyz"
    curl = ["curl", "-sf", "-m", "10", "--cacert", f"{PKI}/ca.crt", url]
    try:
        return cluster.plane.machine.exec(curl) == "ok"
    except errors.CommandFailed:
        return False


def _knows_every_node(cluster: Cluster) -> bool:
    try:
        found = cluster.api.get(f"{PATH}/nodes")["items"]
    except errors.LabError:
        return False
    return {one["metadata"]["name"] for one in found} >= {node.name for node in cluster.nodes}


def _wait(cluster: Cluster, what: str, condition: Callable[[], bool]) -> None:
    log = cluster.plane.machine.logs / f"{METRICS_SERVER}.log"
    waiting.until(
        condition,
        what=what,
        timeout_seconds=READY_SECONDS,
        interval_seconds=0.5,
        last_seen=lambda: log.read_text(errors="replace")[-3000:] if log.exists() else "",
    )


def _kubectl(cluster: Cluster, verb: str, wanted: list[dict[str, Any]], *options: str) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted})
    cluster.kubectl(verb, "-f", "-", *options, input=text)
