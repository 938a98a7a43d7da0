"""What the operator does about machines that end, without a daemon that saves anything.

A test writes what a daemon would write, by that daemon's own rights.
"""

from __future__ import annotations

import datetime
import json
import time
from dataclasses import dataclass
from typing import Any

import pytest

from architect.api import names
from architect.core.interruption import Interruption
from architect.daemon.moves import objects
from architect.kube import checkpoints, resources
from architect.kube.api import Api
from architect.kube.checkpoints import CheckpointSpec, Owner, Trigger
from architect.kube.errors import Forbidden
from architect.kube.resources import ObjectRef
from architect.operator import machines
from lab.cluster import Cluster
from lab.node import Node
from support import moves, parts
from support.daemontokens import as_daemon, daemons_by_node, open_as
from support.spotnodes import told_at
from support.workloads import Workload, apply, code, eventually, memory_server, pod_template

pytestmark = pytest.mark.timeout(900)

GONE_SECONDS = 240
"""Kubernetes notices that a kubelet is silent after 50 s, and lets go of its pods 30 s later."""

Pod = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Word:
    """What the daemon of one node says of one pod."""

    daemon: Api
    node: str
    ref: ObjectRef

    def say(self, *said: Any) -> None:
        assert objects.change(self.daemon, self.ref, said) is not None


def _announce(daemons: dict[str, Api], pod: Pod, *, by: str) -> Word:
    """Have a node's daemon say that it saves a pod before its machine ends."""
    metadata = pod["metadata"]
    (owner,) = metadata["ownerReferences"]
    spec = CheckpointSpec(
        pod=resources.pod(metadata["namespace"], metadata["name"], uid=metadata["uid"]),
        trigger=Trigger.SPOT_INTERRUPTION,
        template_hash="v1:none",
        containers=("app",),
        owner=Owner(
            api_version=owner["apiVersion"], kind=owner["kind"], name=owner["name"],
            uid=owner["uid"],
        ),
    )  # fmt: skip
    ref = checkpoints.ref_of(spec.pod, trigger=spec.trigger)
    word = Word(daemon=daemons[by], node=by, ref=ref)
    word.daemon.create(ref, checkpoints.build(spec))
    fields = objects.location(by, metadata["uid"])
    assert objects.change(word.daemon, ref, objects.capturing(by), fields=fields) is not None
    return word


def _run(app: Workload, *, kind: str = "Deployment") -> None:
    """Run one pod that is none of ours, so that only the operator is tried."""
    name = app.name
    template = pod_template(name, [memory_server()], annotations={})
    more = {"serviceName": name} if kind == "StatefulSet" else {}
    value = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **more},
    }
    apply(app, code(name), value)


@pytest.fixture(scope="module")
def daemons(architect: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Api]:
    directory = tmp_path_factory.mktemp("tokens")
    pods = daemons_by_node(open_as(architect.kubeconfig))
    return {node: as_daemon(architect, directory, pod) for node, pod in pods.items()}


def _there(app: Workload) -> set[str]:
    """Return the pods that nobody deletes."""
    return {pod["metadata"]["uid"] for pod in moves.pods(app)}


@pytest.mark.concurrent
def test_a_pod_goes_by_its_own_nodes_word_and_no_other(
    architect: Cluster, namespace: str, daemons: dict[str, Api]
) -> None:
    apps = [
        Workload(cluster=architect, namespace=namespace, name=name) for name in ("saved", "runs")
    ]
    for app in apps:
        _run(app)
    saved, runs = (moves.ready(app)[0] for app in apps)
    (uid, other) = (pod["metadata"]["uid"] for pod in (saved, runs))
    node = saved["spec"]["nodeName"]
    # It could not be saved, and there is no notice: it runs on.
    stays = _announce(daemons, runs, by=runs["spec"]["nodeName"])
    stays.say(*objects.not_captured("TooLarge", "it would take too long"))
    word = _announce(daemons, saved, by=node)
    elsewhere = next(name for name in daemons if name != node)
    with pytest.raises(Forbidden):
        daemons[elsewhere].patch(word.ref, {"status": {"node": elsewhere}}, subresource="status")
    assert uid in _there(apps[0]), "it is being saved"
    word.say(*objects.captured(node, None, has_store=True))
    eventually(lambda: uid not in _there(apps[0]), what="the saved pod is deleted")
    moves.ready(apps[0], apart_from=[saved])
    (told,) = eventually(
        lambda: moves.events(apps[0], saved, names.EVENT_DISMISSED), what="it is said"
    )
    assert "it is saved" in told
    assert other in _there(apps[1])


@pytest.mark.concurrent
def test_a_stolen_daemon_has_no_pods_of_other_nodes_deleted(
    architect: Cluster, namespace: str, daemons: dict[str, Api]
) -> None:
    app = Workload(cluster=architect, namespace=namespace, name="target")
    _run(app)
    (pod,) = moves.ready(app)
    thief = next(name for name in daemons if name != pod["spec"]["nodeName"])
    word = _announce(daemons, pod, by=thief)
    word.say(*objects.captured(thief, None, has_store=False))
    # What comes after it in the same watch has been looked at: so has this.
    other = Workload(cluster=architect, namespace=namespace, name="other")
    _run(other)
    (after,) = moves.ready(other)
    witness = _announce(daemons, after, by=after["spec"]["nodeName"])
    witness.say(*objects.captured(witness.node, None, has_store=False))
    eventually(lambda: after["metadata"]["uid"] not in _there(other), what="the other one goes")
    assert pod["metadata"]["uid"] in _there(app)


def _node(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.kubectl("get", "node", name, "-o", "json"))
    return found


def _is_marked(cluster: Cluster, name: str) -> bool:
    return machines.TAINT in [
        {key: taint.get(key) for key in machines.TAINT}
        for taint in _node(cluster, name)["spec"].get("taints", [])
    ]


def _told(cluster: Cluster, node: str, reason: str, *, since: float) -> list[str]:
    """Return what was said of a node *since* then: machines of that name may have ended before."""
    listed = json.loads(cluster.kubectl("get", "events", "-A", "-o", "json"))["items"]
    return [
        str(event["message"])
        for event in listed
        if event["involvedObject"].get("kind") == "Node"
        and event["involvedObject"].get("name") == node
        and event["reason"] == reason
        and told_at(event) >= since
    ]


def _becomes_another_run(node: Node) -> None:
    """Have kubelet see another boot id, as after a restart: machines here share their kernel's."""
    script = (
        "cat /proc/sys/kernel/random/uuid > /etc/boot_id && "
        "mount --bind /etc/boot_id /proc/sys/kernel/random/boot_id"
    )
    node.exec(["sh", "-ec", script])
    node.kubelet.restart()


def _is_as_before(node: Node) -> None:
    node.exec(["sh", "-c", "umount /proc/sys/kernel/random/boot_id || true"])
    node.kubelet.restart()


def test_a_silent_machine_lets_go_of_its_pods_and_its_node_takes_new_ones_when_it_is_back(
    architect: Cluster, namespace: str
) -> None:
    node = architect.nodes[-1]
    name = node.name
    app = Workload(cluster=architect, namespace=namespace, name="web")
    with moves.alone(app, name):
        _run(app, kind="StatefulSet")
        (old,) = moves.ready(app)
    assert old["spec"]["nodeName"] == name
    began = time.time() - 1  # events have whole seconds
    node.kubelet.stop()
    try:
        # Its daemon would have written it, for an end that has come by now.
        ends = datetime.datetime.now(datetime.UTC)
        said = Interruption(kind="interruption", source="aws", ends=ends, uncordon=False)
        architect.kubectl("annotate", "node", name, f"{names.INTERRUPTION}={said.to_text()}")
        eventually(
            lambda: _is_marked(architect, name), what="the node is marked", seconds=GONE_SECONDS
        )
        (told,) = eventually(
            lambda: _told(architect, name, names.EVENT_MACHINE_GONE, since=began),
            what="it is said",
        )
        assert "aws announced its end" in told
        # A StatefulSet's pod is not replaced as long as the old one is there.
        (new,) = moves.ready(app, apart_from=[old], seconds=GONE_SECONDS)
        assert (new["metadata"]["name"], new["spec"]["nodeName"] != name) == ("web-0", True)
        # It was only cut off, and is the same run of the machine: people decide.
        node.kubelet.restart()
        eventually(
            lambda: _told(architect, name, names.EVENT_MACHINE_BACK, since=began),
            what="that is said",
        )
        assert _is_marked(architect, name)
        _becomes_another_run(node)
        eventually(lambda: not _is_marked(architect, name), what="the node is there again")
        assert names.OUT_OF_SERVICE not in _node(architect, name)["metadata"]["annotations"]
    finally:
        _is_as_before(node)
        architect.kubectl("annotate", "node", name, f"{names.INTERRUPTION}-")
    parts.wait_until_ready(architect)
