"""The API as a daemon of the real cluster sees it: by a token that is bound to its pod."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import yaml

from architect.kube.api import Api, open_api
from architect.kube.resources import PODS
from lab.cluster import Cluster

NAMESPACE = "architect"
ACCOUNT = "architect-daemon"
SELECTOR = "app.kubernetes.io/name=architect,app.kubernetes.io/component=daemon"


def open_as(kubeconfig: Path) -> Api:
    return open_api(field_manager="architect-test", version="0", kubeconfig=kubeconfig)


def daemons_by_node(api: Api) -> dict[str, dict[str, Any]]:
    """Return the daemons' pods."""
    pods = api.list(PODS, namespace=NAMESPACE, labels=SELECTOR).items
    return {pod["spec"]["nodeName"]: pod for pod in pods}


def with_token(architect: Cluster, directory: Path, *bound: str) -> Api:
    """Return the API as the daemons' account sees it."""
    token = architect.kubectl("create", "token", "-n", NAMESPACE, ACCOUNT, *bound).strip()
    value = yaml.safe_load(architect.kubeconfig.read_text())
    for user in value["users"]:
        user["user"] = {"token": token}
    path = directory / f"kubeconfig-{secrets.token_hex(4)}"
    path.write_text(yaml.safe_dump(value))
    return open_as(path)


def as_daemon(architect: Cluster, directory: Path, pod: dict[str, Any]) -> Api:
    metadata = pod["metadata"]
    return with_token(
        architect, directory, "--bound-object-kind=Pod",
        f"--bound-object-name={metadata['name']}", f"--bound-object-uid={metadata['uid']}",
    )  # fmt: skip
