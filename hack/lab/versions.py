"""The versions everything is built from. A change here makes a new artefact in the cache."""

from __future__ import annotations

KUBERNETES = "v1.36.3"
HELM = "v4.3.1"
VERSITYGW = "v1.8.0"
LOCAL_KMS = "v0.0.0-20260228092603-2a5e92d09ab6"
"""Of its third series; modules have no tags of it."""
COREDNS = "v1.15.0"
GVISOR = "v0.0.0-20260905035102-160fafc42237"
"""Of gVisor's branch for the go command, which has no releases."""
CRICTL = "v1.34.0"
CONTAINERD = "v2.4.2"
"""The next one beside the nodes' own, which is Debian's."""
CSI_ATTACHER = "v4.12.0"
"""The one that is built with the libraries of Kubernetes 1.36."""
METRICS_SERVER = "v0.9.0"
"""The one that is built with the libraries of Kubernetes 1.36."""
GO = "1.26.4"
"""Oldest Go that builds all of them (the ``go`` line of the newest module)."""
GO_TOOLCHAIN = "1.26.8"
"""The Go that is fetched where the host's is older."""

NODE_SUITE = "forky"
"""Debian release of the nodes: the oldest one with containerd 2.1, which kubelet 1.36 needs."""

APPLICATION_SUITE = "trixie"

NODE_PACKAGES = (
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "crun",
    "curl",
    "dbus-daemon",
    "etcd-server",
    "iproute2",
    "kmod",
    "mount",
    "nftables",
    "procps",
    "python3",
    "python3-jeepney",
    "runc",
    "socat",
    "systemd",
    "tar",
    "util-linux",
    "zstd",
)
"""What a node has. CRIU is missing on purpose: the product brings its own."""

NODE_MINIMUM = {
    "containerd": "2.1",  # kubelet 1.36 refuses containerd 1
    "runc": "1.2",
    "crun": "1.15",
    "etcd-server": "3.5",
    "nftables": "1.0.9",  # kube-proxy's nftables mode
    "python3": "3.13",
}
"""The suite rolls on; an older version than these means that the mirror is not what it says."""

STANDALONE_PACKAGES = (
    *("ca-certificates", "containerd", "crun", "docker.io", "docker-cli", "iproute2", "kmod"),
    *("mount", "netavark", "nftables", "podman", "procps", "python3", "runc", "tar", "util-linux"),
)
"""A machine without Kubernetes: engines that are used by hand."""

STANDALONE_MINIMUM = {
    "containerd": "2.1",
    "docker.io": "24",  # `docker run --annotation`
    "podman": "5",
    "runc": "1.2",
    "python3": "3.13",
}

APPLICATION_PACKAGES = (
    "ca-certificates",
    "curl",
    "iproute2",
    "netcat-openbsd",
    "procps",
    "python3",
)
