"""The Leases that nodes' kubelets renew."""

from __future__ import annotations

from typing import Any, Final

from architect.kube.api import Api
from architect.kube.resources import LEASES, ObjectRef

NAMESPACE: Final = "kube-node-lease"

JsonObject = dict[str, Any]


def lease_of(api: Api, node: str) -> JsonObject | None:
    """Return the Lease of one node, read from etcd; None: it has none. Raises as *api* does."""
    return api.find(ObjectRef(resource=LEASES, namespace=NAMESPACE, name=node))


def all_leases(api: Api) -> dict[str, JsonObject]:
    """Return the Lease of each node, as the API server remembers them. Raises as *api* does."""
    listed = api.list(LEASES, namespace=NAMESPACE, is_cached=True)
    return {lease["metadata"]["name"]: lease for lease in listed.items}
