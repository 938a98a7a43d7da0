"""Install this checkout's chart and images into the development cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from architect.api import names
from lab import dockerfiles, errors, object_store, waiting
from lab.cluster import Cluster
from lab.images import Image
from lab.patience import FACTOR, patient

NAME: Final = "architect"
NAMESPACE: Final = "architect"
READY_SECONDS: Final = 300.0
WEBHOOK_SECONDS: Final = 15.0
"""How long the API server waits for the webhook here, three times as long as by default: where a
whole cluster shares two cores, a pod would start unmanaged for a webhook that waited for one."""
WEBHOOK_MOST_SECONDS: Final = 30
"""The longest that an API server waits for a webhook."""
WORKLOADS: Final = (
    "deployment/architect-operator",
    "deployment/architect-webhook",
    "daemonset/architect-daemon",
)


def install(cluster: Cluster, *, values: tuple[str, ...] = ()) -> None:
    """Build and load the images, install or upgrade the chart, wait until every node is ready.

    Raises LabError with the pods' state and logs if that does not happen in time.
    """
    settings = [
        word
        for part, value in slow(FACTOR).items()
        for word in ("--set-json", f"{part}={json.dumps(value)}")
    ]
    settings += [*object_store_settings(), "--set", "gvisor.enabled=true"]
    # Nothing answers in the lab's network but its own doubles (`lab.spot`), whatever the host is.
    settings += ["--set", "spot.provider=auto"]
    make_secret(cluster)
    settings += [word for value in values for word in ("--set", value)]
    settings += load(cluster, dockerfiles.architect(cluster.cache))
    with cluster.progress.step("running helm upgrade --install architect"):
        cluster.helm(
            "upgrade",
            "--install",
            NAME,
            str(dockerfiles.CHECKOUT / "charts" / "architect"),
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            *settings,
        )
    with cluster.progress.step("waiting for operator, webhook and daemon"):
        for workload in WORKLOADS:
            cluster.kubectl(
                *("-n", NAMESPACE, "rollout", "status", workload),
                f"--timeout={patient(READY_SECONDS):.0f}s",
                timeout_seconds=READY_SECONDS + 10,
            )
        waiting.until(
            lambda: is_ready(cluster),
            what="Architect is ready on every node",
            timeout_seconds=READY_SECONDS,
            interval_seconds=1.0,
            last_seen=lambda: diagnosis(cluster),
        )


def load(cluster: Cluster, images: Sequence[Image]) -> list[str]:
    """Load a release's images into every node; return the chart's arguments that tell them apart.

    The tag is the same from build to build; an annotation of the pods makes those, and only those,
    be replaced whose image has changed.
    """
    settings = []
    for image in images:
        with cluster.progress.step(f"loading {image.name}"):
            cluster.load_image(image.archive)
        part = image.name.rpartition("/")[2].partition(":")[0]
        build = image.archive.parent.name.rpartition("-")[2]
        settings += ["--set-string", f"{part}.podAnnotations.build={build}"]
    return settings


def object_store_settings() -> list[str]:
    """Return the arguments by which the chart uses the lab's object store."""
    values = {
        "bucket": object_store.BUCKET,
        "endpoint": object_store.ENDPOINT,
        "region": object_store.REGION,
        "credentials.secretName": object_store.SECRET,
    }
    return [
        word for key, value in values.items() for word in ("--set", f"objectStore.{key}={value}")
    ]


def make_secret(cluster: Cluster) -> None:
    """Put the credentials of the lab's object store where the chart's parts look for them."""
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": object_store.SECRET, "namespace": NAMESPACE},
            "stringData": {
                "AWS_ACCESS_KEY_ID": object_store.ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": object_store.SECRET_KEY,
            },
        },
    ]
    cluster.kubectl("apply", "-f", "-", input="\n".join(map(json.dumps, objects)))


def slow(patience: float) -> dict[str, dict[str, float]]:
    """Return the chart's values for a machine that is *patience* times as slow as most."""
    webhook_seconds = round(min(WEBHOOK_SECONDS * patience, WEBHOOK_MOST_SECONDS))
    if patience == 1:
        return {"webhook": {"timeoutSeconds": webhook_seconds}}
    return {
        # A second replica would only take the first one's time.
        "operator": {"replicas": 1, "leaseSeconds": round(15 * patience)},
        "webhook": {
            "replicas": 1,
            "timeoutSeconds": webhook_seconds,
        },
        "daemon": {
            "sleepPatienceSeconds": 10 * patience,
            # Being probed costs an idle application so much more.
            "cpuThreshold": 0.02 * patience,
        },
    }


def is_ready(cluster: Cluster) -> bool:
    """Whether every pod of the release is ready and every node has its runtime."""
    pods = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "pods", "-o", "json"))["items"]
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    return (
        bool(pods)
        and all(_is_pod_ready(pod) for pod in pods)
        and all(node["metadata"]["labels"].get(names.NODE_READY_LABEL) == "true" for node in nodes)
    )


def diagnosis(cluster: Cluster) -> str:
    """Return what a person would look at first."""
    commands = (
        ("get", "pods", "-o", "wide"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        (
            "logs",
            "--all-containers",
            "--prefix",
            "--tail=15",
            "-l",
            f"app.kubernetes.io/name={NAME}",
        ),
    )
    said = []
    for command in commands:
        try:
            said.append(cluster.kubectl("-n", NAMESPACE, *command))
        except errors.LabError as error:
            said.append(str(error))
    return "\n".join(said)


def uninstall(cluster: Cluster) -> None:
    """Remove the chart, which wakes sleeping pods first."""
    with cluster.progress.step("running helm uninstall architect"):
        cluster.helm("uninstall", NAME, "--namespace", NAMESPACE, "--wait", timeout_seconds=600)


def _is_pod_ready(pod: dict[str, object]) -> bool:
    status = pod.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
