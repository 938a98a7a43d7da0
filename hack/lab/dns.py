"""The objects of the cluster's DNS server."""

from __future__ import annotations

from typing import Any

from lab import addresses

NAMESPACE = "kube-system"
NAME = "coredns"

COREFILE = """\
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    cache 5
    loadbalance
}
"""
"""There is nothing to forward to: the cluster has no way out of the host."""


def objects(image: str) -> list[dict[str, Any]]:
    """Return everything that ``kubectl apply`` has to make."""
    labels = {"k8s-app": "kube-dns"}
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
    rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ]
    return [
        _object("v1", "ServiceAccount"),
        _object("v1", "ConfigMap", data={"Corefile": COREFILE}),
        _object("rbac.authorization.k8s.io/v1", "ClusterRole", rules=rules),
        _object(
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            roleRef={**role, "name": NAME},
            subjects=[account],
        ),
        _object(
            "v1",
            "Service",
            name="kube-dns",
            spec={
                "selector": labels,
                "clusterIP": addresses.DNS_V4,
                "clusterIPs": [addresses.DNS_V4, addresses.DNS_V6],
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                ],
            },
        ),
        _object(
            "apps/v1",
            "Deployment",
            spec={
                "replicas": 2,
                "selector": {"matchLabels": labels},
                # A drain of one node must leave names that resolve.
                "template": {"metadata": {"labels": labels}, "spec": _pod(image, labels)},
            },
        ),
    ]


def _pod(image: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "serviceAccountName": NAME,
        "priorityClassName": "system-cluster-critical",
        "terminationGracePeriodSeconds": 1,
        "dnsPolicy": "Default",
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
        ],
        "containers": [
            {
                "name": NAME,
                "image": image,
                "imagePullPolicy": "Never",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                "ports": [
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                ],
                "readinessProbe": {
                    "httpGet": {"path": "/ready", "port": 8181},
                    "periodSeconds": 2,
                },
                "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
            }
        ],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}],
    }


def _object(version: str, kind: str, *, name: str = NAME, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name}
    if not kind.startswith("ClusterRole"):
        metadata["namespace"] = NAMESPACE
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}
