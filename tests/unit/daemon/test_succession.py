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


def test_a_pod_of_a_node_that_shuts_down_will_be_disrupted():
    runs = pod(labels={"app": "web"})
    ends = succession.shut_down(runs)
    assert ends["status"]["conditions"][-1] == {
        **{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    }
    assert {**ends, "status": runs["status"]} == runs
    assert len(runs["status"]["conditions"]) == 1, "as it was"
    called_off = pod(disrupted="PreemptionByScheduler")
    called_off["status"]["conditions"][-1]["status"] = "False"
    assert len(succession.shut_down(called_off)["status"]["conditions"]) == 2
    assert judged(ends, Migrate.EVICTION, Trigger.NODE_SHUTDOWN) == EXPECTED


def judged(leaving: Json, migrate: Migrate = Migrate.ALWAYS, trigger: Trigger | None = None) -> str:
    where = Leaving(pod=leaving, owner=owner(replicas=1), pods=[leaving])
    return succession.judge(where, managed=["app"], migrate=migrate, trigger=trigger).reason


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


# Volumes: ``core/test_volumes.py``.

ONCE = ["ReadWriteOnce"]


def with_volume(*, read_only: bool = False, **source: Any) -> Json:
    leaving = pod(deleted=5, volumes=[{"name": "data", **source}])
    mount = {"name": "data", "mountPath": "/data", "readOnly": read_only}
    leaving["spec"]["containers"][0]["volumeMounts"] = [mount]
    return leaving


def test_a_writable_volume_that_stays_keeps_the_memory_here():
    assert judged(with_volume(read_only=True, hostPath={"path": "/d"})) == EXPECTED
    assert judged(with_volume(persistentVolumeClaim={"claimName": "d"})) == EXPECTED
    found = succession.judge(
        Leaving(pod=with_volume(hostPath={"path": "/d"}), owner=owner(replicas=1)),
        managed=["app"],
        migrate=Migrate.ALWAYS,
    )
    assert (found.is_expected, found.reason) == (False, "PersistentVolume")
    assert "data (hostPath)" in found.message


@pytest.mark.parametrize(
    ("modes", "why"),
    [
        (["ReadWriteOnce"], ""),
        (["ReadWriteOncePod"], ""),
        (["ReadWriteOnce", "ReadWriteMany"], "ReadWriteMany, ReadWriteOnce"),
        (["ReadOnlyMany"], "ReadOnlyMany"),
        ([], "no mode"),
        (None, "claim d is gone"),
    ],
)
def test_a_claim_goes_along_if_it_is_for_one_node_at_a_time(modes, why):
    claim = None if modes is None else {"spec": {"accessModes": modes}}
    found = succession.refused_by_claims({"d": claim, "a": {"spec": {"accessModes": ONCE}}})
    assert (found is None) is (not why)
    if found is not None:
        assert found.reason == "PersistentVolume"
        assert why in found.message
        assert "claim d " in found.message


def test_a_pod_that_was_scaled_down_is_told_so_and_not_of_its_volume():
    leaving = with_volume(hostPath={"path": "/d"})
    where = Leaving(pod=leaving, owner=owner(replicas=0), pods=[leaving])
    assert succession.judge(where, managed=["app"], migrate=Migrate.ALWAYS).reason == "ScaledDown"
