"""Each daemon is held to its own Node, to its node's pods, and to what it writes there.

By a real API server, to which a test speaks as two daemons, with tokens that are bound to their
pods. Neither Nodes nor pods are written: each patch is a rehearsal, which is authorized, admitted
and validated as any.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.core.interruption import Interruption
from architect.daemon.evacuation import marks
from architect.kube import patches, resources
from architect.kube.api import Api, PatchKind
from architect.kube.conditions import Condition, Status
from architect.kube.errors import AlreadyExists, Forbidden
from architect.kube.resources import NODES, PODS, SECRETS, ObjectRef
from lab.cluster import Cluster
from support.daemontokens import (
    NAMESPACE,
    as_daemon,
    daemons_by_node,
    open_as,
    rehearsing,
    with_token,
)
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

Patch = dict[str, Any]

NODE_ONLY = "writes its own Node only"
CERTIFICATE = "architect-webhook-tls"
PODS_ONLY = "writes pods of its own node only"


@dataclass
class Daemon:
    """One node's, and what it is responsible for."""

    node: ObjectRef
    pod: ObjectRef
    api: Api

    def value(self) -> dict[str, Any]:
        """Return the Node as it is now."""
        return self.api.get(NODES, self.node.name)


@dataclass
class Stage:
    """Two daemons, one token of their account that is nobody's, and one who rules the cluster."""

    one: Daemon
    other: Daemon
    unbound: Api
    administrator: Api


@pytest.fixture(scope="module")
def stage(
    architect: Cluster, theme: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("tokens")
    administrator = open_as(architect.kubeconfig)
    found = []
    for node, theirs in sorted(daemons_by_node(administrator).items())[:2]:
        pod = resources.pod(theme, f"on-{node}", uid="")
        administrator.create(pod, _pod(pod.name, node))
        api = rehearsing(as_daemon(architect, directory, theirs))
        found.append(Daemon(node=resources.node(node), pod=pod, api=api))
    one, other = found
    for daemon in found:
        where = daemon.pod
        eventually(
            lambda where=where: (  # type: ignore[misc]  # of this turn of the loop
                administrator.get(PODS, where.name, namespace=theme)["status"]["phase"] == "Running"
            ),
            what=f"{where} to run",
        )
    unbound = rehearsing(with_token(architect, directory))

    def is_guarded(ref: ObjectRef, annotation: str) -> bool:
        """A policy that was just created is enforced a moment later, each in its own time."""
        try:
            patches.set_metadata(unbound, ref, annotations={annotation: "{}"})
        except Forbidden:
            return True
        return False

    eventually(
        lambda: (
            is_guarded(one.node, names.SPOT_NEEDS) and is_guarded(one.pod, names.ORIGINAL_REQUESTS)
        ),
        what="the admission policies to be enforced",
    )
    yield Stage(one=one, other=other, unbound=unbound, administrator=administrator)


def _pod(name: str, node: str) -> dict[str, Any]:
    container = {
        "name": "app",
        "image": "localhost/py:3",
        "imagePullPolicy": "Never",
        "command": ["sleep", "infinity"],
        "resources": {
            "requests": {"cpu": "20m", "memory": "20Mi"},
            "limits": {"cpu": "200m", "memory": "64Mi"},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [container, {**container, "name": "beside"}],
        },
    }


def _asleep() -> Condition:
    return Condition(type=names.CONDITION_ASLEEP, status=Status.TRUE, reason="Slept", message="x")


def _ready() -> Condition:
    return Condition(type=names.NODE_CONDITION, status=Status.FALSE, reason="OnlyATest")


def _interruption() -> Interruption:
    ends = datetime.datetime.now(tz=datetime.UTC)
    return Interruption(kind="interruption", source="aws", ends=ends, uncordon=True)


LOWERED = {"app": {"cpu": "1m", "memory": "1Ki"}, "beside": {"cpu": "1m", "memory": "1Ki"}}


def write_pod(who: Api, pod: ObjectRef) -> None:
    """Write all that a daemon writes of a pod that falls asleep, by the code itself."""
    patches.set_metadata(
        who,
        pod,
        labels={f"{names.STATUS_LABEL_PREFIX}app": names.STATUS_SCALED_DOWN},
        annotations={names.ORIGINAL_REQUESTS: '{"app":{"cpu":"20m"}}'},
    )
    patches.set_condition(who, pod, [], _asleep())
    patches.resize(who, pod, LOWERED)


def write_node(who: Api, node: ObjectRef) -> None:
    """Write all that a daemon writes of a node: ready, spot, ending, uninstalled."""
    patches.set_metadata(
        who,
        node,
        labels={names.NODE_READY_LABEL: "false", names.NODE_GVISOR_LABEL: None},
        annotations={names.SPOT_NEEDS: "{}", names.UNINSTALLED: "token"},
    )
    patches.set_condition(who, node, [], _ready())
    value = who.get(NODES, node.name)
    marked = marks.marked(value, _interruption())
    assert marked is not None and {"spec", "metadata"} <= marked.keys()
    who.patch(node, marked)


def test_what_a_daemon_writes_of_its_own_node_passes(stage: Stage) -> None:
    for daemon in (stage.one, stage.other):
        write_node(daemon.api, daemon.node)
        write_pod(daemon.api, daemon.pod)


def test_nothing_is_written_by_a_rehearsal(stage: Stage) -> None:
    write_node(stage.one.api, stage.one.node)
    value = stage.one.value()
    assert names.INTERRUPTION not in value["metadata"].get("annotations", {})
    assert not value["spec"].get("unschedulable")


def test_another_node_is_not_written(stage: Stage) -> None:
    who, node = stage.one.api, stage.other.node
    labels: dict[str, str | None] = {names.NODE_READY_LABEL: "false"}
    with pytest.raises(Forbidden, match=NODE_ONLY):
        patches.set_metadata(who, node, labels=labels)
    with pytest.raises(Forbidden, match=NODE_ONLY):
        patches.set_condition(who, node, [], _ready())
    marked = marks.marked(stage.other.value(), _interruption())
    with pytest.raises(Forbidden, match=NODE_ONLY):
        who.patch(node, marked)


def test_pods_of_another_node_are_not_written(stage: Stage) -> None:
    who, pod = stage.one.api, stage.other.pod
    labels: dict[str, str | None] = {f"{names.STATUS_LABEL_PREFIX}app": names.STATUS_SCALED_DOWN}
    with pytest.raises(Forbidden, match=PODS_ONLY):
        patches.set_metadata(who, pod, labels=labels)
    with pytest.raises(Forbidden, match=PODS_ONLY):
        patches.set_condition(who, pod, [], _asleep())
    with pytest.raises(Forbidden, match=PODS_ONLY):
        patches.resize(who, pod, LOWERED)


OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u"}
LIMITS = {"limits": {"memory": "128Mi"}}
READY = {"type": "Ready", "status": "False", "reason": "Forged"}

OF_A_NODE: dict[str, tuple[str, Patch, str]] = {
    "a label by which pods are placed": (
        "",
        {"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}},
        "does not write topo",
    ),
    "a label taken away": (
        "",
        {"metadata": {"labels": {"kubernetes.io/hostname": None}}},
        "does not write kubernetes",
    ),
    "a label beside the status": (
        "status",
        {"metadata": {"labels": {"a": "b"}}},
        "does not write a",
    ),
    "that its machine is gone": (
        "",
        {"metadata": {"annotations": {names.OUT_OF_SERVICE: "b"}}},
        "does not write architect",
    ),
    "an owner": (
        "",
        {"metadata": {"ownerReferences": [OWNER]}},
        "labels and annotations only",
    ),
    "a finalizer": (
        "",
        {"metadata": {"finalizers": ["example.com/x"]}},
        "labels and annotations only",
    ),
    "another's taint": (
        "",
        {"spec": {"taints": [{"key": "example.com/x", "effect": "NoExecute"}]}},
        "cordons its node",
    ),
    "kubelet's word": (
        "status",
        {"status": {"conditions": [READY]}},
        "ArchitectReady and",
    ),
    "what it has": (
        "status",
        {"status": {"capacity": {"example.com/gpu": "8"}}},
        "ArchitectReady and",
    ),
}

OF_A_POD: dict[str, tuple[str, Patch, str]] = {
    "the label that its Service selects": (
        "",
        {"metadata": {"labels": {"app": "other"}}},
        "does not write app",
    ),
    "a label taken away": (
        "",
        {"metadata": {"labels": {"app": None}}},
        "does not write app",
    ),
    "whether it starts fresh": (
        "",
        {"metadata": {"labels": {names.FRESH: "true"}}},
        "does not write architect.dev/fresh",
    ),
    "from what it starts": (
        "",
        {"metadata": {"annotations": {names.POLICY: "{}"}}},
        "does not write architect",
    ),
    "the owner whose memory it gets": (
        "",
        {"metadata": {"ownerReferences": [{**OWNER, "controller": True}]}},
        "labels and annotations only",
    ),
    "a finalizer": (
        "",
        {"metadata": {"finalizers": ["example.com/x"]}},
        "labels and annotations only",
    ),
    "its image": (
        "",
        {"spec": {"containers": [{"name": "app", "image": "localhost/other:1"}]}},
        "changes nothing else",
    ),
    "its end": (
        "",
        {"spec": {"activeDeadlineSeconds": 1}},
        "changes nothing else",
    ),
    "a label beside the status": (
        "status",
        {"metadata": {"labels": {"app": "other"}}},
        "does not write app",
    ),
    "whether it is ready": (
        "status",
        {"status": {"conditions": [READY]}},
        "condition architect.dev/Asleep",
    ),
    "its phase": (
        "status",
        {"status": {"phase": "Failed"}},
        "condition architect.dev/Asleep",
    ),
    "why it ended": (
        "status",
        {"status": {"reason": "Evicted", "message": "forged"}},
        "condition architect.dev/Asleep",
    ),
    "its limits": (
        "resize",
        {"spec": {"containers": [{"name": "app", "resources": LIMITS}]}},
        "changes nothing else",
    ),
}


@pytest.mark.parametrize(("subresource", "patch", "what"), OF_A_NODE.values(), ids=OF_A_NODE)
def test_of_its_own_node_a_daemon_does_not_write(
    stage: Stage, subresource: str, patch: Patch, what: str
) -> None:
    _refused(stage, stage.one.node, subresource, patch, what)


@pytest.mark.parametrize(("subresource", "patch", "what"), OF_A_POD.values(), ids=OF_A_POD)
def test_of_a_pod_of_its_node_a_daemon_does_not_write(
    stage: Stage, subresource: str, patch: Patch, what: str
) -> None:
    _refused(stage, stage.one.pod, subresource, patch, what)


def _refused(stage: Stage, ref: ObjectRef, subresource: str, patch: Patch, what: str) -> None:
    with pytest.raises(Forbidden, match=what):
        stage.one.api.patch(ref, patch, kind=PatchKind.STRATEGIC, subresource=subresource)
    # It is the policy that refuses it, and for nobody else.
    rehearsing(stage.administrator).patch(
        ref, patch, kind=PatchKind.STRATEGIC, subresource=subresource
    )


def test_a_token_without_a_pod_writes_nothing(stage: Stage) -> None:
    for ref in (stage.one.node, stage.one.pod):
        with pytest.raises(Forbidden, match="names no node"):
            patches.set_metadata(stage.unbound, ref, annotations={names.SPOT_NEEDS: "x"})


def test_a_pod_without_a_node_is_no_daemons(stage: Stage) -> None:
    pod = resources.pod(stage.one.pod.namespace or "", "nowhere", uid="")
    value = _pod(pod.name, "")
    value["spec"] |= {"nodeName": None, "nodeSelector": {"example.com/nowhere": "true"}}
    stage.administrator.create(pod, value)
    try:
        with pytest.raises(Forbidden, match=PODS_ONLY):
            patches.set_condition(stage.one.api, pod, [], _asleep())
    finally:
        stage.administrator.delete(pod, grace_seconds=0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (CERTIFICATE, "kubernetes.io/service-account-token"),
        (CERTIFICATE, "Opaque"),
        ("another", "kubernetes.io/tls"),
    ],
)
def test_the_webhook_makes_no_secret_but_its_own(
    architect: Cluster, tmp_path: Path, name: str, kind: str
) -> None:
    """One that is filled with a ServiceAccount's token, say, under the name that it may read."""
    who = rehearsing(with_token(architect, tmp_path, account="architect-webhook"))
    ref = ObjectRef(resource=SECRETS, namespace=NAMESPACE, name=name)
    said = {"kubernetes.io/service-account.name": "architect-operator"}
    value = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": kind,
        "metadata": {"name": name, "annotations": said},
        "data": {"tls.crt": "", "tls.key": ""} if kind.endswith("tls") else {},
    }
    with pytest.raises(Forbidden):  # what is said of Secrets is not passed on
        who.create(ref, value)
    # Not for want of the right, which it has:
    own = {**value, "type": "kubernetes.io/tls", "metadata": {"name": CERTIFICATE}}
    own["data"] = {"tls.crt": "", "tls.key": ""}
    with pytest.raises(AlreadyExists):
        who.create(ObjectRef(resource=SECRETS, namespace=NAMESPACE, name=CERTIFICATE), own)
