"""The daemons' certificates, by a real API server: what it writes into requests, whom it lets sign.

The certificates that the daemons hold came this way; here a test asks as one of them, with a token
of its own that is bound to a daemon's pod.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import Rejected
from architect.daemon.peer.identity import Identity
from architect.kube.api import Api
from architect.kube.errors import Forbidden
from architect.kube.resources import SECRETS, SIGNING_REQUESTS, ObjectRef
from architect.operator.signing_requests import NODE_NAME
from architect.pki import certificates, node_identity
from lab.cluster import Cluster
from lab.errors import LabError
from support.daemontokens import NAMESPACE, as_daemon, daemons_by_node, open_as, with_token
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

CLUSTER_KEY = "architect-checkpoint-key"
"""The Secret with the private keys of sealed checkpoints."""


@pytest.fixture(scope="module")
def api(architect: Cluster) -> Api:
    return open_as(architect.kubeconfig)


@pytest.fixture(scope="module")
def daemons(api: Api) -> dict[str, dict[str, Any]]:
    """The daemons' pods by node."""
    return daemons_by_node(api)


def test_each_daemon_has_a_certificate_of_its_node(
    architect: Cluster, api: Api, daemons: dict[str, dict[str, Any]]
) -> None:
    assert daemons
    for node, pod in daemons.items():
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}:9464/proxy/metrics"

        def ends_at(path: str = path) -> float:
            text = architect.kubectl("get", "--raw", path)
            lines = [
                x for x in text.splitlines()
                if x.startswith("architect_certificate_end_timestamp_seconds")
            ]  # fmt: skip
            return float(lines[0].split()[1]) if lines else 0.0  # it has none yet

        eventually(lambda: ends_at() > time.time(), what=f"certificate of {node}")
    given: dict[str, str] = {}
    for request in api.list(SIGNING_REQUESTS).items:
        spec, status = request["spec"], request.get("status") or {}
        if spec["signerName"] == names.DAEMON_SIGNER and status.get("certificate"):
            leaf = certificates.read_certificates(base64.b64decode(status["certificate"]))[0]
            given[node_identity.node_of(leaf)] = spec["extra"][NODE_NAME][0]
    assert given.keys() >= daemons.keys()
    assert all(node == bound for node, bound in given.items())


def test_a_daemon_gets_its_own_nodes_certificate_and_no_others(
    architect: Cluster, tmp_path: Path, daemons: dict[str, dict[str, Any]]
) -> None:
    node, pod = next(iter(daemons.items()))
    daemon = as_daemon(architect, tmp_path, pod)
    found = Identity(daemon, node=node).obtain(threading.Event())
    leaf = certificates.read_certificates(found.certificate)[0]
    assert node_identity.node_of(leaf) == node
    with pytest.raises(Rejected, match="WrongNode"):
        Identity(daemon, node="another-node").obtain(threading.Event())


def test_a_token_without_a_pod_gets_nothing(architect: Cluster, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="NoNode"):
        Identity(with_token(architect, tmp_path), node="n1").obtain(threading.Event())


def test_an_administrator_gets_nothing(api: Api) -> None:
    with pytest.raises(Rejected, match="NotADaemon"):
        Identity(api, node="n1").obtain(threading.Event())


def test_what_an_administrator_approved_is_judged_all_the_same(
    architect: Cluster, api: Api
) -> None:
    """Approved in the same moment as it is made, or denied first: it is not signed."""
    request = node_identity.make_request(certificates.make_key(), "n1")
    ref = ObjectRef(resource=SIGNING_REQUESTS, name=f"architect-test-{secrets.token_hex(4)}")
    api.create(
        ref,
        {
            "apiVersion": SIGNING_REQUESTS.api_version,
            "kind": SIGNING_REQUESTS.kind,
            "metadata": {"name": ref.name},
            "spec": {
                "signerName": names.DAEMON_SIGNER,
                "request": base64.b64encode(request).decode(),
                "usages": list(node_identity.REQUEST_USAGES),
            },
        },
    )

    def settled() -> bool:
        status = api.get(SIGNING_REQUESTS, ref.name).get("status") or {}
        kinds = {c["type"] for c in status.get("conditions") or ()}
        assert "certificate" not in status
        return bool(kinds & {"Denied", "Failed"})

    with contextlib.suppress(LabError):  # it was denied before
        architect.kubectl("certificate", "approve", ref.name)
    eventually(settled, what="the request to be refused")
    api.delete(ref)


def test_a_daemon_can_sign_and_approve_nothing(
    architect: Cluster, tmp_path: Path, api: Api, daemons: dict[str, dict[str, Any]]
) -> None:
    daemon = as_daemon(architect, tmp_path, next(iter(daemons.values())))
    (some, *_) = [
        r for r in api.list(SIGNING_REQUESTS).items
        if r["spec"]["signerName"] == names.DAEMON_SIGNER
    ]  # fmt: skip
    ref = ObjectRef.of(SIGNING_REQUESTS, some)
    for sub, value in (("approval", {"conditions": []}), ("status", {"certificate": "eA=="})):
        with pytest.raises(Forbidden):
            daemon.patch(ref, {"status": value}, subresource=sub)
    for secret in ("architect-daemon-ca", "architect-webhook-tls", CLUSTER_KEY):
        assert api.get(SECRETS, secret, namespace=NAMESPACE)["data"], "it is there"
        with pytest.raises(Forbidden):
            daemon.get(SECRETS, secret, namespace=NAMESPACE)


def test_nobody_but_the_operator_reads_the_clusters_key(architect: Cluster) -> None:
    which = {"resource": "secrets", "namespace": NAMESPACE}
    own = {**which, "name": CLUSTER_KEY}
    assert _may(architect, "operator", verb="get", **own)
    for account in ("daemon", "webhook"):
        for verb in ("get", "list", "watch", "update", "patch", "delete"):
            assert not _may(architect, account, verb=verb, **own), (account, verb)
        for verb in ("list", "watch"):
            assert not _may(architect, account, verb=verb, **which), (account, verb)


def test_the_operator_signs_for_no_other_signer(architect: Cluster) -> None:
    for verb in ("approve", "sign"):
        for signer, wanted in (
            (names.DAEMON_SIGNER, "yes"),
            ("kubernetes.io/kube-apiserver-client", "no"),
            ("kubernetes.io/kubelet-serving", "no"),
        ):
            which = {"group": "certificates.k8s.io", "resource": "signers", "name": signer}
            is_allowed = _may(architect, "operator", verb=verb, **which)
            assert is_allowed is (wanted == "yes"), (verb, signer)


def _may(architect: Cluster, account: str, **attributes: str) -> bool:
    """Whether the API server lets one of our accounts do what *attributes* say."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{NAMESPACE}:architect-{account}",
            "resourceAttributes": attributes,
        },
    }
    answer = architect.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(review))
    return bool(json.loads(answer)["status"]["allowed"])
