"""Succession: whose memory is wanted, by trigger, policy and volumes."""

from __future__ import annotations

from typing import Any

import pytest

from architect.api import names
from architect.api.policy import Migrate
from architect.daemon import succession
from architect.daemon.succession import Leaving
from architect.kube.checkpoints import Trigger
from support.leaving import EXPECTED, Json, owner, pod

# Why it leaves, and what its user wants.


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ("EvictionByEvictionAPI", Trigger.EVICTION),
        ("PreemptionByScheduler", Trigger.EVICTION),
        ("DeletionByTaintManager", Trigger.EVICTION),
        ("DeletionByPodGC", Trigger.EVICTION),
        ("DeletionByDeviceTaintManager", Trigger.EVICTION),
        ("TerminationByKubelet", Trigger.EVICTION),
        ("", Trigger.DELETION),
    ],
)
def test_the_trigger_is_in_the_condition(why, expected):
    assert succession.trigger_of(pod(deleted=5, disrupted=why)) is expected


@pytest.mark.parametrize("said", ["Terminated", "NodeShutdown", "Shutdown"])
def test_kubelet_tells_of_a_shutdown_in_the_status(said):
    by_kubelet = pod(disrupted="TerminationByKubelet", status={"reason": said})
    assert succession.trigger_of(by_kubelet) is Trigger.NODE_SHUTDOWN
    assert succession.trigger_of(pod(status={"reason": said})) is Trigger.NODE_SHUTDOWN
    evicted = pod(disrupted="EvictionByEvictionAPI", status={"reason": said})
    assert succession.trigger_of(evicted) is Trigger.EVICTION


def test_a_disruption_that_was_called_off_is_none():
    leaving = pod(deleted=5, disrupted="PreemptionByScheduler")
    leaving["status"]["conditions"][-1]["status"] = "False"
    assert succession.trigger_of(leaving) is Trigger.DELETION


def judged(leaving: Json, migrate: Migrate = Migrate.ALWAYS, trigger: Trigger | None = None) -> str:
    where = Leaving(pod=leaving, owner=owner(replicas=1), pods=[leaving])
    return succession.judge(where, migrate=migrate, trigger=trigger).reason


def test_a_plain_deletion_is_on_purpose_if_only_evictions_migrate():
    deleted, evicted = pod(deleted=5), pod(deleted=5, disrupted="EvictionByEvictionAPI")
    assert judged(deleted, Migrate.EVICTION) == "DeletedOnPurpose"
    assert judged(evicted, Migrate.EVICTION) == EXPECTED
    assert judged(deleted) == judged(evicted) == EXPECTED
    assert judged(deleted, Migrate.EVICTION, Trigger.SPOT_INTERRUPTION) == EXPECTED


@pytest.mark.parametrize("trigger", [None, *Trigger])
def test_nothing_migrates_that_must_not(trigger):
    assert judged(pod(deleted=5), Migrate.NEVER, trigger) == "MigrationOff"
    assert judged(pod(deleted=5, labels={names.FRESH: "true"}), trigger=trigger) == "Fresh"
    assert judged(pod(deleted=5, labels={names.FRESH: "false"}), trigger=trigger) == EXPECTED


# Volumes.


def with_volume(mount: Json | None = None, *, into: str = "containers", **volume: Any) -> Json:
    leaving = pod(deleted=5, volumes=[{"name": "data", **volume}])
    container = {"name": "app", "image": "i", "volumeMounts": [{"name": "data", **(mount or {})}]}
    leaving["spec"].setdefault(into, []).append(container)
    return leaving


@pytest.mark.parametrize(
    "volume",
    [
        {"emptyDir": {}},
        {"emptyDir": {"medium": "Memory"}},
        {},
        {"configMap": {"name": "c"}},
        {"secret": {"secretName": "s"}},
        {"downwardAPI": {"items": []}},
        {"projected": {"sources": []}},
        {"image": {"reference": "localhost/data:1"}},
        {"persistentVolumeClaim": {"claimName": "d", "readOnly": True}},
        {"nfs": {"server": "s", "path": "/", "readOnly": True}},
        {"csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}},
    ],
)
def test_volumes_of_the_pod_itself_and_read_only_ones_move(volume):
    assert judged(with_volume(**volume)) == EXPECTED
    assert succession.writable_volumes(with_volume(**volume)) == ()


@pytest.mark.parametrize(
    "volume",
    [
        {"persistentVolumeClaim": {"claimName": "d"}},
        {"persistentVolumeClaim": {"claimName": "d", "readOnly": False}},
        {"ephemeral": {"volumeClaimTemplate": {}}},
        {"hostPath": {"path": "/data"}},
        {"nfs": {"server": "s", "path": "/"}},
        {"csi": {"driver": "d"}},
        {"cephfs": {}},
        {"iscsi": {}},
        {"gitRepo": {"repository": "r"}},
        {"aKindOfLater": {}},
    ],
)
def test_writable_volumes_with_data_of_their_own_keep_the_memory_here(volume):
    leaving = with_volume(**volume)
    kind = next(iter(volume))
    assert succession.writable_volumes(leaving) == (("data", kind),)
    where = Leaving(pod=leaving, owner=owner(replicas=1))
    found = succession.judge(where, migrate=Migrate.ALWAYS)
    assert (found.is_expected, found.reason) == (False, "PersistentVolume")
    assert f"data ({kind})" in found.message


def test_a_volume_is_read_only_if_every_mount_of_it_is():
    path: Json = {"hostPath": {"path": "/etc/ssl"}}
    leaving = with_volume({"readOnly": True}, **path)
    assert succession.writable_volumes(leaving) == ()
    leaving["spec"]["containers"].append({"name": "b", "volumeMounts": [{"name": "data"}]})
    assert succession.writable_volumes(leaving) == (("data", "hostPath"),)


@pytest.mark.parametrize("into", ["initContainers", "ephemeralContainers"])
def test_init_containers_write_too(into):
    assert succession.writable_volumes(with_volume(into=into, hostPath={"path": "/x"}))


def test_a_block_device_is_written():
    leaving = pod(deleted=5, volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}])
    assert succession.writable_volumes(leaving) == ()
    leaving["spec"]["containers"][0]["volumeDevices"] = [{"name": "d", "devicePath": "/dev/x"}]
    assert succession.writable_volumes(leaving) == (("d", "persistentVolumeClaim"),)


def test_a_pod_that_was_scaled_down_is_told_so_and_not_of_its_volume():
    leaving = with_volume(persistentVolumeClaim={"claimName": "d"})
    where = Leaving(pod=leaving, owner=owner(replicas=0), pods=[leaving])
    assert succession.judge(where, migrate=Migrate.ALWAYS).reason == "ScaledDown"
