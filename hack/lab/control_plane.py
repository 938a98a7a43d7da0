"""The control plane: a machine with etcd, the API server, the controllers and the scheduler."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import addresses, netns, object_store
from lab.machine import Bind, Machine, MachineSpec, Service
from lab.patience import patient
from lab.pki import Authority

BIN = "/usr/local/lib/kubernetes"
"""Where the commands of Kubernetes are in every machine of a cluster."""

PKI = "/etc/kubernetes/pki"

MACHINE = "control-plane"

FRONT_PROXY: Final = "front-proxy"
"""Directory of another authority, of nothing but who passes on for whom it asks: the API server,
which tells the servers behind it of its clients. Also the subject of its certificate there."""

METRICS_SERVER: Final = "metrics-server"
METRICS_SERVER_USER: Final = f"system:{METRICS_SERVER}"
METRICS_SERVER_HOST: Final = f"{METRICS_SERVER}.kube-system.svc"
"""The name of the pair for the metrics server, its subject, and the Service it answers for."""

NODE_SILENCE_SECONDS = 50.0
"""Kubernetes' own: how long a node may say nothing before it counts as lost."""

AUDIT_POLICY: Final = "/etc/kubernetes/audit.json"
AUDIT_LOG: Final = "audit.log"
"""Among the machine's logs."""

API_SERVER_HOSTS = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "::1",
    addresses.CONTROL_PLANE_V4,
    addresses.CONTROL_PLANE_V6,
    addresses.API_SERVICE_V4,
    addresses.API_SERVICE_V6,
)


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    """The machine of the control plane and its services."""

    machine: Machine

    @property
    def etcd(self) -> Service:
        return self.machine.service("etcd")

    @property
    def api_server(self) -> Service:
        return self.machine.service("kube-apiserver")

    @property
    def object_store(self) -> Service:
        return self.machine.service(object_store.SERVICE)

    @property
    def controller_manager(self) -> Service:
        return self.machine.service("kube-controller-manager")

    @property
    def scheduler(self) -> Service:
        return self.machine.service("kube-scheduler")

    def create(
        self, *, root: Path, kubernetes: Path, versitygw: Path, authority: Authority
    ) -> None:
        """Make the machine, its network and its certificates, and start what needs no API."""
        self._issue(authority)
        self.machine.create(
            MachineSpec(
                root=root,
                binds=(
                    Bind(source=kubernetes, target=BIN, readonly=True),
                    Bind(source=versitygw, target=object_store.PROGRAM, readonly=True),
                    Bind(source=authority.directory, target=PKI, readonly=True),
                ),
                files={AUDIT_POLICY: json.dumps(audit_policy())},
                sysctls=netns.SYSCTLS,
            )
        )
        netns.make_bridge(self.machine)
        netns.name_control_plane(self.machine, record=netns_record(self.machine))
        services = api_services(has_audit=self.machine.settings.has_audit)
        for name, argv in {**services, **object_store.service()}.items():
            self.machine.start_service(name, argv)

    def start_controllers(self) -> None:
        """Start what works for the API server, if it does not run. The API server is ready.

        Before that they give up, are started again, and on a slow machine take the time that the
        API server needs.
        """
        for name, argv in controllers().items():
            self.machine.start_service(name, argv)

    def start_proxy(self, node: str) -> None:
        """Make Services reachable from the control plane's network.

        kube-proxy needs a Node object to run for; any of the cluster's does, it is only read.
        """
        self.machine.start_service("kube-proxy", proxy_command(node))

    def _issue(self, authority: Authority) -> None:
        server = f"https://{addresses.CONTROL_PLANE_V4}:{addresses.API_PORT}"
        authority.issue("apiserver", subject="kube-apiserver", hosts=API_SERVER_HOSTS)
        authority.issue("admin", subject="admin", groups=["system:masters"])
        authority.issue("kubelet-client", subject="kube-apiserver", groups=["system:masters"])
        authority.signing_key("sa")
        for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
            pair = authority.issue(name, subject=f"system:{name}")
            authority.kubeconfig(authority.directory / f"{name}.conf", server=server, user=pair)
        # Started by who needs it (metrics_server.py).
        pair = authority.issue(
            METRICS_SERVER,
            subject=METRICS_SERVER_USER,
            hosts=(METRICS_SERVER_HOST, addresses.CONTROL_PLANE_V4),
        )
        path = authority.directory / f"{METRICS_SERVER}.conf"
        authority.kubeconfig(path, server=server, user=pair)
        Authority(authority.directory / FRONT_PROXY).issue("client", subject=FRONT_PROXY)


def netns_record(machine: Machine) -> Path:
    """Return the file that says which network namespace bears the control plane's name."""
    return machine.settings.state / "netns"


def audit_policy() -> dict[str, object]:
    """Return what the API server writes down of each request: who asked for what, and when."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }


def api_services(*, has_audit: bool = False) -> dict[str, list[str]]:
    """Return the command lines of the API server and of what it needs."""
    audit = [f"--audit-policy-file={AUDIT_POLICY}", f"--audit-log-path=/var/log/{AUDIT_LOG}"]
    etcd = "http://127.0.0.1:2379"
    peer = "http://127.0.0.1:2380"
    return {
        "etcd": [
            "/usr/bin/etcd",
            "--data-dir=/var/lib/etcd",
            # The cluster does not outlive the machine: durability would only cost time.
            "--unsafe-no-fsync",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ],
        "kube-apiserver": [
            f"{BIN}/kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--advertise-address={addresses.CONTROL_PLANE_V4}",
            f"--secure-port={addresses.API_PORT}",
            f"--service-cluster-ip-range={addresses.SERVICE_CIDRS}",
            f"--client-ca-file={PKI}/ca.crt",
            f"--tls-cert-file={PKI}/apiserver.crt",
            f"--tls-private-key-file={PKI}/apiserver.key",
            f"--kubelet-client-certificate={PKI}/kubelet-client.crt",
            f"--kubelet-client-key={PKI}/kubelet-client.key",
            f"--kubelet-certificate-authority={PKI}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={PKI}/sa.pub",
            f"--service-account-signing-key-file={PKI}/sa.key",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            # Webhooks are called at the pod's own address, before any kube-proxy runs.
            "--enable-aggregator-routing=true",
            # How the servers of other APIs, behind this one, are told who asks.
            f"--proxy-client-cert-file={PKI}/{FRONT_PROXY}/client.crt",
            f"--proxy-client-key-file={PKI}/{FRONT_PROXY}/client.key",
            f"--requestheader-client-ca-file={PKI}/{FRONT_PROXY}/ca.crt",
            f"--requestheader-allowed-names={FRONT_PROXY}",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            *(audit if has_audit else ()),
        ],
    }


def controllers() -> dict[str, list[str]]:
    """Return the command lines of what works for the API server."""
    return {
        "kube-controller-manager": [
            f"{BIN}/kube-controller-manager",
            f"--kubeconfig={PKI}/kube-controller-manager.conf",
            f"--service-account-private-key-file={PKI}/sa.key",
            f"--root-ca-file={PKI}/ca.crt",
            f"--cluster-signing-cert-file={PKI}/ca.crt",
            f"--cluster-signing-key-file={PKI}/ca.key",
            "--use-service-account-credentials",
            "--leader-elect=false",
            f"--node-monitor-grace-period={patient(NODE_SILENCE_SECONDS):.0f}s",
            # Pod ranges follow from a node's number, not from the order of registration.
            "--allocate-node-cidrs=false",
        ],
        "kube-scheduler": [
            f"{BIN}/kube-scheduler",
            f"--kubeconfig={PKI}/kube-scheduler.conf",
            "--leader-elect=false",
        ],
    }


def proxy_command(node: str) -> list[str]:
    """Return the command line of kube-proxy for *node*."""
    return [
        f"{BIN}/kube-proxy",
        f"--kubeconfig={PKI}/kube-proxy.conf",
        f"--hostname-override={node}",
        f"--cluster-cidr={addresses.POD_CIDRS}",
        "--proxy-mode=nftables",
        # These sysctls are the host's, not the machine's.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
    ]
