"""New pods, leaving siblings and Checkpoints, to decide about."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from architect.core.identity import Identity, Owner
from architect.daemon import claims, offers
from architect.daemon.claims import Bounds, Claim, Fresh, Newcomer, Sibling, Wait
from architect.daemon.offers import Node
from architect.kube.checkpoints import Trigger

Json = dict[str, Any]

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
START = int(EPOCH.timestamp())
NODE = Node(architecture="amd64", cpu_features=frozenset({"avx2", "sse4_2"}), criu="4.2.1")
BOUNDS = Bounds(capture_seconds=60, sibling_seconds=5, late_seconds=900)
OWNER = Owner(api_version="apps/v1", kind="ReplicaSet", name="web", uid="owner-1")
SET = Owner(api_version="apps/v1", kind="StatefulSet", name="web", uid="owner-1")
HASH = "v1:" + "a" * 64


def at(seconds: int) -> str:
    return (EPOCH + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def newcomer(
    *,
    owner: Owner = OWNER,
    ordinal: int | None = None,
    template_hash: str = HASH,
    created: int = 1,
    **more: Any,
) -> Newcomer:
    given: Json = {
        "namespace": "shop",
        "name": "web-new",
        "uid": "new",
        "created": START + created,
        "identity": Identity(
            namespace="shop", owner=owner, ordinal=ordinal, template_hash=template_hash
        ),
        "containers": frozenset({"app"}),
        **more,
    }
    return Newcomer(**given)


def sibling(uid: str = "old", *, deleted: int = 0, **identity_changes: Any) -> Sibling:
    who = newcomer().identity
    assert who is not None
    return Sibling(
        uid=uid,
        name=f"web-{uid}",
        identity=dataclasses.replace(who, **identity_changes),
        deleted=START + deleted,
    )


def conditions(**statuses: str) -> list[Json]:
    return [
        {"type": t, "status": s, "reason": f"{t}Reason", "message": f"{t} because"}
        for t, s in statuses.items()
    ]


def checkpoint(
    name: str = "old",
    *,
    namespace: str = "shop",
    owner: str = "owner-1",
    ordinal: int | None = None,
    template_hash: str = HASH,
    trigger: Trigger = Trigger.EVICTION,
    containers: tuple[str, ...] = ("app",),
    created: int = 0,
    captured: int | None = 2,
    claimed_by: str = "",
    state: Json | None = None,
    requirements: Json | None = None,
    parts: Json | None = None,
    **status: Any,
) -> Json:
    """Return a Checkpoint as the API has it: by default captured, available and unclaimed."""
    spec: Json = {
        "podRef": {"name": f"web-{name}", "uid": name},
        "owner": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": owner},
        "templateHash": template_hash,
        "trigger": trigger.value,
        "containers": list(containers),
    }
    if ordinal is not None:
        spec["owner"]["ordinal"] = ordinal
    if parts is not None:
        spec[offers.TEMPLATE_PARTS] = parts
    shown = {"Captured": "True", "Available": "True"} if state is None else state
    found: Json = {"conditions": conditions(**shown), **status}
    if captured is not None:
        found |= {
            "capturedAt": at(captured),
            "formatVersion": 2,
            "requirements": requirements
            or {
                "architecture": "amd64",
                "cpuFeatures": ["avx2"],
                "criu": "4.2",
                "kernel": "6.1.0",
            },
        }
    if claimed_by:
        found["claimedBy"] = {"name": f"web-{claimed_by}", "uid": claimed_by, "node": "n"}
    return {
        "apiVersion": "architect.dev/v1alpha1",
        "kind": "Checkpoint",
        "metadata": {
            "name": f"ckpt-{name}",
            "namespace": namespace,
            "uid": f"uid-{name}",
            "resourceVersion": f"7{len(name)}",
            "creationTimestamp": at(created),
        },
        "spec": spec,
        "status": found,
    }


CAPTURING: Json = {"captured": None, "state": {"Captured": "Unknown"}}


def decide(
    who: Newcomer,
    *found: Json,
    siblings: tuple[Sibling, ...] = (),
    lost: tuple[str, ...] = (),
    waited: float = 0.0,
    node: Node = NODE,
    bounds: Bounds = BOUNDS,
) -> claims.Decision:
    """Decide; pods that have claimed something are there, but for those in *lost*."""
    claimants = {v.get("status", {}).get("claimedBy", {}).get("uid") for v in found}
    return claims.decide(
        who,
        node=node,
        found=found,
        siblings=siblings,
        living=claimants - set(lost),
        waited_seconds=waited,
        bounds=bounds,
    )


def claimed(who: Newcomer, *found: Json, **more: Any) -> str:
    decision = decide(who, *found, **more)
    assert isinstance(decision, Claim), decision
    value = next(v for v in found if v["metadata"]["uid"] == decision.uid)
    assert decision.name == value["metadata"]["name"]
    assert decision.resource_version == value["metadata"]["resourceVersion"]
    return decision.name.removeprefix("ckpt-")


def fresh(who: Newcomer, *found: Json, **more: Any) -> str:
    decision = decide(who, *found, **more)
    assert isinstance(decision, Fresh), decision
    assert decision.message
    return decision.reason


def message(who: Newcomer, *found: Json, **more: Any) -> str:
    decision = decide(who, *found, **more)
    assert isinstance(decision, Fresh), decision
    return decision.message


def waits(who: Newcomer, *found: Json, **more: Any) -> float:
    decision = decide(who, *found, **more)
    assert isinstance(decision, Wait), decision
    assert decision.for_what
    return decision.seconds
