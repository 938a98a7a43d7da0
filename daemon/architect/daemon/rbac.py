"""What the daemon asks of the API; the chart's roles are compared with this."""

from __future__ import annotations

from typing import Final

from architect.kube.rbac import Rule
from architect.kube.resources import (
    AUTOSCALERS,
    CHECKPOINTS,
    CONFIG_MAPS,
    DAEMON_SETS,
    EVENTS,
    JOBS,
    LIMIT_RANGES,
    NODES,
    PERSISTENT_CHECKPOINTS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    SIGNING_REQUESTS,
    STATEFUL_SETS,
)

RULES: Final = (
    Rule(resource=PODS, verbs=("get", "list", "watch", "patch")),
    Rule(resource=PODS, verbs=("patch",), subresource="status"),
    Rule(resource=PODS, verbs=("patch",), subresource="resize"),
    Rule(resource=NODES, verbs=("get", "list", "watch", "patch")),
    Rule(resource=NODES, verbs=("patch",), subresource="status"),
    Rule(resource=LIMIT_RANGES, verbs=("list",)),
    # Whether one divides what a sleeping pod uses by its requests.
    Rule(resource=AUTOSCALERS, verbs=("list",)),
    Rule(resource=EVENTS, verbs=("create", "patch")),
    Rule(resource=CHECKPOINTS, verbs=("get", "list", "create", "delete")),
    Rule(resource=CHECKPOINTS, verbs=("patch",), subresource="status"),
    Rule(resource=PERSISTENT_CHECKPOINTS, verbs=("get", "list", "watch")),
    Rule(resource=PERSISTENT_CHECKPOINTS, verbs=("patch",), subresource="status"),
    # Who replaces a pod that leaves, and whether it will.
    Rule(resource=REPLICA_SETS, verbs=("get",)),
    Rule(resource=STATEFUL_SETS, verbs=("get",)),
    Rule(resource=REPLICATION_CONTROLLERS, verbs=("get",)),
    Rule(resource=JOBS, verbs=("get",)),
    # Whether its volumes are for one node at a time.
    Rule(resource=PERSISTENT_VOLUME_CLAIMS, verbs=("get",)),
    Rule(resource=SIGNING_REQUESTS, verbs=("create", "get")),
    Rule(resource=DAEMON_SETS, verbs=("get",), is_local=True),
    Rule(resource=CONFIG_MAPS, verbs=("get",), is_local=True, names=("architect-checkpoint-key",)),
)
