"""The cluster's block storage: disks that are attached to one node at a time, by a CSI driver.

Kubernetes does with them what it does in a cloud: its controller asks for an attachment, the
attacher of the CSI project has the driver make it, and kubelet has the driver mount what is
attached. The driver (``csidriver``) is our own; what it refuses is said there. Not part of every
cluster: who needs disks installs it, and removes it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab import commands, gomodules, images, waiting
from lab.cache import Cache
from lab.cluster import Cluster
from lab.images import Image
from lab.node import SHARED

NAME: Final = "disks.lab.architect.dev"
"""Of the driver."""
NAMESPACE: Final = "lab-disks"
IMAGE: Final = "localhost/csi:1"
SIZE_BYTES: Final = 32 << 20
READY_SECONDS: Final = 240.0
RELEASE_SECONDS: Final = 240.0
_DISKS: Final = "disks"
"""Of the directory that every node sees."""
_KUBELET: Final = "/var/lib/kubelet"
_SOCKET: Final = "/csi/csi.sock"
"""Between the attacher and the controller's part of the driver."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What the driver was asked, and answered without an error."""

    name: str
    node: str


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A disk by its name, with an ext4 file system. Making the object touches nothing."""

    name: str
    cluster: Cluster

    @property
    def directory(self) -> Path:
        """On the host."""
        return self.cluster.settings.shared / _DISKS / self.name

    def create(self) -> None:
        self.directory.mkdir(parents=True)
        image = self.directory / "image"
        with image.open("wb") as stream:
            stream.truncate(SIZE_BYTES)
        commands.run(["mke2fs", "-q", "-t", "ext4", image])

    def delete(self) -> None:
        """Remove a disk that no node has any more. Raises DeadlineExceeded if one keeps it."""
        waiting.until(
            lambda: not self.attached_to(),
            what=f"disk {self.name} is detached",
            timeout_seconds=RELEASE_SECONDS,
            last_seen=lambda: f"{self.attached_to()}\n{self._told()}",
        )
        shutil.rmtree(self.directory)

    def attached_to(self) -> str:
        """Return the node that has it; none: empty."""
        note = self.directory / "attached"
        return note.read_text() if note.exists() else ""

    def calls(self) -> list[Call]:
        """Return what was done with it, in order. What was asked again is there once."""
        told = [json.loads(line) for line in self._told().splitlines()]
        done = [Call(name=t["call"], node=t["node"]) for t in told if "refused" not in t]
        return [call for n, call in enumerate(done) if n == 0 or call != done[n - 1]]

    def refusals(self) -> list[str]:
        """Return what was refused, and why."""
        told = [json.loads(line) for line in self._told().splitlines()]
        return [f"{t['call']} for {t['node']}: {t['refused']}" for t in told if "refused" in t]

    def persistent_volume(self, *, namespace: str, claim: str) -> dict[str, Any]:
        """Return the PersistentVolume of the disk, which is for one claim only."""
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": self.name},
            "spec": {
                "capacity": {"storage": str(SIZE_BYTES)},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "csi": {"driver": NAME, "volumeHandle": self.name, "fsType": "ext4"},
                "claimRef": {"namespace": namespace, "name": claim},
            },
        }

    def _told(self) -> str:
        journal = self.directory / "calls"
        return journal.read_text() if journal.exists() else ""


def image(cache: Cache) -> Image:
    """Return the image with the attacher and the driver, two static programs."""
    programs = {
        "csi-attacher": gomodules.tool(cache, gomodules.CSI_ATTACHER),
        "csidriver": gomodules.own(cache, gomodules.CSI_DRIVER),
    }

    def build(directory: Path) -> None:
        images.from_files(directory, IMAGE, programs)

    recipe = [program.parent.parent.name for program in programs.values()]
    return Image(IMAGE, images.artefact(cache, IMAGE, recipe, build))


@contextmanager
def installed(cluster: Cluster) -> Iterator[None]:
    """Have the driver on every node for the ``with`` block. Disks are who made them to delete."""
    try:
        with cluster.progress.step("installing the CSI driver"):
            cluster.load_image(image(cluster.cache).archive)
            _kubectl(cluster, "apply", objects())
            waiting.until(
                lambda: not _not_ready(cluster),
                what="the CSI driver on every node",
                timeout_seconds=READY_SECONDS,
                interval_seconds=0.5,
                last_seen=lambda: ", ".join(_not_ready(cluster)),
            )
        yield
    finally:
        _kubectl(cluster, "delete", objects(), "--wait=false", "--ignore-not-found")


def _kubectl(cluster: Cluster, verb: str, wanted: list[dict[str, Any]], *options: str) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted})
    cluster.kubectl(verb, "-f", "-", *options, input=text)


def _not_ready(cluster: Cluster) -> list[str]:
    """Return what the driver waits for: nodes whose kubelet does not know it, the attacher."""
    found = json.loads(cluster.kubectl("get", "csinodes", "-o", "json"))["items"]
    known = {
        one["metadata"]["name"]
        for one in found
        if any(driver["name"] == NAME for driver in one["spec"].get("drivers") or ())
    }
    lacking = [node.name for node in cluster.nodes if node.name not in known]
    ready = cluster.kubectl(
        *("-n", NAMESPACE, "get", "deployment", "attacher"),
        *("-o", "jsonpath={.status.readyReplicas}"),
    )
    return lacking if ready == "1" else [*lacking, "attacher"]


def objects() -> list[dict[str, Any]]:
    """Return everything that the driver is, in order."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": NAME},
            "spec": {"attachRequired": True, "podInfoOnMount": False},
        },
        *_rights(),
        _workload("DaemonSet", "node", _node_plugin()),
        _workload("Deployment", "attacher", _attacher(), replicas=1),
    ]


def _rights() -> list[dict[str, Any]]:
    def rule(group: str, resources: list[str], *verbs: str) -> dict[str, Any]:
        return {"apiGroups": [group], "resources": resources, "verbs": ["get", "list", *verbs]}

    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "attacher", "namespace": NAMESPACE},
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": NAMESPACE},
            "rules": [
                rule("", ["persistentvolumes"], "watch", "patch"),
                rule("storage.k8s.io", ["csinodes"], "watch"),
                rule(
                    "storage.k8s.io",
                    ["volumeattachments", "volumeattachments/status"],
                    *("watch", "patch"),
                ),
            ],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAMESPACE},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": NAMESPACE},
            "subjects": [{"kind": "ServiceAccount", "name": "attacher", "namespace": NAMESPACE}],
        },
    ]


def _workload(kind: str, name: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
            **more,
        },
    }


def _node_plugin() -> dict[str, Any]:
    registry = f"{_KUBELET}/plugins_registry"
    socket = f"{_KUBELET}/plugins/{NAME}.sock"
    return {
        "terminationGracePeriodSeconds": 5,
        "containers": [
            {
                "name": "driver",
                **_driver(f"-socket={socket}", f"-registry={registry}", "-node=$(NODE)"),
                "env": [
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
                ],
                "securityContext": {"privileged": True},
                "volumeMounts": [
                    {"name": "disks", "mountPath": "/disks"},
                    # What is mounted here is mounted in the node.
                    {
                        "name": "kubelet",
                        "mountPath": _KUBELET,
                        "mountPropagation": "Bidirectional",
                    },
                    {"name": "devices", "mountPath": "/dev"},
                ],
            }
        ],
        "volumes": [_disks(), _of_node("kubelet", _KUBELET), _of_node("devices", "/dev")],
    }


def _attacher() -> dict[str, Any]:
    shared = {"name": "socket", "mountPath": str(Path(_SOCKET).parent)}
    return {
        "serviceAccountName": "attacher",
        "terminationGracePeriodSeconds": 5,
        "containers": [
            {
                "name": "driver",
                **_driver(f"-socket={_SOCKET}", "-controller"),
                "volumeMounts": [shared, {"name": "disks", "mountPath": "/disks"}],
            },
            {
                "name": "attacher",
                "image": IMAGE,
                "imagePullPolicy": "Never",
                "command": ["/csi-attacher", f"--csi-address={_SOCKET}"],
                "volumeMounts": [shared],
            },
        ],
        "volumes": [_disks(), {"name": "socket", "emptyDir": {}}],
    }


def _driver(*arguments: str) -> dict[str, Any]:
    return {
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/csidriver", f"-name={NAME}", "-disks=/disks", *arguments],
    }


def _disks() -> dict[str, Any]:
    return _of_node("disks", f"{SHARED}/{_DISKS}")


def _of_node(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
