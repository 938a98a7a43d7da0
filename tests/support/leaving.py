"""Pods that leave and their owners, as the API has them, and what is decided about them."""

from __future__ import annotations

import datetime
from typing import Any

from architect.daemon import owners, succession
from architect.daemon.succession import Leaving, Succession

Json = dict[str, Any]

GRACE = 30


def at(seconds: float) -> str:
    time = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(
    name: str = "a",
    *,
    kind: str = "ReplicaSet",
    api: str = "apps/v1",
    owner: str = "web",
    created: float = 0,
    deleted: float | None = None,
    disrupted: str = "",
    phase: str = "Running",
    labels: Json | None = None,
    annotations: Json | None = None,
    finalizers: list[str] | None = None,
    status: Json | None = None,
    **spec: Any,
) -> Json:
    metadata: Json = {
        "name": name,
        "namespace": "shop",
        "uid": f"uid-{name}",
        "creationTimestamp": at(created),
        "labels": labels or {},
        "annotations": annotations or {},
        "finalizers": finalizers or [],
        "ownerReferences": [
            {"apiVersion": api, "kind": kind, "name": owner, "uid": "owner-1", "controller": True}
        ],
    }
    if deleted is not None:
        metadata |= {
            "deletionTimestamp": at(deleted + GRACE),
            "deletionGracePeriodSeconds": GRACE,
        }
    conditions = [{"type": "Ready", "status": "True"}]
    if disrupted:
        conditions.append({"type": "DisruptionTarget", "status": "True", "reason": disrupted})
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "app", "image": "i"}], **spec},
        "status": {"phase": phase, "conditions": conditions, **(status or {})},
    }


def owner(status: Json | None = None, *, deleting: bool = False, **spec: Any) -> Json:
    metadata: Json = {"name": "web", "uid": "owner-1", "generation": 2}
    if deleting:
        metadata["deletionTimestamp"] = at(0)
    return {
        "metadata": metadata,
        "spec": spec,
        "status": {"observedGeneration": 2, **(status or {})},
    }


def asked(leaving: Json, its_owner: Json | None, *others: Json) -> Succession:
    return owners.succession(Leaving(pod=leaving, owner=its_owner, pods=[leaving, *others]))


def reason(leaving: Json, its_owner: Json | None, *others: Json) -> str:
    found = asked(leaving, its_owner, *others)
    assert found.is_expected == (found.reason == succession.EXPECTED)
    assert found.message
    return found.reason


EXPECTED = succession.EXPECTED
