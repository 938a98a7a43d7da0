"""A claim is anybody's to write who has a daemon's token; what was saved is only its successor's.

Here a test writes and asks as the daemon of one node, with a token and a certificate of it, about a
pod that the other node saved, and reads nothing. The real daemon then does, for the pod that comes.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from architect.api import names
from architect.daemon.peer.addresses import Addresses
from architect.daemon.peer.identity import Identity
from architect.kube import checkpoints
from architect.kube.api import Api
from architect.kube.resources import CHECKPOINTS, ObjectRef
from lab.cluster import Cluster
from support import moves, parts
from support.daemontokens import NAMESPACE, SELECTOR, as_daemon, daemons_by_node, open_as
from support.moves import Pod
from support.storing import Gate
from support.thief import Thief
from support.workloads import Workload, eventually, workload

pytestmark = pytest.mark.concurrent

ANNOTATIONS = {names.IDLE: "1h", names.STORAGE: "node"}


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A pod that was saved, whose successor is on no node yet, and somebody on another node."""

    app: Workload
    gate: Gate
    identity: str
    old: Pod
    ref: ObjectRef
    other: str
    """The node of which somebody has the daemon's token."""
    daemon: Api
    thief: Thief

    @property
    def source(self) -> str:
        """The node that saved it."""
        return str(self.old["spec"]["nodeName"])

    def claim(self, pod: dict[str, str] | None) -> None:
        """Write as the other node's daemon for which pod it claims.

        An earlier claim is given up first: the API takes none over another pod's.
        """
        for claim in (None, pod and {**pod, "node": self.other}):
            self.daemon.patch(self.ref, {"status": {"claimedBy": claim}}, subresource="status")

    def refusal(self, pod: dict[str, str], reason: str) -> None:
        """Claim for *pod*, ask, and return once it was refused for *reason*.

        The other node's real daemon takes a claim back that is for no pod of its own.
        """
        address = Addresses(self.daemon, namespace=NAMESPACE, selector=SELECTOR).address_of(
            self.source
        )
        peer = checkpoints.peer_of(
            self.daemon.get(CHECKPOINTS, self.ref.name, namespace=self.ref.namespace)
        )
        argv = self.thief.argv(self.source, address, peer["id"])
        wanted = f"node {self.other} claims checkpoint {peer['id']}: {reason}: pod {pod['name']} "

        def refused() -> bool:
            self.claim(pod)
            said = self.app.cluster.in_control_plane(argv, timeout_seconds=120).strip()
            assert said == "NotAllowed", said
            assert not self.thief.target.exists()
            return wanted in parts.daemon_log(self.app.cluster, self.source, seconds=600)

        eventually(refused, what=wanted)


@pytest.fixture
def saved(architect: Cluster, namespace: str, tmp_path: Path) -> Iterator[Saved]:
    gate = Gate(cluster=architect, name=namespace)
    gate.open()
    try:
        with workload(
            architect, namespace, "web", annotations=ANNOTATIONS,
            spec={"nodeSelector": gate.selector},
        ) as app:  # fmt: skip
            identity = str(app.get("/")["identity"])
            (old,) = moves.ready(app)
            gate.close()
            app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
            eventually(
                lambda: moves.conditions(app, old).get("Available", ("",))[0] == "True",
                what="the pod is saved",
            )
            value = moves.checkpoint(app, old)
            assert value is not None
            administrator = open_as(architect.kubeconfig)
            daemons = daemons_by_node(administrator)
            other = next(node for node in daemons if node != old["spec"]["nodeName"])
            daemon = as_daemon(architect, tmp_path, daemons[other])
            credentials = Identity(daemon, node=other).obtain(threading.Event())
            yield Saved(
                app=app,
                gate=gate,
                identity=identity,
                old=old,
                ref=ObjectRef.of(CHECKPOINTS, value),
                other=other,
                daemon=daemon,
                thief=Thief(directory=tmp_path, credentials=credentials),
            )
    finally:
        gate.close()


def test_a_claim_for_no_successor_of_it_reads_nothing(saved: Saved) -> None:
    app = saved.app
    none = {"name": f"web-{secrets.token_hex(4)}", "uid": secrets.token_hex(8)}
    saved.refusal(none, "PodGone")
    with workload(app.cluster, app.namespace, "neighbour", node=saved.other) as neighbour:
        his = neighbour.pod()["metadata"]
        saved.refusal({"name": his["name"], "uid": his["uid"]}, "WrongOwner")
    (successor,) = moves.pods(app)
    waiting = successor["metadata"]
    saved.refusal({"name": waiting["name"], "uid": waiting["uid"]}, "WrongNode")
    saved.claim(None)
    # Who is its successor, on that same node, has it from there by the same certificate.
    for key, value in saved.gate.selector.items():
        app.cluster.kubectl("label", "node", saved.other, "--overwrite", f"{key}={value}")
    (new,) = moves.ready(app, apart_from=[saved.old])
    assert new["spec"]["nodeName"] == saved.other
    assert moves.answer(app, new)["identity"] == saved.identity
    assert moves.ended(app, saved.old)["Restored"][0] == "True"
