"""Pods of every kind that autoscalers count: a Deployment of one pod each, and what scales it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from architect.core import quantity
from lab.cluster import Cluster
from support import truth
from support.truth import Kind, Plan, Subject
from support.workloads import REQUEST_SECONDS, Workload, apply, code, eventually

KIND: Final = "horizontalpodautoscaler"
RESOURCES: Final = ("cpu", "memory")
TARGET_PERCENT: Final = 80


class Use(NamedTuple):
    """What an autoscaler has measured of its pods, of one resource."""

    percent: int
    """Of their requests."""
    mean: float
    """Of one pod, in the resource's unit."""


@dataclass(frozen=True, kw_only=True)
class Scaled(Subject):
    """The one pod of a Deployment, which has the same name as its autoscaler."""

    def pod(self) -> dict[str, Any]:
        """Return it; there must be no other one."""
        return Workload.pod(self)

    def asked_for(self) -> dict[str, str]:
        """Return the requests of the pod's object, by which autoscalers divide."""
        (container,) = self.pod()["spec"]["containers"]
        found: dict[str, str] = container["resources"]["requests"]
        return found

    def autoscaler(self) -> dict[str, Any]:
        """Return what scales it."""
        return self.cluster.api.get(
            f"/apis/autoscaling/v2/namespaces/{self.namespace}/horizontalpodautoscalers/{self.name}",
            timeout_seconds=REQUEST_SECONDS,
        )

    def measured(self) -> dict[str, Use]:
        """Return what the autoscaler has measured; nothing unless it scales by all of it."""
        status = self.autoscaler().get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
        if conditions.get("ScalingActive") != "True":
            return {}
        found = {
            metric["resource"]["name"]: Use(
                metric["resource"]["current"]["averageUtilization"],
                float(quantity.parse(metric["resource"]["current"]["averageValue"])),
            )
            for metric in status.get("currentMetrics") or ()
            if metric["type"] == "Resource"
        }
        return found if set(found) == set(RESOURCES) else {}

    def until_measured(self) -> None:
        """Wait until the autoscaler has measured all that it scales by."""
        eventually(self.measured, what=f"the autoscaler of {self.name} measures it")

    def replicas(self) -> int:
        """Return how many pods the autoscaler wants."""
        return int(self.autoscaler()["status"]["desiredReplicas"])

    def scale(self, *, most: int) -> None:
        """Make its autoscaler, by utilization of processor and memory."""
        apply(self, autoscaler(self.name, most=most))

    def unscale(self) -> None:
        """Remove its autoscaler."""
        self.kubectl("delete", KIND, self.name)


def autoscaler(name: str, *, most: int) -> dict[str, Any]:
    """Return the autoscaler of the Deployment *name*."""
    target = {"type": "Utilization", "averageUtilization": TARGET_PERCENT}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": most,
            "metrics": [
                {"type": "Resource", "resource": {"name": each, "target": target}}
                for each in RESOURCES
            ],
        },
    }


def deployment(name: str, kind: Kind, plan: Plan) -> dict[str, Any]:
    """Return a Deployment of one pod of *plan*."""
    pod = plan.object(name, kind)
    metadata = {key: pod["metadata"][key] for key in ("labels", "annotations")}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": metadata, "spec": pod["spec"]},
        },
    }


@contextmanager
def running(
    cluster: Cluster, namespace: str, name: str, plan: Plan, *, most: int | None = None
) -> Iterator[dict[Kind, Scaled]]:
    """Have a Deployment of every kind; *most*: with an autoscaler that makes so many pods."""
    made = {
        kind: Scaled(cluster=cluster, namespace=namespace, name=f"{name}-{kind}", kind=kind)
        for kind in plan.kinds
    }
    objects = [code(truth.CODE)]
    objects += [deployment(each.name, kind, plan) for kind, each in made.items()]
    if most is not None:
        objects += [autoscaler(each.name, most=most) for each in made.values()]
    first, *_ = made.values()
    names = [each.name for each in made.values()]
    apply(first, *objects)
    try:
        truth.parallel(
            *(
                functools.partial(
                    eventually,
                    each.exists_and_is_ready,
                    what=f"{each.name} is ready",
                    seconds=truth.START_SECONDS,
                )
                for each in made.values()
            )
        )
        yield made
    finally:
        first.kubectl("delete", KIND, *names, "--ignore-not-found")
        first.kubectl("delete", "deployment", *names, "--wait=false", "--ignore-not-found")
