from __future__ import annotations

import datetime

import pytest

from architect.core.errors import FormatError
from architect.kube import checkpoints, resources
from architect.kube.checkpoints import (
    AVAILABLE,
    Capture,
    CheckpointSpec,
    Owner,
    Requirements,
    Trigger,
)
from architect.kube.conditions import Condition, Status

POD = resources.pod("shop", "web-0", uid="12345678-aaaa-bbbb")
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SPEC = CheckpointSpec(pod=POD, trigger=Trigger.SLEEP, template_hash="h", containers=("app",))
READY = Condition(type=AVAILABLE, status=Status.TRUE, reason="Captured")


def stored(**status):
    value = checkpoints.build(SPEC)
    value["metadata"] |= {"resourceVersion": "4", "uid": "c1", "generation": 1}
    return {**value, "status": status} if status else value


def test_the_name_is_that_of_the_pod_and_its_uid():
    assert checkpoints.name_of(POD) == "web-0-12345678"
    assert len(checkpoints.name_of(resources.pod("n", "x" * 253, uid="12345678"))) <= 253


def test_a_dot_at_the_cut_does_not_make_a_wrong_name():
    name = checkpoints.name_of(resources.pod("n", "x" * 239 + "." + "y" * 10, uid="12345678"))
    assert ".-" not in name


def test_a_sleeping_pods_checkpoint_belongs_to_the_pod():
    value = checkpoints.build(SPEC)
    assert value["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": POD.uid}
    ]
    assert value["spec"] == {
        "podRef": {"name": "web-0", "uid": POD.uid},
        "trigger": "Sleep",
        "templateHash": "h",
        "containers": ["app"],
    }


def test_one_that_outlives_its_pod_names_the_owner_instead():
    owner = Owner(api_version="apps/v1", kind="StatefulSet", name="web", uid="s", ordinal=0)
    spec = CheckpointSpec(
        pod=POD, trigger=Trigger.EVICTION, template_hash="h", containers=("a",), owner=owner
    )
    value = checkpoints.build(spec)
    assert value["metadata"]["ownerReferences"] == [
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "s"}
    ]
    assert value["metadata"]["name"] == "web-0-12345678-move"
    assert value["metadata"]["labels"] == {"architect.dev/owner": "s"}
    assert value["spec"]["owner"]["ordinal"] == 0


def test_the_status_says_where_what_and_how_long():
    fields = checkpoints.captured_status(
        Capture(
            node="n1",
            path="/var/lib/architect/pods/u",
            image_bytes=64 << 20,
            at=NOW,
            requirements=Requirements(architecture="amd64", cpu_features=("avx2",)),
            durations_seconds={"dump": 0.1234},
        )
    )
    assert fields["location"] == {"node": {"name": "n1", "path": "/var/lib/architect/pods/u"}}
    assert (fields["bytes"], fields["size"]) == (64 << 20, "64.0Mi")
    assert fields["durations"] == {"dump": "0.123s"}
    assert fields["requirements"] == {"architecture": "amd64", "cpuFeatures": ["avx2"]}


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0"), (1023, "1023"), (1536, "1.5Ki"), (3 << 30, "3.0Gi")]
)
def test_sizes_are_for_people(size_bytes, text):
    assert checkpoints.size_text(size_bytes) == text


def test_a_status_patch_replaces_the_condition_among_the_others():
    value = stored(conditions=[{"type": "Captured", "status": "True"}])
    patch = checkpoints.status_patch(value, READY, fields={"bytes": 1}, now=NOW)
    assert patch is not None
    assert [c["type"] for c in patch["status"]["conditions"]] == ["Captured", "Available"]
    assert patch["status"]["bytes"] == 1
    assert patch["status"]["observedGeneration"] == 1


def test_nothing_new_is_no_patch():
    patch = checkpoints.status_patch(stored(), READY, fields={"bytes": 1}, now=NOW)
    assert patch is not None
    assert (
        checkpoints.status_patch(stored(**patch["status"]), READY, fields={"bytes": 1}, now=NOW)
        is None
    )


def test_a_status_is_written_on_the_version_that_was_read(server, api, reply):
    server.replies.append(reply())
    checkpoints.set_status(api, stored(), READY, now=NOW)
    assert server.seen[0].path.endswith("/checkpoints/web-0-12345678/status")
    assert server.seen[0].body["metadata"] == {"uid": "c1", "resourceVersion": "4"}


def test_the_pod_of_a_checkpoint_is_found_again():
    assert checkpoints.pod_of(stored()) == POD
    with pytest.raises(FormatError):
        checkpoints.pod_of({"metadata": {"name": "x", "namespace": "y"}, "spec": {}})
