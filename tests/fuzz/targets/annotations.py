"""Annotations of a pod, ours and the vendor's, and the policy that is made of them.

The input is a JSON object: annotations, names of containers, runtime class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from architect.api import names
from architect.api.policy import Policy, PolicyError, Probe, ProbeKind
from architect.core import annotations as reading
from architect.core import vendor_annotations
from architect.core.annotation_values import AnnotationErrors, AppContainer
from fuzz import mutations

MUTATE = mutations.document

OURS = {
    names.IDLE: '{"app": "1h2m3.5s", "worker": "never"}',
    names.MIGRATE: "eviction",
    names.CONTAINERS: "app, worker",
    names.WAKE_ON: "connections",
    names.WARMUP: "5s",
    names.SHADOW_PORTS: "9090,9091",
    names.ON_RESTORE_FAILURE: "retry",
    names.START_FROM: "warm",
    names.PRIORITY: "-7",
    names.MOVE_ASLEEP: "false",
    names.AFTER_RESTORE: '["/bin/renew", "now"]',
}
VENDORS = {
    vendor_annotations.MANAGED_CONTAINERS: '["app"]',
    vendor_annotations.SCALEDOWN_DURATIONS: '{"app": "30s"}',
    vendor_annotations.INITIAL_SCALEDOWN_DELAYS: '{"app": "1m"}',
    vendor_annotations.NETWORK_MONITOR: '{"app": "connections"}',
    vendor_annotations.HEALTH_CHECK_PROXY: (
        '{"mappings": [{"containerName": "app", "appPort": 8080, "shadowPort": 9080}]}'
    ),
    vendor_annotations.SHADOW_PORTS: '{"app": [9090]}',
}


def seeds() -> Iterator[bytes]:
    for found in (
        OURS,
        VENDORS,
        {vendor_annotations.MANAGED_POD: "true", vendor_annotations.START_FROM: "warm"},
        {names.IDLE: "60s"},
        {names.POLICY: Policy.from_dict({"version": 1, "containers": {"app": {}}}).to_json()},
    ):
        yield json.dumps([found, ["app", "worker"], None]).encode()
    yield json.dumps([OURS, ["app", "worker"], names.RUNTIME_CLASS_GVISOR]).encode()


def run(data: bytes) -> None:
    try:
        value, containers, runtime_class = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return
    # As the API server gives them: its own types are not in doubt here.
    if not isinstance(value, dict) or not isinstance(containers, list):
        return
    found = {str(key): text for key, text in value.items() if isinstance(text, str)}
    probes = (Probe(kind=ProbeKind.HTTP, port=8080), Probe(kind=ProbeKind.EXEC, argv=("ready",)))
    apps = [AppContainer(name=str(name), probes=probes) for name in containers]
    _read_policy(found.get(names.POLICY, ""))
    try:
        read = reading.read(
            found, apps, runtime_class=runtime_class if isinstance(runtime_class, str) else None
        )
    except AnnotationErrors as error:
        assert error.messages
        _is_bounded(error.messages)
        return
    _is_bounded(read.warnings)
    if read.policy is not None:
        assert set(read.policy.containers) <= {str(name) for name in containers}
        # The runtime reads what the webhook writes.
        assert Policy.from_json(read.policy.to_json()) == read.policy


def _read_policy(text: str) -> None:
    try:
        policy = Policy.from_json(text)
    except PolicyError:
        return
    assert Policy.from_json(policy.to_json()) == policy


def _is_bounded(messages: Any) -> None:
    for message in messages:
        assert isinstance(message, str)
        assert len(message) < 20_000, message[:200]
