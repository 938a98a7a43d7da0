"""What the operator asks of the API. The chart's roles grant this and no more: a test compares."""

from __future__ import annotations

from typing import Final

from architect.api import names
from architect.kube.rbac import Rule
from architect.kube.resources import (
    CHECKPOINTS,
    CONFIG_MAPS,
    DAEMON_SETS,
    EVENTS,
    LEASES,
    NODES,
    PERSISTENT_CHECKPOINTS,
    PODS,
    SECRETS,
    SIGNERS,
    SIGNING_REQUESTS,
    SUBJECT_ACCESS_REVIEWS,
)

RULES: Final = (
    # Deleted: those of a machine that ends, once it is decided what of them is saved.
    Rule(resource=PODS, verbs=("get", "list", "watch", "delete")),
    # That they are disrupted.
    Rule(resource=PODS, subresource="status", verbs=("patch",)),
    Rule(resource=NODES, verbs=("get", "list", "watch", "patch")),
    # Whether kubelets are silent.
    Rule(resource=LEASES, verbs=("get", "list")),
    # Created: of what silent nodes left in the object store.
    Rule(resource=CHECKPOINTS, verbs=("get", "list", "watch", "create", "delete")),
    Rule(resource=CHECKPOINTS, subresource="status", verbs=("patch",)),
    Rule(resource=PERSISTENT_CHECKPOINTS, verbs=("get", "list", "watch", "delete")),
    Rule(resource=PERSISTENT_CHECKPOINTS, subresource="status", verbs=("patch",)),
    Rule(resource=SUBJECT_ACCESS_REVIEWS, verbs=("create",)),
    Rule(resource=EVENTS, verbs=("create", "patch")),
    Rule(resource=SIGNING_REQUESTS, verbs=("list", "watch")),
    Rule(resource=SIGNING_REQUESTS, subresource="approval", verbs=("patch",)),
    Rule(resource=SIGNING_REQUESTS, subresource="status", verbs=("patch",)),
    Rule(resource=SIGNERS, verbs=("approve", "sign"), names=(names.DAEMON_SIGNER,)),
    Rule(resource=SECRETS, verbs=("create",), is_local=True),
    Rule(
        resource=SECRETS,
        verbs=("get", "patch"),
        is_local=True,
        names=("architect-daemon-ca", "architect-checkpoint-key"),
    ),
    Rule(resource=CONFIG_MAPS, verbs=("create",), is_local=True),
    Rule(
        resource=CONFIG_MAPS,
        verbs=("get", "patch"),
        is_local=True,
        names=("architect-checkpoint-key",),
    ),
    Rule(resource=LEASES, verbs=("create",), is_local=True),
    Rule(resource=LEASES, verbs=("get", "patch"), is_local=True, names=("architect-operator",)),
)
"""Of the running operator. Cluster-wide unless local: managed pods are in any namespace."""

UNINSTALL_RULES: Final = (
    Rule(resource=NODES, verbs=("list",)),
    Rule(resource=PODS, verbs=("list",), is_local=True),
    Rule(resource=DAEMON_SETS, verbs=("get", "patch"), is_local=True, names=("architect-daemon",)),
)
"""Of the command ``uninstall``, which has an account of its own for as long as it runs."""
