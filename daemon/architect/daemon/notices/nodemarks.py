"""What taints, labels and conditions of a Node object announce (pure).

Whoever ends nodes marks them first, so that nothing is scheduled there any more. None of these
marks says for how long the machine stays; only AKS forwards a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from architect.daemon.notices import azure
from architect.daemon.notices.clock import from_http_date
from architect.daemon.notices.notice import Announcement, Kind, line

TAINTS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        # aws-node-termination-handler, pkg/node/node.go; with taintNode only.
        "aws-node-termination-handler/spot-itn": Kind.INTERRUPTION,
        "aws-node-termination-handler/asg-lifecycle-termination": Kind.INTERRUPTION,
        "aws-node-termination-handler/scheduled-maintenance": Kind.MAINTENANCE,
        "aws-node-termination-handler/rebalance-recommendation": Kind.REBALANCE,
        # Karpenter, pkg/apis/v1/taints.go: "a node it is disrupting or terminating", removed if the
        # disruption is abandoned; pkg/apis/v1beta1/taints.go, with the value "disrupting".
        "karpenter.sh/disrupted": Kind.INTERRUPTION,
        "karpenter.sh/disruption": Kind.INTERRUPTION,
        "karpenter.sh/rebooting": Kind.MAINTENANCE,
        # Cluster Autoscaler, cluster-autoscaler/utils/taints/taints.go; both are taken back. The
        # value is when.
        "ToBeDeletedByClusterAutoscaler": Kind.INTERRUPTION,
        "DeletionCandidateOfClusterAutoscaler": Kind.REBALANCE,
        # GKE, and GoogleCloudPlatform/k8s-node-termination-handler, main.go.
        "cloud.google.com/impending-node-termination": Kind.INTERRUPTION,
        # AKS node auto-drain (learn.microsoft.com/azure/aks/node-auto-drain), and before 2024.
        "remediator.kubernetes.azure.com/unschedulable": Kind.INTERRUPTION,
        "remediator.aks.microsoft.com/unschedulable": Kind.INTERRUPTION,
        # cloud-provider-azure: a Spot machine that is being evicted, on its way out of load
        # balancers.
        "cloudprovider.azure.microsoft.com/draining": Kind.INTERRUPTION,
        # k8s.io/cloud-provider, api/well_known_taints.go: the cloud says that it was shut down.
        "node.cloudprovider.kubernetes.io/shutdown": Kind.INTERRUPTION,
        # k8s.io/api/core/v1, well_known_taints.go: somebody says that it was, and its pods are
        # deleted.
        "node.kubernetes.io/out-of-service": Kind.INTERRUPTION,
    }
)
"""By key, whatever the effect."""

PREFIXES: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        # maksim-paskal/aks-node-termination-handler: with the event's type behind it.
        "aks-node-termination-handler/": Kind.INTERRUPTION,
    }
)

OVER: Final = frozenset(
    {"node.cloudprovider.kubernetes.io/shutdown", "node.kubernetes.io/out-of-service"}
)
"""What these announce has happened, if it is true."""

LABELS: Final[Mapping[tuple[str, str], Kind]] = MappingProxyType(
    {
        # aws-node-termination-handler, pkg/node/node.go: before it drains a node for a restart that
        # Amazon has scheduled; removed after that.
        ("aws-node-termination-handler/action", "UncordonAfterReboot"): Kind.MAINTENANCE,
        # GKE, host maintenance of nodes with GPUs and TPUs.
        ("cloud.google.com/active-node-maintenance", "ONGOING"): Kind.MAINTENANCE,
    }
)

CONDITIONS: Final = ("PreemptionScheduled", "VMEventScheduled")
"""Of AKS' node-problem-detector, which forwards Azure's scheduled events in the message:
``<EventType> <EventStatus>[: <NotBefore>]. … EventId: …``."""

_EVENT = re.compile(r"(?P<type>[A-Za-z]+) (?P<status>Scheduled|Started|Advisory)(?P<rest>[:.].*|$)")
_NOT_BEFORE = re.compile(
    r":\s*([A-Za-z]{3}, +[0-9]{1,2} [A-Za-z]{3} [0-9]{4} [0-9:]{7,8} (?:GMT|UTC))"
)
_EVENT_ID = re.compile(r"EventId:\s*([A-Za-z0-9-]{1,100})")


def announced(node: Mapping[str, Any]) -> tuple[Announcement, ...]:
    """Return what the marks of *node*, as the API has it, announce; what is malformed is no
    mark."""
    return (*_taints(node), *_labels(node), *_conditions(node))


def _taints(node: Mapping[str, Any]) -> Iterator[Announcement]:
    seen: set[str] = set()
    for taint in _list(_dict(node.get("spec")).get("taints")):
        key = _dict(taint).get("key")
        if not isinstance(key, str) or key in seen:
            continue  # one key may be there with several effects
        kind = TAINTS.get(key)
        if kind is None:
            kind = next((k for p, k in PREFIXES.items() if key.startswith(p)), None)
        if kind is not None:
            seen.add(key)
            value = taint.get("value")
            yield Announcement(
                kind=kind,
                id=line(f"taint {key}"),
                said=line(f"taint {key}={value}" if value else f"taint {key}"),
                ends_in_seconds=0.0 if key in OVER else None,
            )


def _labels(node: Mapping[str, Any]) -> Iterator[Announcement]:
    labels = _dict(_dict(node.get("metadata")).get("labels"))
    for (key, value), kind in LABELS.items():
        if labels.get(key) == value:
            yield Announcement(kind=kind, id=f"label {key}", said=f"label {key}={value}")


def _conditions(node: Mapping[str, Any]) -> Iterator[Announcement]:
    seen: set[str] = set()
    for item in _list(_dict(node.get("status")).get("conditions")):
        condition = _dict(item)
        name, message = condition.get("type"), condition.get("message")
        if condition.get("status") != "True" or name not in CONDITIONS:
            continue
        found = read_condition(str(name), message if isinstance(message, str) else "")
        # Two conditions tell of the same event.
        if found is not None and found.id not in seen:
            seen.add(found.id)
            yield found


def read_condition(name: str, message: str) -> Announcement | None:
    """Return what an AKS condition that is true announces; None if that is nothing for us.

    ``PreemptionScheduled`` is true of recommendations as well: the message decides.
    """
    text = " ".join(message[:2000].split())
    event = _EVENT.match(text)
    what = event["type"] if event else ""
    if event is None or what not in azure.KINDS:
        if name != "PreemptionScheduled":
            return None
        # True for whatever reason: somebody takes the machine back, at a time that we cannot read.
        return Announcement(
            kind=Kind.INTERRUPTION, id=f"condition {name}", said=line(f"{name}: {text}")
        )
    kind = azure.kind_of(what, event["status"])
    if kind is None:
        return None
    given = _EVENT_ID.search(text)
    when = _NOT_BEFORE.match(event["rest"])
    has_end, is_begun = kind is not Kind.REBALANCE, event["status"] == "Started"
    ends = from_http_date(when[1].replace("UTC", "GMT")) if when else None
    return Announcement(
        kind=kind,
        id=f"event {given[1]}" if given else f"condition {name}",
        said=line(f"{name}: {text}"),
        ends_unix=ends if has_end and not is_begun else None,
        ends_in_seconds=0.0 if has_end and is_begun else None,
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
