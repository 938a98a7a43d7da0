"""A plan as JSON, for programs: what :mod:`.table` is for people (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from architect.daemon.spot.inputs import Request
from architect.daemon.spot.need import Need
from architect.daemon.spot.planner import Outcome, Plan, Saved, Stored
from architect.daemon.spot.remedies import Remedy

VERSION: Final = 1


def of_plan(
    node: str, request: Request, plan: Plan, need: Need, remedies: Sequence[Remedy | None]
) -> dict[str, Any]:
    """Return what the plan of *node* says; pods in the order of their rank."""
    return {
        "version": VERSION,
        "node": node,
        "usableSeconds": _finite(request.deadline_seconds),
        "isStoreReachable": request.is_store_reachable,
        "captures": plan.manner.captures,
        "objects": plan.objects,
        "needs": {
            "seconds": need.seconds,
            "limit": None if need.limit is None else need.limit.value,
            "pods": need.pods,
            "bytes": need.bytes,
        },
        "pods": [_pod(o, r) for o, r in zip(plan.outcomes, remedies, strict=True)],
    }


def _pod(outcome: Outcome, remedy: Remedy | None) -> dict[str, Any]:
    pod, verdict = outcome
    about: dict[str, Any] = {
        "name": pod.name,
        "priority": pod.priority,
        "state": pod.state.value,
        "bytes": pod.image_bytes,
        "sendBytes": pod.sent_bytes,
    }
    if isinstance(verdict, Stored):
        return {**about, "verdict": "stored"}
    if isinstance(verdict, Saved):
        return {
            **about,
            "verdict": "saved",
            "bySeconds": verdict.by_seconds,
            "yieldsTo": verdict.yields_to,
        }
    return {
        **about,
        "verdict": "misfit",
        "reason": verdict.reason,
        "message": verdict.text,
        "remedy": None if remedy is None else _remedy(remedy),
    }


def _remedy(remedy: Remedy) -> dict[str, Any]:
    return {
        "secondsMore": remedy.seconds_more,
        "uploadFactor": remedy.upload_factor,
        "podsFewer": remedy.pods_fewer,
    }


def _finite(number: float) -> float | None:
    """JSON has no infinity."""
    return number if math.isfinite(number) else None
