"""The chart of this checkout as helm renders it, and what is looked for in it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "architect"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
NAMESPACE = "architect"

Objects = list[dict[str, Any]]
Render = Callable[..., Objects]


EVERYTHING: dict[str, Any] = {
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"a": "b"}}},
    "networkPolicy": {"enabled": True},
    "gvisor": {"enabled": True, "flags": ["--platform=kvm", "--debug"]},
    "webhook": {"certificates": {"mode": "certManager"}},
    "daemon": {"engine": {"restartCommand": "rc-service containerd restart"}},
    "objectStore": {
        "bucket": "pods",
        "endpoint": "https://s3.example:9000",
        "region": "RegionOne",
        "prefix": "clusters/blue",
        "pathStyle": False,
        "caSecretName": "store-ca",
        "limits": {"count": 9, "namespaceCount": 3, "bytes": "1Ti", "namespaceBytes": "100Gi"},
        "delaySeconds": 0,
        "default": "node",
        "credentials": {"secretName": "store"},
        "serviceAccountAnnotations": {"example.com/role": "architect"},
        "kms": {
            "provider": "aws",
            "keyId": "alias/architect",
            "cluster": "blue",
            "region": "eu-west-2",
            "endpoint": "https://kms.example:8443",
            "caSecretName": "kms-ca",
            "credentials": {"secretName": "kms"},
            "unseal": True,
        },
    },
}
"""Values with which every template that is optional is rendered."""


def template(helm: Path, values: dict[str, Any], *, release: str = "architect") -> str:
    """Return what *helm* renders with *values*. Raises AssertionError with what helm says."""
    done = subprocess.run(
        [helm, "template", release, CHART, "--namespace", NAMESPACE, "--values", "-"],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


def find(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    """Return the object of this *kind* and *name*."""
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def pod_specs(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what makes pods, by name, with the spec of its pods."""
    for value in objects:
        if value["kind"] in ("Deployment", "DaemonSet", "Job"):
            yield value["metadata"]["name"], value["spec"]["template"]["spec"]


def arguments(objects: Objects, kind: str, name: str) -> list[str]:
    """Return what the one container of a workload is told."""
    (container,) = find(objects, kind, name)["spec"]["template"]["spec"]["containers"]
    return list(container["args"])


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the values that are no groups."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)
