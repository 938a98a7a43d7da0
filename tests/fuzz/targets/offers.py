"""Checkpoint objects, whose status any daemon may write, and pods, which users write.

The input is a JSON list: a pod, and the Checkpoints in its namespace.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, Final

from architect.api import names
from architect.api.policy import ContainerPolicy, Policy
from architect.core import identity
from architect.core.errors import FormatError
from architect.daemon import claims, offers
from architect.daemon.claims import Claim, Decision
from architect.daemon.offers import Node
from architect.kube import checkpoints
from fuzz import mutations

MUTATE = mutations.document

NODE: Final = Node(architecture="amd64", cpu_features=frozenset({"avx"}), criu="4.2.1")


def pod(uid: str = "new") -> dict[str, Any]:
    """Return the pod ``web-0`` of a StatefulSet."""
    policy = Policy(containers={"app": ContainerPolicy(idle_seconds=60.0)})
    return {
        "metadata": {
            "name": "web-0",
            "namespace": "shop",
            "uid": uid,
            "creationTimestamp": "2030-01-02T03:04:05Z",
            "annotations": {names.POLICY: policy.to_json()},
            "labels": {"apps.kubernetes.io/pod-index": "0"},
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "StatefulSet",
                    "name": "web",
                    "uid": "o",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "containers": [
                {
                    "name": "app",
                    "image": "localhost/app:1",
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
        },
        "status": {"phase": "Running"},
    }


def checkpoint(uid: str = "c1", **status: Any) -> dict[str, Any]:
    """Return what its predecessor left."""
    return {
        "metadata": {
            "name": "web-0-move",
            "namespace": "shop",
            "uid": uid,
            "resourceVersion": "7",
            "creationTimestamp": "2030-01-02T03:04:00Z",
        },
        "spec": {
            "trigger": "Eviction",
            "podRef": {"name": "web-0", "uid": "old"},
            "owner": {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "name": "web",
                "uid": "o",
                "ordinal": 0,
            },
            "templateHash": identity.template_hash(pod()),
            "templateParts": identity.parts(pod()),
            "containers": ["app"],
        },
        "status": {
            "capturedAt": "2030-01-02T03:04:03Z",
            "formatVersion": checkpoints.FORMAT_VERSION,
            "requirements": {
                "architecture": "amd64",
                "cpuFeatures": ["avx"],
                "criu": "4.2",
                "kernel": "6.12",
            },
            "conditions": [
                {"type": "Captured", "status": "True"},
                {"type": "Available", "status": "True", "reason": "OnNode", "message": "m"},
            ],
            **status,
        },
    }


def seeds() -> Iterator[bytes]:
    claimed = checkpoint(claimedBy={"uid": "new", "name": "web-0", "node": "node-b"})
    foreign = checkpoint(claimedBy={"uid": "other", "name": "web-0", "node": "node-b"})
    for found in ([checkpoint()], [claimed], [foreign, checkpoint("c2")], []):
        yield json.dumps([pod(), *found]).encode()


def run(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        return
    newcomer, *found = value
    for each in found:
        for read in (offers.read, offers.of_persistent):
            with contextlib.suppress(FormatError):
                read(each)
    try:
        claims.sibling_of(newcomer)
        who = claims.newcomer_of(newcomer, has_started=False)
    except FormatError:
        return
    if len({_uid(each) for each in found}) < len(found):
        return  # the API server gives no uid twice
    said = _decided(who, found)
    assert said == _decided(who, found[::-1]), "the order in which the API lists them matters"
    if isinstance(said, Claim):
        (chosen,) = [each for each in found if _uid(each) == said.uid]
        claim = (chosen.get("status") or {}).get("claimedBy") or {}
        assert claim.get("uid", who.uid) == who.uid, "what another pod has is claimed"


def _uid(value: dict[str, Any]) -> str:
    metadata = value.get("metadata")
    return str(metadata.get("uid")) if isinstance(metadata, dict) else ""


def _decided(who: claims.Newcomer, found: list[dict[str, Any]]) -> Decision:
    return claims.decide(
        who, node=NODE, found=found, siblings=[], living={"new", "other"}, waited_seconds=0.0
    )
