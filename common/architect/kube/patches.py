"""What we write on pods and nodes: patches as pure values, and one function each that sends them.

Labels and annotations are merge patches, so that nobody else's are touched; conditions and
requests are strategic patches, whose lists are merged by type and by container name.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from architect.kube import conditions
from architect.kube.api import Api, JsonObject, PatchKind
from architect.kube.conditions import Condition
from architect.kube.resources import ObjectRef


def metadata_patch(
    *,
    labels: Mapping[str, str | None] | None = None,
    annotations: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Return the merge patch that sets labels and annotations; None removes one."""
    metadata: dict[str, Any] = {}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"metadata": metadata}


def set_metadata(
    api: Api,
    ref: ObjectRef,
    *,
    labels: Mapping[str, str | None] | None = None,
    annotations: Mapping[str, str | None] | None = None,
) -> JsonObject | None:
    """Set labels and annotations of a pod or node; None removes one. Nothing to set: no request.

    Raises NotFound if it is gone or replaced by another of that name.
    """
    if not labels and not annotations:
        return None
    return api.patch(ref, metadata_patch(labels=labels, annotations=annotations))


def set_condition(
    api: Api,
    ref: ObjectRef,
    existing: list[dict[str, Any]],
    condition: Condition,
    *,
    now: datetime.datetime | None = None,
) -> JsonObject | None:
    """Set a condition of a pod or node among *existing* (its ``status.conditions`` as last read).

    No request, and None, if they say it already. Kubelet keeps conditions that are not its own.
    """
    value = conditions.merge(existing, condition, now=now or datetime.datetime.now(tz=datetime.UTC))
    if value is None:
        return None
    return api.patch(
        ref,
        {"status": {"conditions": [value]}},
        kind=PatchKind.STRATEGIC,
        subresource="status",
    )


def resize_patch(requests: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return the strategic patch that sets each container's requests; limits stay."""
    containers = [
        {"name": name, "resources": {"requests": dict(values)}}
        for name, values in sorted(requests.items())
    ]
    return {"spec": {"containers": containers}}


def resize(
    api: Api,
    ref: ObjectRef,
    requests: Mapping[str, Mapping[str, str]],
    *,
    resource_version: str = "",
) -> JsonObject:
    """Set the requests of a running pod's containers through its ``resize`` subresource.

    Raises Rejected where Kubernetes forbids it (the QoS class would change, a LimitRange's minimum,
    a feature switched off); NotFound if the pod is gone; Conflict if it is not of
    *resource_version* any more, where that is given.
    """
    return api.patch(
        ref,
        resize_patch(requests),
        kind=PatchKind.STRATEGIC,
        subresource="resize",
        resource_version=resource_version,
    )
