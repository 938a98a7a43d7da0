"""How the cluster is made, and taken away: its machines, what runs in them, what is waited for.

What runs well is kept. What a killed run has left is made anew, wherever it was killed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import addresses, artefacts, control_plane, dns, machine, netns, sysctls, waiting
from lab.machine import Machine
from lab.node import Node
from lab.pki import Authority

if TYPE_CHECKING:
    from lab.cluster import Cluster

API_TIMEOUT_SECONDS = 180.0
NODE_TIMEOUT_SECONDS = 240.0


def make(cluster: Cluster, count: int, parts: artefacts.Artefacts) -> None:
    """Make *cluster* be there with *count* nodes, Ready."""
    wanted = [addresses.of_node(number).name for number in range(1, count + 1)]
    if not cluster.plane.machine.complete:
        # Without the control plane's network its nodes are cut off for good.
        remove(cluster)
        _create_plane(cluster, parts)
    elif not cluster.entrance.is_open():
        cluster.entrance.open(cluster.api_port)
    for one in cluster.nodes:
        if one.name not in wanted or not one.machine.complete:
            cluster.progress.say(f"removing {one.name}")
            _remove_node(cluster, one)
    there = {n.name for n in cluster.nodes}
    missing = [
        Node(machine=Machine(name, settings=cluster.settings))
        for name in wanted
        if name not in there
    ]
    cluster.entrance.note_nodes(wanted)
    with futures.ThreadPoolExecutor(max_workers=2 * count + 1) as pool:
        made = [pool.submit(_create_node, cluster, n, parts) for n in missing]
        loaded = [
            pool.submit(_load_images, cluster, n, done, parts)
            for n, done in zip(missing, made, strict=True)
        ]
        _wait_for_api(cluster)
        cluster.plane.start_controllers()
        for job in made:
            job.result()
        if missing:
            _start_kubernetes(cluster, missing, parts)
        _wait_for_nodes(cluster, wanted)
        for job in loaded:
            job.result()
    _wait_for_dns(cluster)
    for one in missing:
        one.machine.mark_complete()


def remove(cluster: Cluster) -> None:
    """Remove every trace of *cluster*. Repeating it does nothing."""
    state = cluster.settings.state
    found = [
        m
        for m in machine.all_machines(cluster.settings)
        if m.name == cluster.plane.machine.name or is_node(m.name)
    ]
    if found:
        with cluster.progress.step("removing " + ", ".join(m.name for m in found)):
            together([m.destroy for m in found])
    for stray in machine.remove_strays(cluster.settings):
        cluster.progress.say(f"removed {stray}, whose machine's directory is gone")
    netns.forget_control_plane(record=control_plane.netns_record(cluster.plane.machine))
    for name in ("pki", "node-pki", "shared"):
        if (state / name).exists():
            shutil.rmtree(state / name)
    cluster.kubeconfig.unlink(missing_ok=True)
    cluster.entrance.forget()
    for left in state.glob("trial-*"):  # of a killed check of the host
        shutil.rmtree(left)
    sysctls.restore(state / "sysctls.json")


def _create_plane(cluster: Cluster, parts: artefacts.Artefacts) -> None:
    cluster.settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    sysctls.prepare(cluster.settings.state / "sysctls.json")
    port = cluster.entrance.choose_port()
    authority = Authority(cluster.pki)
    with cluster.progress.step("making the control plane"):
        cluster.plane.create(
            root=parts.node_root,
            kubernetes=parts.kubernetes,
            versitygw=parts.versitygw,
            authority=authority,
        )
    admin = authority.issue("admin", subject="admin", groups=["system:masters"])
    authority.kubeconfig(cluster.kubeconfig, server=f"https://127.0.0.1:{port}", user=admin)
    cluster.entrance.open(port)
    cluster.plane.machine.mark_complete()


def _create_node(cluster: Cluster, new: Node, parts: artefacts.Artefacts) -> None:
    with cluster.progress.step(f"making {new.name}"):
        new.create(
            root=parts.node_root,
            kubernetes=parts.kubernetes,
            containerd=parts.containerd,
            authority=Authority(cluster.pki),
            pki=cluster.settings.state / "node-pki" / new.name,
            plane=cluster.plane.machine,
        )
        new.wait_for_containerd()


def _load_images(
    cluster: Cluster, new: Node, made: futures.Future[None], parts: artefacts.Artefacts
) -> None:
    made.result()
    for image in parts.preloaded:
        new.load_image(image.archive)
    cluster.progress.say(f"{new.name}: {len(parts.preloaded)} images loaded")


def _start_kubernetes(cluster: Cluster, new: Sequence[Node], parts: artefacts.Artefacts) -> None:
    known = cluster.readiness()
    for one in new:
        if one.name in known:
            cluster.forget_node(one.name)
    _apply(cluster, [*(n.object() for n in new), *dns.objects(parts.coredns.name)])
    for one in new:
        one.start_kubernetes()
    cluster.plane.start_proxy(cluster.nodes[0].name)


def _apply(cluster: Cluster, objects: Sequence[dict[str, Any]]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    # Without validation, for which a new API server's whole OpenAPI document would have to come
    # within 32 s, which no option changes.
    options = ("--server-side", "--force-conflicts", "--validate=false")
    cluster.kubectl("apply", *options, "-f", "-", input=text)


def _remove_node(cluster: Cluster, old: Node) -> None:
    if cluster.plane.machine.pid is not None and cluster.api.ready():
        cluster.kubectl("delete", "node", old.name, "--ignore-not-found")
    old.machine.destroy()


def _wait_for_api(cluster: Cluster) -> None:
    with cluster.progress.step("waiting for the API server"):
        waiting.until(
            cluster.api.ready,
            what="API server ready",
            timeout_seconds=API_TIMEOUT_SECONDS,
            last_seen=lambda: _end_of(cluster.plane.machine.logs / "kube-apiserver.log"),
        )


def _wait_for_nodes(cluster: Cluster, names: Sequence[str]) -> None:
    def ready() -> bool:
        states = cluster.readiness()
        return all(states.get(name) for name in names)

    with cluster.progress.step("waiting for nodes to be Ready"):
        waiting.until(
            ready,
            what=f"nodes {', '.join(names)} Ready",
            timeout_seconds=NODE_TIMEOUT_SECONDS,
            interval_seconds=0.25,
            last_seen=lambda: "\n".join(
                _end_of(n.machine.logs / "kubelet.log") for n in cluster.nodes
            ),
        )


def _wait_for_dns(cluster: Cluster) -> None:
    path = f"/apis/apps/v1/namespaces/{dns.NAMESPACE}/deployments/{dns.NAME}"

    def ready() -> bool:
        return int(cluster.api.get(path).get("status", {}).get("availableReplicas", 0)) > 0

    with cluster.progress.step("waiting for DNS"):
        waiting.until(
            ready, what="DNS", timeout_seconds=NODE_TIMEOUT_SECONDS, interval_seconds=0.25
        )


def is_node(name: str) -> bool:
    """Whether a machine of this *name* is a node of the cluster."""
    return name.startswith("node") and name[4:].isdigit()


def together(jobs: Sequence[Callable[[], object]]) -> None:
    """Run *jobs* side by side and raise the first error once all have ended."""
    if not jobs:
        return
    with futures.ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()


def _end_of(path: Path) -> str:
    return path.read_text(errors="replace")[-3000:] if path.exists() else f"{path}: not there"
