"""The API as a daemon of the real cluster sees it: by a token that is bound to its pod.

Or as a rehearsal (``dryRun=All``): authorized, admitted, validated, and not written.
"""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from typing import Any

import yaml

from architect.kube.api import Api, open_api
from architect.kube.connection import Request, Transport
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


class Rehearsal:
    """Has the API server check each write and leave everything as it is."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def call(self, request: Request) -> Any:
        """Send *request*."""
        if request.method != "GET":
            query = {**request.query, "dryRun": "All"}
            request = dataclasses.replace(request, query=query)
        return self._transport.call(request)

    def stream(self, request: Request) -> Any:
        """Send *request*, which only reads."""
        return self._transport.stream(request)


def rehearsing(api: Api) -> Api:
    """Return *api*, by which nothing is written."""
    return Api(Rehearsal(api._transport), field_manager=api.field_manager)


def with_token(architect: Cluster, directory: Path, *bound: str, account: str = ACCOUNT) -> Api:
    """Return the API as an account of ours sees it, the daemons' by default."""
    token = architect.kubectl("create", "token", "-n", NAMESPACE, account, *bound).strip()
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
