"""An AdmissionReview, from whoever reaches the webhook's port."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import jsonpatch

from architect.api import names
from architect.core.errors import FormatError
from architect.core.podspec import annotations_of
from architect.webhook import admission, review
from fuzz import mutations
from fuzz.targets.annotations import OURS, VENDORS

MUTATE = mutations.document


def pod(annotations: dict[str, str]) -> dict[str, Any]:
    """Return a pod that has a little of everything that is looked at."""
    probe = {"httpGet": {"path": "/", "port": "http", "scheme": "HTTPS"}}
    app = {
        "name": "app",
        "image": "localhost/app:1",
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": probe,
        "livenessProbe": {"exec": {"command": ["true"]}},
        "startupProbe": {"tcpSocket": {"port": 9080}},
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}, "privileged": False},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "web-", "annotations": annotations, "labels": {"app": "web"}},
        "spec": {
            "containers": [app, {"name": "worker", "grpc": {"port": 1}, "tty": False}],
            "initContainers": [{"name": "first"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
            "hostNetwork": False,
        },
    }


def seeds() -> Iterator[bytes]:
    for written in (OURS, VENDORS, {}, {names.IDLE: "60s", names.POLICY: "{}"}):
        found = pod(written)
        template = {"metadata": found["metadata"], "spec": found["spec"]}
        for kind, value in (
            ("Pod", found),
            ("Deployment", {"kind": "Deployment", "spec": {"template": template}}),
            ("CronJob", {"spec": {"jobTemplate": {"spec": {"template": template}}}}),
        ):
            yield json.dumps(
                {
                    "apiVersion": review.API_VERSION,
                    "kind": "AdmissionReview",
                    "request": {
                        "uid": "u-1",
                        "kind": {"group": "", "version": "v1", "kind": kind},
                        "operation": "CREATE" if kind == "Pod" else "UPDATE",
                        "namespace": "shop",
                        "object": value,
                        "oldObject": None if kind == "Pod" else value,
                    },
                }
            ).encode()


def run(data: bytes) -> None:
    if len(data) > review.MAX_BODY_BYTES:
        return
    try:
        request = review.parse(data)
    except FormatError as error:
        assert len(str(error)) < 10_000
        return
    for decide in (admission.mutate, admission.validate):
        for has_gvisor in (True, False):
            try:
                answer = decide(request, has_gvisor=has_gvisor)
            except FormatError:
                continue
            _check(request, review.render(request, answer))


def _check(request: review.Request, rendered: bytes) -> None:
    response = json.loads(rendered)["response"]
    assert response["uid"] == request.uid
    if "patch" not in response:
        return
    changed = jsonpatch.apply_patch(request.object, json.loads(base64.b64decode(response["patch"])))
    # Nobody but us says what only we may say, and asked again we say the same.
    policy = annotations_of(changed).get(names.POLICY)
    assert policy is None or policy != annotations_of(request.object).get(names.POLICY, "{}")
