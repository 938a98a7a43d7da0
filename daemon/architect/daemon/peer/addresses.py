"""Where the daemon of a node is: its pod's address, from the pods themselves.

Not from the EndpointSlice of a Service: that leaves out daemons that are not ready, and a node that
fails a check, or is being drained, still has checkpoints to give.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final

from architect.core.errors import Unavailable
from architect.kube.api import Api
from architect.kube.resources import PODS

PORT_NAME: Final = "peer"
"""Of the container's port. Taken from the pod: during an upgrade the numbers may differ."""


class Addresses:
    """Looks a daemon up, once for each call: pods are replaced, and a transfer is rare."""

    def __init__(self, api: Api, *, namespace: str, selector: str) -> None:
        self._api = api
        self._namespace = namespace
        self._selector = selector

    def address_of(self, node: str) -> str:
        """Return ``address:port`` of the daemon of *node*.

        Raises Unavailable if none runs there, and the errors of the API.
        """
        pods = self._api.list(
            PODS,
            namespace=self._namespace,
            labels=self._selector,
            fields=f"spec.nodeName={node}",
        ).items
        return choose(pods, node=node)


def choose(pods: Iterable[Mapping[str, Any]], *, node: str) -> str:
    """Return the address of the pod to talk to; the youngest that runs, of several.

    Raises Unavailable.
    """
    running = [
        pod
        for pod in pods
        if (pod.get("spec") or {}).get("nodeName") == node
        and (pod.get("status") or {}).get("phase") == "Running"
    ]
    # One that is being replaced still answers for its grace period, if there is no other.
    running.sort(
        key=lambda pod: (
            not pod["metadata"].get("deletionTimestamp"),
            str(pod["metadata"].get("creationTimestamp") or ""),
        )
    )
    for pod in reversed(running):
        address, port = (pod.get("status") or {}).get("podIP"), _port(pod)
        if address and port:
            return _joined(str(address), port)
    why = "serves no peers: is it of an older version?" if running else "does not run"
    raise Unavailable(f"the daemon of node {node} {why}")


def _port(pod: Mapping[str, Any]) -> int | None:
    for container in (pod.get("spec") or {}).get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == PORT_NAME:
                return int(port["containerPort"])
    return None


def _joined(address: str, port: int) -> str:
    is_v6 = ipaddress.ip_address(address).version == 6
    return f"[{address}]:{port}" if is_v6 else f"{address}:{port}"
