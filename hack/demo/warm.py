"""What is shown of warm starts: one pod is saved while it runs, and three start with its memory."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any, Final

from architect.api import names
from demo import stage
from demo.drain import web_counter
from demo.errors import DemoError
from demo.pods import Application
from demo.results import Result
from demo.story import MEBIBYTE, State, prove
from lab import waiting
from lab.cluster import Cluster

MANIFEST: Final = stage.EXAMPLES / "01-counter" / "warm.yaml"
NAME: Final = "counter-warm"
KIND: Final = "persistentcheckpoints.architect.dev"
REPLICAS: Final = 3
SAVED_SECONDS: Final = 180.0
STARTED_SECONDS: Final = 240


def show(cluster: Cluster, *, namespace: str = stage.NAMESPACE) -> list[Result]:
    """Save the counter that runs in *namespace*, and have three pods start from there.

    Raises DemoError, LabError.
    """
    progress = cluster.progress
    app = Application(cluster=cluster, namespace=namespace, name="counter")
    one = web_counter(app)
    before, pod = one.observe(one.service), app.pod()
    with progress.step(
        f"warm start: kubectl apply -f {MANIFEST.relative_to(stage.EXAMPLES.parent)}"
    ):
        app.kubectl("apply", "-f", str(MANIFEST))
        saved = _wait_until_available(app)
    prove("counter", "saved while it runs", expected=before, seen=one.observe(one.service))
    prove("counter", "saved while it runs", expected=_kept(pod), seen=_kept(app.pod()))
    with progress.step(f"warm start: {REPLICAS} replicas, annotated architect.dev/start-from"):
        seconds = _start(app)
    living = _pods(app)
    if len(living) != REPLICAS:
        raise DemoError(f"counter: {len(living)} pods instead of {REPLICAS}")
    for each in living:
        name = each["metadata"]["name"]
        prove(name, "started warm", expected=before, seen=one.observe(each["status"]["podIP"]))
        progress.say(f"{name} on {each['spec']['nodeName']}: has the memory of the saved pod")
    subject = "web application, 64 MiB"
    return [
        Result(
            name="warm start: saved",
            value=round(saved["status"]["bytes"] / MEBIBYTE, 2),
            unit="MiB",
            conditions=f"{subject}; it ran on, {_durations(saved)}",
        ),
        Result(
            name=f"warm start: from 1 to {REPLICAS} replicas",
            value=round(seconds, 2),
            unit="s",
            conditions=f"{subject}; ready with the saved memory, from the object store",
        ),
    ]


def _wait_until_available(app: Application) -> dict[str, Any]:
    def found() -> dict[str, Any]:
        value: dict[str, Any] = json.loads(app.kubectl("get", KIND, NAME, "-o", "json"))
        return value

    def is_available() -> bool:
        told = {c["type"]: c["status"] for c in found().get("status", {}).get("conditions", ())}
        return told.get("Available") == "True"

    waiting.until(
        is_available,
        what=f"pods can start from {NAME}",
        timeout_seconds=SAVED_SECONDS,
        interval_seconds=0.5,
        last_seen=lambda: app.kubectl("describe", KIND, NAME),
    )
    return found()


def _start(app: Application) -> float:
    """Allow it, ask for it, and return how long all replicas took."""
    binding = json.loads(
        app.kubectl(
            *("create", "rolebinding", "counter-restores", "--clusterrole=architect-restorer"),
            *(f"--serviceaccount={app.namespace}:default", "--dry-run=client", "-o", "json"),
        )
    )
    app.cluster.kubectl("-n", app.namespace, "apply", "-f", "-", input=json.dumps(binding))
    template = {"metadata": {"annotations": {names.START_FROM: NAME}}}
    patch = json.dumps({"spec": {"template": template}})
    app.kubectl("patch", "deployment", app.name, "--type=merge", "-p", patch)
    _roll(app)
    started = time.monotonic()
    app.kubectl("scale", f"deployment/{app.name}", f"--replicas={REPLICAS}")
    _roll(app)
    seconds = time.monotonic() - started
    waiting.until(
        lambda: len(_pods(app)) == REPLICAS,
        what="the pods of before are gone",
        timeout_seconds=STARTED_SECONDS,
        last_seen=partial(app.kubectl, "get", "pods"),
    )
    return seconds


def _roll(app: Application) -> None:
    app.kubectl(
        *("rollout", "status", f"deployment/{app.name}", f"--timeout={STARTED_SECONDS}s"),
        timeout_seconds=STARTED_SECONDS + 30,
    )


def _pods(app: Application) -> list[dict[str, Any]]:
    found = json.loads(app.kubectl("get", "pods", "-l", f"app={app.name}", "-o", "json"))
    return [p for p in found["items"] if "deletionTimestamp" not in p["metadata"]]


def _kept(pod: dict[str, Any]) -> State:
    restarts = [c["restartCount"] for c in pod["status"]["containerStatuses"]]
    return {"pod": pod["metadata"]["uid"], "restarts": restarts}


def _durations(saved: dict[str, Any]) -> str:
    told = saved["status"].get("durations", {})
    return ", ".join(f"{step} {took}" for step, took in sorted(told.items()))
