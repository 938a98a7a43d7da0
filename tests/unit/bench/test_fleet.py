"""When a pod counts as settled, and what the benchmark's pods are."""

from __future__ import annotations

from typing import Any

import pytest

from bench import fleet
from bench.fleet import FleetSpec


def pod(label: str | None, memory: str | None) -> dict[str, Any]:
    requests = {} if memory is None else {"memory": memory}
    return {
        "metadata": {"labels": {} if label is None else {"status.architect.dev/app": label}},
        "status": {"containerStatuses": [{"name": "app", "resources": {"requests": requests}}]},
    }


@pytest.mark.parametrize(
    ("label", "memory", "is_asleep", "is_awake"),
    [
        ("SCALED_DOWN", "1Ki", True, False),
        ("SCALED_DOWN", "16Mi", False, False),
        ("RUNNING", "1Ki", False, False),
        ("RUNNING", "16Mi", False, True),
        (None, "16Mi", False, False),
    ],
)
def test_label_and_requests_must_both_have_followed(
    label: str | None, memory: str | None, is_asleep: bool, is_awake: bool
) -> None:
    assert fleet.is_settled(pod(label, memory), asleep=True) is is_asleep
    assert fleet.is_settled(pod(label, memory), asleep=False) is is_awake


def test_a_pod_without_any_container_status_is_not_settled() -> None:
    found = pod("SCALED_DOWN", "1Ki")
    found["status"] = {}
    assert not fleet.is_settled(found, asleep=True)


def test_the_code_that_pods_run_is_there() -> None:
    assert "MEBIBYTES" in fleet.CODE.read_text()


def test_unmanaged_pods_have_no_annotation_and_all_are_on_the_named_node() -> None:
    spec = FleetSpec(name="f", count=1, mebibytes=64, node="node1", idle=None, has_service=False)
    (made,) = fleet._objects(spec, 0)
    assert made["metadata"]["annotations"] == {}
    assert made["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "node1"}
    managed, service = fleet._objects(FleetSpec(name="f", count=1, mebibytes=1, node="n"), 7)
    assert managed["metadata"]["annotations"] == {"architect.dev/idle": "1h"}
    assert service["spec"]["selector"] == {"app": managed["metadata"]["labels"]["app"]}
