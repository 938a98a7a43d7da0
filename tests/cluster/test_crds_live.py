"""The CRDs on a real API server: what is accepted, what is refused, and with which words."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from architect.core.errors import Rejected
from architect.kube import checkpoints
from architect.kube.api import Api, open_api
from architect.kube.checkpoints import AVAILABLE, CheckpointSpec, Trigger
from architect.kube.conditions import Condition, Status
from architect.kube.errors import Conflict
from architect.kube.resources import CHECKPOINTS, PERSISTENT_CHECKPOINTS, ObjectRef, Resource, pod
from lab.cluster import Cluster
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

NAMESPACES = Resource(
    group="", version="v1", plural="namespaces", kind="Namespace", is_namespaced=False
)


@pytest.fixture(scope="module")
def api(architect: Cluster) -> Api:
    return open_api(field_manager="architect-test", version="0", kubeconfig=architect.kubeconfig)


@pytest.fixture(scope="module")
def namespace(api: Api) -> Iterator[str]:
    name = f"crds-{secrets.token_hex(4)}"
    ref = ObjectRef(resource=NAMESPACES, name=name)
    api.create(ref, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    api.delete(ref)


def spec_of(namespace: str, **more: Any) -> dict[str, Any]:
    name = f"web-{secrets.token_hex(4)}"
    ref = pod(namespace, name, uid=secrets.token_hex(16))
    # Of a deleted pod: an operator that is there collects those of sleeping pods it cannot find.
    spec = CheckpointSpec(pod=ref, trigger=Trigger.DELETION, template_hash="", containers=("app",))
    value = checkpoints.build(spec)
    value["spec"] |= more
    return value


def create(api: Api, resource: Resource, value: dict[str, Any], *, namespace: str) -> Any:
    ref = ObjectRef(resource=resource, namespace=namespace, name=value["metadata"]["name"])
    return api.create(ref, value)


def persistent(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": PERSISTENT_CHECKPOINTS.api_version,
        "kind": PERSISTENT_CHECKPOINTS.kind,
        "metadata": {"name": f"warm-{secrets.token_hex(4)}"},
        "spec": spec,
    }


def test_what_the_daemon_builds_is_accepted_and_its_spec_never_changes(api, namespace):
    value = create(api, CHECKPOINTS, spec_of(namespace), namespace=namespace)
    ref = ObjectRef.of(CHECKPOINTS, value)
    with pytest.raises(Rejected, match="spec is immutable"):
        api.patch(ref, {"spec": {"trigger": "Eviction"}})


@pytest.mark.parametrize(
    "more",
    [
        {"containers": []},
        {"containers": ["a", "a"]},
        {"trigger": "Whim"},
        {"storage": "Tape"},
        {"podRef": {"name": "Not_A_Name", "uid": "u"}},
        {"podRef": {"name": "a"}},
        {"owner": {"kind": "StatefulSet", "name": "a"}},
    ],
)
def test_a_wrong_spec_is_refused(api, namespace, more):
    with pytest.raises(Rejected):
        create(api, CHECKPOINTS, spec_of(namespace, **more), namespace=namespace)


@pytest.mark.parametrize(
    ("location", "is_fine"),
    [
        ({"node": {"name": "n", "path": "/p"}}, True),
        ({"peer": {"node": "n", "id": "i"}}, True),
        ({"s3": {"bucket": "abc", "key": "k"}}, True),
        ({"peer": {"node": "n", "id": "i"}, "s3": {"bucket": "abc", "key": "k"}}, True),
        ({}, False),
        ({"node": {"name": "n", "path": "/p"}, "s3": {"bucket": "abc", "key": "k"}}, False),
    ],
)
def test_a_location_is_the_pods_node_or_places_to_take_it_from(api, namespace, location, is_fine):
    value = create(api, CHECKPOINTS, spec_of(namespace), namespace=namespace)
    ref = ObjectRef.of(CHECKPOINTS, value)
    patch = {"status": {"location": location}}
    if is_fine:
        assert api.patch(ref, patch, subresource="status")["status"]["location"] == location
        return
    with pytest.raises(Rejected, match="either node is set, or peer, s3 or both"):
        api.patch(ref, patch, subresource="status")


def test_what_stays_with_nodes_is_in_no_object_store(api, namespace):
    peer, s3 = {"node": "n", "id": "i"}, {"bucket": "abc", "key": "k"}
    for storage, is_refused in (("Node", True), ("ObjectStore", False)):
        made = spec_of(namespace, storage=storage)
        value = create(api, CHECKPOINTS, made, namespace=namespace)
        ref = ObjectRef.of(CHECKPOINTS, value)
        api.patch(ref, {"status": {"location": {"peer": peer}}}, subresource="status")
        patch = {"status": {"location": {"s3": s3}}}
        if is_refused:
            with pytest.raises(Rejected, match="what stays with nodes is not in an object store"):
                api.patch(ref, patch, subresource="status")
        else:
            found = api.patch(ref, patch, subresource="status")
            assert found["status"]["location"] == {"peer": peer, "s3": s3}


def test_what_is_available_has_a_location(api, namespace):
    value = create(api, CHECKPOINTS, spec_of(namespace), namespace=namespace)
    ready = Condition(type=AVAILABLE, status=Status.TRUE, reason="Captured")
    with pytest.raises(Rejected, match="has a location"):
        say(api, value, ready)
    where = {"location": {"node": {"name": "n", "path": "/p"}}}
    stored = say(api, value, ready, location=where["location"])
    (said,) = [c for c in stored["status"]["conditions"] if c["type"] == AVAILABLE]
    assert said["observedGeneration"] == 1


def test_a_claim_is_given_up_before_another_takes_it(api, namespace):
    value = create(api, CHECKPOINTS, spec_of(namespace), namespace=namespace)
    ref = ObjectRef.of(CHECKPOINTS, value)

    def claim(uid: str | None) -> None:
        by = None if uid is None else {"name": "p", "uid": uid, "node": "n"}
        api.patch(ref, {"status": {"claimedBy": by}}, subresource="status")

    claim("a")
    claim("a")
    with pytest.raises(Rejected, match="given up"):
        claim("b")
    claim(None)
    claim("b")


@pytest.mark.parametrize(
    ("spec", "is_fine"),
    [
        ({"podName": "web-0"}, True),
        ({"selector": {"matchLabels": {"a": "b"}}, "containers": ["app"]}, True),
        ({"podName": "web-0", "retention": {"ttl": "168h"}}, True),
        ({}, False),
        ({"podName": "a", "selector": {"matchLabels": {"a": "b"}}}, False),
        ({"selector": {"matchLabels": {}}}, False),
        ({"podName": "web-0", "retention": {"ttl": "a week"}}, False),
        ({"podName": "web-0", "retention": {"ttl": "168h", "unusedFor": "24h"}}, True),
        ({"podName": "web-0", "retention": {}}, False),
        ({"podName": "shop/web-0"}, False),
    ],
)
def test_a_persistent_checkpoint_names_one_source(api, namespace, spec, is_fine):
    value = persistent(**spec)
    if is_fine:
        create(api, PERSISTENT_CHECKPOINTS, value, namespace=namespace)
        return
    with pytest.raises(Rejected):
        create(api, PERSISTENT_CHECKPOINTS, value, namespace=namespace)


START = {"name": "warm", "uid": "u"}


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        ({"trigger": "Request", "startFrom": START}, None),
        ({"trigger": "Request"}, "nowhere else"),
        ({"startFrom": START}, "nowhere else"),
        ({"trigger": "Request", "startFrom": {"name": "warm"}}, "uid"),
        ({"trigger": "Request", "startFrom": {**START, "name": "shop/warm"}}, "name"),
        (
            {
                "trigger": "Request",
                "startFrom": START,
                "owner": {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "u"},
            },
            "no owner",
        ),
    ],
)
def test_a_start_is_a_request_and_says_from_which_one(api, namespace, more, refusal):
    value = spec_of(namespace, **more)
    if refusal is None:
        stored = create(api, CHECKPOINTS, value, namespace=namespace)
        with pytest.raises(Rejected, match="spec is immutable"):
            api.patch(
                ObjectRef.of(CHECKPOINTS, stored), {"spec": {"startFrom": {"uid": "another"}}}
            )
        return
    with pytest.raises(Rejected, match=refusal):
        create(api, CHECKPOINTS, value, namespace=namespace)


S3 = {
    "bucket": "pods", "key": "shop/u/manifest.json", "manifestSha256": "0" * 64,
    "wrappedKey": "AAAA", "keyID": "0123456789abcdef",
}  # fmt: skip


@pytest.fixture
def warm(api: Api, namespace: str) -> dict[str, Any]:
    value = persistent(podName="web-0")
    found: dict[str, Any] = create(api, PERSISTENT_CHECKPOINTS, value, namespace=namespace)
    return found


def write(api: Api, value: dict[str, Any], **status: Any) -> dict[str, Any]:
    ref = ObjectRef.of(PERSISTENT_CHECKPOINTS, value)
    return dict(api.patch(ref, {"status": status}, subresource="status")["status"])


def say(api: Api, value: dict[str, Any], said: Condition, **fields: Any) -> dict[str, Any]:
    """Write as the parts do; the operator that is there writes, too."""
    is_one_to_start_from = value["kind"] == PERSISTENT_CHECKPOINTS.kind
    ref = ObjectRef.of(PERSISTENT_CHECKPOINTS if is_one_to_start_from else CHECKPOINTS, value)

    def written() -> dict[str, Any] | None:
        now = api.get(ref.resource, ref.name, namespace=ref.namespace)
        try:
            return checkpoints.set_status(api, now, said, fields=fields)
        except Conflict:
            return None

    found: dict[str, Any] = eventually(written, what=f"{ref} is written")
    return found


@pytest.mark.parametrize(
    ("location", "is_fine"),
    [
        ({"s3": S3}, True),
        ({}, False),
        ({"s3": {k: v for k, v in S3.items() if k != "wrappedKey"}}, False),
        ({"s3": {k: v for k, v in S3.items() if k != "keyID"}}, False),
        ({"s3": {k: v for k, v in S3.items() if k != "manifestSha256"}}, False),
        ({"s3": {**S3, "manifestSha256": ""}}, False),
        ({"s3": {**S3, "wrappedKey": "not base64"}}, False),
    ],
)
def test_a_persistent_checkpoint_lies_in_the_object_store_with_its_key(
    api, warm, location, is_fine
):
    if is_fine:
        assert write(api, warm, location=location)["location"] == location
        return
    with pytest.raises(Rejected):
        write(api, warm, location=location)


@pytest.mark.parametrize("place", [{"peer": {"node": "n", "id": "i"}}, {"node": {"name": "n"}}])
def test_a_persistent_checkpoint_lies_nowhere_else(api, warm, place):
    found = write(api, warm, location={"s3": S3, **place})
    assert found["location"] == {"s3": S3}, "an unknown field is dropped"


def test_a_persistent_checkpoint_that_is_available_has_a_location(api, warm):
    ready = Condition(type=AVAILABLE, status=Status.TRUE, reason="Stored")
    with pytest.raises(Rejected, match="has a location"):
        say(api, warm, ready)
    assert say(api, warm, ready, location={"s3": S3})["status"]["location"] == {"s3": S3}


def test_the_pod_of_a_persistent_checkpoint_is_chosen_once_and_with_its_node(api, warm):
    chosen = {"name": "web-0", "uid": "u"}
    for half in ({"podRef": chosen}, {"node": "n"}):
        with pytest.raises(Rejected, match="is on a node"):
            write(api, warm, **half)
    write(api, warm, podRef=chosen, node="n")
    for change in (
        {"podRef": {"uid": "another"}},
        {"podRef": {"name": "another"}},
        {"node": "another"},
        {"podRef": None, "node": None},
    ):
        with pytest.raises(Rejected, match="chosen once"):
            write(api, warm, **change)
    found = write(
        api, warm, podRef=chosen, node="n", containers=["app"], templateParts={"a": "b"},
        lastUsedAt="2030-01-01T00:00:00Z",
    )  # fmt: skip
    assert found["containers"] == ["app"]
    assert found["lastUsedAt"] == "2030-01-01T00:00:00Z"
