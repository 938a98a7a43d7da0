"""PersistentCheckpoints in the cluster tests: made, allowed, and started from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from architect.api import names
from support import moves
from support.moves import Pod
from support.workloads import Workload, eventually

ROLLOUT_SECONDS: Final = 240


def ask(
    app: Workload,
    name: str = "warm",
    *,
    annotations: Mapping[str, str] | None = None,
    retention: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Have the workload's pod saved; return the object as it was made."""
    value = {
        "apiVersion": "architect.dev/v1alpha1",
        "kind": "PersistentCheckpoint",
        "metadata": {"name": name, "annotations": dict(annotations or {})},
        "spec": {
            "selector": {"matchLabels": {"app": app.name}},
            **({"retention": dict(retention)} if retention else {}),
        },
    }
    made: dict[str, Any] = json.loads(
        app.kubectl("apply", "-o", "json", "-f", "-", input=json.dumps(value))
    )
    return made


def saved(app: Workload, name: str = "warm", **more: Mapping[str, str]) -> dict[str, Any]:
    """Save the workload's pod as :func:`ask`; return the object once pods can start from it."""
    ask(app, name, **more)

    def available() -> dict[str, Any] | None:
        found = app.get_json("persistentcheckpoints.architect.dev", name)
        return found if condition(found, "Available")["status"] == "True" else None

    found: dict[str, Any] = eventually(available, what="pods can start from it")
    return found


def condition(value: dict[str, Any], kind: str) -> dict[str, str]:
    """Return a condition; one without a status where it is not told yet."""
    listed: list[dict[str, str]] = value.get("status", {}).get("conditions", [])
    nothing = {"type": kind, "status": "", "reason": "", "message": ""}
    return next((c for c in listed if c["type"] == kind), nothing)


def allow(app: Workload, name: str = "restores") -> None:
    """Let the pods of the workload's namespace start from what was saved there."""
    app.kubectl(
        *("create", "rolebinding", name, "--clusterrole=architect-restorer"),
        f"--serviceaccount={app.namespace}:default",
    )


def starts_fresh_without_the_right(app: Workload, old: Pod) -> None:
    """Save the pod, and have its replacement, which may not restore it, start anew and say so."""
    identity = moves.answer(app, old)["identity"]
    saved(app)
    start_from(app, replicas=1)
    (new,) = moves.ready(app, apart_from=[old], seconds=ROLLOUT_SECONDS)
    assert moves.answer(app, new)["identity"] != identity
    (told,) = eventually(
        lambda: moves.events(app, new, names.EVENT_RESTORE_FAILED), what="event RestoreFailed"
    )
    assert "NotAllowed" in told


def start_from(
    app: Workload, name: str = "warm", *, replicas: int, spec: dict[str, Any] | None = None
) -> None:
    """Roll the Deployment out with pods that start from *name*; *spec* is merged into its own."""
    begin_from(app, name, replicas=replicas, spec=spec)
    # The Deployment makes more of the old pods first.
    app.cluster.kubectl(
        *("-n", app.namespace, "rollout", "status", f"deploy/{app.name}"),
        f"--timeout={ROLLOUT_SECONDS}s",
        timeout_seconds=ROLLOUT_SECONDS + 30,
    )


def begin_from(
    app: Workload, name: str = "warm", *, replicas: int, spec: dict[str, Any] | None = None
) -> None:
    """As :func:`start_from`, without waiting for the end."""
    template = {"metadata": {"annotations": {names.START_FROM: name}}}
    patch = {"spec": {**(spec or {}), "replicas": replicas, "template": template}}
    app.kubectl("patch", "deploy", app.name, "--type=merge", "-p", json.dumps(patch))
