"""Claims: newcomers and siblings, read from pods."""

from __future__ import annotations

from typing import Any

import pytest

from architect.api import names
from architect.api.policy import ContainerPolicy, Migrate, Policy
from architect.core import identity
from architect.core.errors import FormatError
from architect.daemon import claims
from architect.daemon.claims import Newcomer, Sibling
from support.newcomers import (
    START,
    Json,
    at,
)

MANAGED = Policy(containers={"app": ContainerPolicy()})


def pod(
    *,
    policy: Policy | str | None = MANAGED,
    kind: str = "ReplicaSet",
    labels: Json | None = None,
    deleted: int | None = None,
    **spec: Any,
) -> Json:
    metadata: Json = {
        "name": "web-0",
        "namespace": "shop",
        "uid": "u",
        "creationTimestamp": at(7),
        "labels": labels or {},
        "annotations": {},
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": "o", "controller": True}
        ],
    }
    if isinstance(policy, Policy):
        metadata["annotations"][names.POLICY] = policy.to_json()
    elif policy is not None:
        metadata["annotations"][names.POLICY] = policy
    if deleted is not None:
        metadata |= {"deletionTimestamp": at(deleted + 30), "deletionGracePeriodSeconds": 30}
    containers = [{"name": "app", "image": "i"}, {"name": "side", "image": "i"}]
    return {
        "metadata": metadata,
        "spec": {"containers": containers, **spec},
        "status": {"phase": "Running"},
    }


def wish(value: Json) -> str | None:
    found = claims.newcomer_of(value, has_started=False).wish
    return found.reason if found else None


def managing(**more: Any) -> Policy:
    return Policy(containers={"app": ContainerPolicy(), "gone": ContainerPolicy()}, **more)


def test_a_newcomer_is_read_from_its_pod():
    value = pod(policy=managing())
    found = claims.newcomer_of(value, has_started=True)
    assert found == Newcomer(
        namespace="shop",
        name="web-0",
        uid="u",
        created=START + 7,
        identity=identity.identity_of(value),
        containers=frozenset({"app"}),
        parts=identity.parts(value),
        has_started=True,
    )
    assert claims.never(found) is None


def test_a_newcomers_wish_is_in_its_policy_and_label():
    assert wish(pod()) is None
    assert wish(pod(policy=managing(migrate=Migrate.EVICTION))) is None
    assert wish(pod(policy=managing(migrate=Migrate.NEVER))) == "MigrationOff"
    assert wish(pod(policy=managing(start_from="warm"))) == "StartFrom"
    assert wish(pod(labels={names.FRESH: "true"})) == "Fresh"
    assert wish(pod(labels={names.FRESH: "no"})) is None


@pytest.mark.parametrize("policy", [None, "x", '{"version": 99}', Policy()])
def test_a_pod_without_a_readable_policy_is_not_managed(policy):
    told = claims.never(claims.newcomer_of(pod(policy=policy), has_started=False))
    assert told is not None
    assert told.reason == "NotManaged"
    assert claims.sibling_of(pod(policy=policy, deleted=0)) is None


def test_a_sibling_is_read_from_its_pod():
    value = pod(deleted=3)
    assert claims.sibling_of(value) == Sibling(
        uid="u",
        name="web-0",
        identity=claims.newcomer_of(value, has_started=False).identity or pytest.fail("none"),
        deleted=START + 3,
    )


def ownerless() -> Json:
    value = pod(deleted=3)
    value["metadata"]["ownerReferences"] = []
    return value


def ended() -> Json:
    return {**pod(deleted=3), "status": {"phase": "Succeeded"}}


def with_data() -> Json:
    claim = {"name": "d", "hostPath": {"path": "/d"}}
    value = pod(deleted=3, volumes=[claim])
    value["spec"]["containers"][0]["volumeMounts"] = [{"name": "d", "mountPath": "/d"}]
    return value


@pytest.mark.parametrize(
    "value",
    [
        pod(),
        ownerless(),
        ended(),
        with_data(),
        pod(deleted=3, policy=managing(migrate=Migrate.NEVER)),
        pod(deleted=3, policy=managing(migrate=Migrate.EVICTION)),
        pod(deleted=3, labels={names.FRESH: "true"}),
        pod(deleted=3, policy=Policy(containers={"gone": ContainerPolicy()})),
    ],
)
def test_a_pod_that_will_not_be_captured_is_no_sibling_to_wait_for(value):
    assert claims.sibling_of(value) is None


def test_an_evicted_pod_is_captured_if_evictions_migrate():
    value = pod(deleted=3, policy=managing(migrate=Migrate.EVICTION))
    value["status"]["conditions"] = [
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    ]
    assert claims.sibling_of(value) is not None


@pytest.mark.parametrize("value", [{}, {"metadata": {"name": "x"}}, {"metadata": []}])
def test_what_is_no_pod_is_a_format_error(value):
    with pytest.raises(FormatError):
        claims.newcomer_of(value, has_started=False)
