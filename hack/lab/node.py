"""A Kubernetes node: a machine with containerd, kubelet and kube-proxy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import addresses, control_plane, images, netns, waiting
from lab.addresses import NodeAddresses
from lab.machine import Bind, Machine, MachineSpec, Service
from lab.patience import patient
from lab.pki import Authority

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
NODE_PKI = "/etc/kubernetes/pki"
KUBELET_CONFIG = "/etc/kubernetes/kubelet.json"
SHARED = "/mnt/shared"
"""What every node sees, as of a disk in the network."""
CAP_SYS_RESOURCE = 24  # <linux/capability.h>
IMPORT_TIMEOUT_SECONDS = 180.0
LEASE_SECONDS = 40.0
ENGINE_SECONDS = 120.0
"""Kubelet's own: how long its lease of the node lasts, and how long a call of the engine may."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node by its machine."""

    machine: Machine

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def addresses(self) -> NodeAddresses:
        return addresses.of_node(addresses.number_of(self.name))

    @property
    def containerd(self) -> Service:
        return self.machine.service("containerd")

    @property
    def kubelet(self) -> Service:
        return self.machine.service("kubelet")

    @property
    def kube_proxy(self) -> Service:
        return self.machine.service("kube-proxy")

    def exec(
        self, argv: Sequence[str | Path], *, timeout_seconds: float = 60, input: str | None = None
    ) -> str:
        """Run a command in the node and return its standard output."""
        return self.machine.exec(argv, timeout_seconds=timeout_seconds, input=input)

    def create(
        self,
        *,
        root: Path,
        kubernetes: Path,
        authority: Authority,
        pki: Path,
        plane: Machine,
        containerd: Path | None = None,
    ) -> None:
        """Make the machine and its network, and start containerd.

        *pki* is a directory for the certificates that this node, and no other, may see;
        *containerd* one with the programs that lie over those of *root*.
        """
        self._issue(authority, pki)
        shared = self.machine.settings.shared
        shared.mkdir(parents=True, exist_ok=True)
        self.machine.create(
            MachineSpec(
                root=root,
                binds=(
                    Bind(source=kubernetes, target=control_plane.BIN, readonly=True),
                    Bind(source=pki, target=NODE_PKI, readonly=True),
                    Bind(source=shared, target=SHARED, readonly=False),
                    *containerd_binds(containerd),
                ),
                files={
                    "/etc/cni/net.d/10-lab.conflist": cni_config(self.addresses),
                    "/etc/containerd/config.toml": containerd_config(
                        restrict_oom_score=not has_capability(CAP_SYS_RESOURCE)
                    ),
                    "/etc/containerd/conf.d/.keep": "",
                    KUBELET_CONFIG: kubelet_config(),
                },
                sysctls=netns.SYSCTLS,
            )
        )
        netns.connect(plane, self.machine, self.addresses)
        self.machine.start_service("containerd", ["/usr/bin/containerd"])

    def configure_kubelet(self, **more: object) -> None:
        """Restart kubelet with *more* fields in its configuration; without any: as it was."""
        write = f"cat > {KUBELET_CONFIG}.new && mv {KUBELET_CONFIG}.new {KUBELET_CONFIG}"
        self.exec(["sh", "-c", write], input=kubelet_config(**more))
        self.kubelet.restart()

    def start_kubernetes(self) -> None:
        """Start kubelet and kube-proxy. The Node object must be there."""
        where = self.addresses
        self.machine.start_service("kube-proxy", control_plane.proxy_command(self.name))
        self.machine.start_service(
            "kubelet",
            [
                f"{control_plane.BIN}/kubelet",
                f"--config={KUBELET_CONFIG}",
                f"--kubeconfig={NODE_PKI}/kubelet.conf",
                f"--hostname-override={self.name}",
                f"--node-ip={where.v4},{where.v6}",
            ],
        )

    def wait_for_containerd(self, *, timeout_seconds: float = 120) -> None:
        """Return once containerd's socket is there."""
        waiting.until(
            lambda: Path(f"/proc/{self.machine.running_pid}/root{CONTAINERD_SOCKET}").exists(),
            what=f"containerd of {self.name}",
            timeout_seconds=timeout_seconds,
            last_seen=lambda: (self.machine.logs / "containerd.log").read_text()[-2000:],
        )

    def load_image(self, archive: Path) -> None:
        """Import an OCI or Docker archive; it travels through a pipe, not through a registry."""
        self.wait_for_containerd()
        with archive.open("rb") as stream:
            self.machine.exec(
                ["ctr", "-n", "k8s.io", "images", "import", "-"],
                stdin=stream,
                timeout_seconds=IMPORT_TIMEOUT_SECONDS,
            )

    def reboot(self, plane: Machine) -> None:
        """End all processes at once, as a loss of power does, and boot again from the same disk.

        Whoever talks with it is not told, and nobody has ended its pods. Returns once kubelet is
        started; it is not Ready yet.
        """
        netns.cut(plane, self.addresses)
        self.machine.reboot()
        netns.connect(plane, self.machine, self.addresses)
        self.machine.start_service("containerd", ["/usr/bin/containerd"])
        self.wait_for_containerd()
        self.start_kubernetes()

    def end(self, plane: Machine) -> None:
        """End the machine as a cloud takes one back: at once, in silence, and its disk is gone.

        Whoever talks with it is not told. Its Node object stays, as nobody says that it is gone.
        """
        netns.cut(plane, self.addresses)
        self.machine.destroy()

    def object(self) -> dict[str, object]:
        """Return the Node object as it must be before kubelet registers: with its pod ranges."""
        where = self.addresses
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name},
            "spec": {"podCIDR": where.pods_v4, "podCIDRs": list(where.pod_cidrs)},
        }

    def _issue(self, authority: Authority, pki: Path) -> None:
        pki.mkdir(mode=0o700, parents=True, exist_ok=True)
        where = self.addresses
        pair = authority.issue(
            f"kubelet-{self.name}",
            subject=f"system:node:{self.name}",
            groups=["system:nodes"],
            hosts=[self.name, where.v4, where.v6],
        )
        server = f"https://{addresses.CONTROL_PLANE_V4}:{addresses.API_PORT}"
        authority.kubeconfig(pki / "kubelet.conf", server=server, user=pair)
        for source, target in (
            (authority.pair.certificate, "ca.crt"),
            (pair.certificate, "kubelet.crt"),
            (pair.key, "kubelet.key"),
            (authority.directory / "kube-proxy.conf", "kube-proxy.conf"),
        ):
            (pki / target).write_bytes(source.read_bytes())
            (pki / target).chmod(0o600)


def containerd_binds(programs: Path | None) -> tuple[Bind, ...]:
    """Return what puts the containerd in the directory *programs* over a node's own."""
    found = sorted(programs.iterdir()) if programs else ()
    return tuple(Bind(source=p, target=f"/usr/bin/{p.name}", readonly=True) for p in found)


def has_capability(number: int, status: str | None = None) -> bool:
    """Whether this process may have a capability, from ``/proc/self/status``."""
    text = Path("/proc/self/status").read_text() if status is None else status
    bounding = next(line for line in text.splitlines() if line.startswith("CapBnd:"))
    return bool(int(bounding.split()[1], 16) >> number & 1)


def containerd_config(*, restrict_oom_score: bool) -> str:
    """Return containerd's configuration; installers add files to ``conf.d``.

    *restrict_oom_score*: without CAP_SYS_RESOURCE nobody may lower ``oom_score_adj``, and every
    sandbox would die of it.
    """
    return f"""\
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"

  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{images.PAUSE}"

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = {str(restrict_oom_score).lower()}

  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"

  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"

    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = "/usr/sbin/runc"
"""


def cni_config(where: NodeAddresses) -> str:
    """Return the pods' network: one bridge per node, both families, no address translation."""
    return json.dumps(
        {
            "cniVersion": "1.0.0",
            "name": "lab",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": where.pods_v4}], [{"subnet": where.pods_v6}]],
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                },
                {
                    "type": "portmap",
                    "backend": "nftables",
                    "capabilities": {"portMappings": True},
                },
            ],
        },
        indent=1,
    )


def kubelet_config(**more: object) -> str:
    """Return kubelet's configuration, with *more* fields of it."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "x509": {"clientCAFile": f"{NODE_PKI}/ca.crt"},
                "webhook": {"enabled": True},
                "anonymous": {"enabled": False},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{NODE_PKI}/kubelet.crt",
            "tlsPrivateKeyFile": f"{NODE_PKI}/kubelet.key",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "nodeLeaseDurationSeconds": round(patient(LEASE_SECONDS)),
            # A disk is detached once its node's status no longer has it; what has not changed is
            # told as seldom as ever.
            "nodeStatusUpdateFrequency": "2s",
            "nodeStatusReportFrequency": "5m",
            "runtimeRequestTimeout": f"{patient(ENGINE_SECONDS):.0f}s",
            "failSwapOn": False,
            # The root of a machine is an overlay, of which quota and usage cannot be told.
            "localStorageCapacityIsolation": False,
            "clusterDNS": [addresses.DNS_V4],
            "clusterDomain": "cluster.local",
            "resolvConf": "/etc/resolv.conf",
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            **more,
        },
        indent=1,
    )
