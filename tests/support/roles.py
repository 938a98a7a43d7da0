"""The release in the cluster with a role's credentials in place of a Secret's: the object store is
behind one that knows the role (:mod:`support.rolestore`), and each pod finds them as on a cloud."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab import addresses, dockerfiles, object_store, release, spot
from lab.cluster import Cluster
from lab.spot import Metadata
from support import chart, tokenservice
from support.tokenstore import Keys
from support.workloads import eventually

KEYS: Final = Keys(access_key="role-key", secret_key="role-secret", token="of-a-role")
"""The token is the one that the metadata service's double gives."""
PORT: Final = 9002
ENDPOINT: Final = f"http://{addresses.CONTROL_PLANE_V4}:{PORT}"
WORKLOADS: Final = ("daemonset/architect-daemon", "deployment/architect-operator")
ROLE: Final = "arn:aws:iam::111122223333:role/checkpoints"
TOKENS: Final = Path("/var/run/secrets/eks.amazonaws.com/serviceaccount")
AUTHORITY: Final = "token-service"
"""Name of a ConfigMap."""


@dataclass(frozen=True)
class Front:
    """What stands before the object store."""

    process: subprocess.Popen[str]

    def used(self) -> dict[str, int]:
        """Return how many requests were carried out, by access key."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("used\n")
        self.process.stdin.flush()
        answer: dict[str, int] = json.loads(self.process.stdout.readline())
        return answer


def give(service: Metadata) -> None:
    """Give a machine the role."""
    service.role("checkpoints", KEYS.access_key, KEYS.secret_key)


@contextmanager
def _program(cluster: Cluster, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = cluster.plane.machine.popen_in_network(
        [sys.executable, "-m", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(dockerfiles.CHECKOUT / "tests")},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def used_by_all(cluster: Cluster) -> Iterator[Front]:
    """Have the release use the role's store without a Secret, for the ``with`` block."""
    where = (addresses.CONTROL_PLANE_V4, str(PORT), str(object_store.PORT))
    with _program(cluster, "support.rolestore", *where) as process:
        own = [object_store.ACCESS_KEY, object_store.SECRET_KEY]
        holders = [[KEYS.access_key, KEYS.secret_key, KEYS.token]]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"holders": holders, "own": own}) + "\n")
        process.stdin.flush()
        assert process.stdout.readline(), "the store for roles does not start"
        settings = (f"objectStore.endpoint={ENDPOINT}", "objectStore.credentials.secretName=")
        with chart.changed(cluster, *settings):
            yield Front(process)


@contextmanager
def of_machines(cluster: Cluster, *, apart_from: str) -> Iterator[None]:
    """Give every node's machine the role, but the one that a test makes a spot machine itself."""
    with ExitStack() as stack:
        for node in cluster.nodes:
            if node.name != apart_from:
                give(stack.enter_context(spot.metadata(node.machine)))
        yield


@contextmanager
def by_web_identity(cluster: Cluster, directory: Path) -> Iterator[Path]:
    """Have operator and daemon assume the role with their accounts' tokens.

    As EKS' webhook does it: variables, and a token in a file. And that they believe the double of
    the token service. Gives the file with what it was asked.
    """
    (directory / "credentials").write_text(
        json.dumps(
            {
                "access_key": KEYS.access_key,
                "secret_key": KEYS.secret_key,
                "token": KEYS.token,
                "seconds": 3600,
            }
        )
    )
    address = addresses.CONTROL_PLANE_V4
    with _program(cluster, "support.tokenservice", directory, "--at", address):
        authority = directory / "authority.pem"
        eventually(authority.exists, what="the token service has an authority")
        kubectl = (*("-n", release.NAMESPACE),)
        cluster.kubectl(
            *(*kubectl, "create", "configmap", AUTHORITY, f"--from-file=ca.pem={authority}")
        )
        before = {name: _template(cluster, name) for name in WORKLOADS}
        try:
            for name, template in before.items():
                _patch(cluster, name, "/spec/template", believing(template, address))
            chart.await_rollouts(cluster)
            yield directory / "asked"
        finally:
            for name, template in before.items():
                _patch(cluster, name, "/spec/template", template)
            chart.await_rollouts(cluster)
            cluster.kubectl(*(*kubectl, "delete", "configmap", AUTHORITY))


def _template(cluster: Cluster, name: str) -> dict[str, Any]:
    said = cluster.kubectl("-n", release.NAMESPACE, "get", name, "-o", "json")
    found: dict[str, Any] = json.loads(said)["spec"]["template"]
    return found


def _patch(cluster: Cluster, name: str, path: str, value: dict[str, Any]) -> None:
    patch = json.dumps([{"op": "replace", "path": path, "value": value}])
    cluster.kubectl("-n", release.NAMESPACE, "patch", name, "--type=json", "-p", patch)


def believing(template: dict[str, Any], address: str) -> dict[str, Any]:
    """Return a pod template whose containers assume the role at the token service's double."""
    spec = template["spec"]
    variables = {
        "AWS_ROLE_ARN": ROLE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(TOKENS / "token"),
        "AWS_REGION": tokenservice.REGION,
        "AWS_CA_BUNDLE": str(tokenservice.TRUSTED),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    mounts = [
        {"name": "aws-token", "mountPath": str(TOKENS), "readOnly": True},
        {"name": "aws-authority", "mountPath": str(tokenservice.TRUSTED), "subPath": "ca.pem"},
    ]
    containers = [
        {
            **one,
            "env": [
                *one.get("env", []),
                *({"name": name, "value": value} for name, value in variables.items()),
            ],
            "volumeMounts": [*one.get("volumeMounts", []), *mounts],
        }
        for one in spec["containers"]
    ]
    token = {"path": "token", "audience": "sts.amazonaws.com", "expirationSeconds": 3600}
    volumes = [
        *spec.get("volumes", []),
        {"name": "aws-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "aws-authority", "configMap": {"name": AUTHORITY}},
    ]
    aliases = [
        *spec.get("hostAliases", []),
        {"ip": address, "hostnames": [tokenservice.NAME]},
    ]
    return {
        **template,
        "spec": {**spec, "containers": containers, "volumes": volumes, "hostAliases": aliases},
    }
