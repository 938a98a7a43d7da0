from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.daemon import autoscalers
from architect.daemon.autoscalers import ALL, NOBODY, Chain, Link, Share
from support.jsonvalues import JSON, paths, replace

WEB = Link("apps", "Deployment", "web")
OF_DEPLOYMENT = Chain(links=(Link("apps", "ReplicaSet", "web-1a"), WEB), is_whole=False)
OF_STATEFUL_SET = Chain(links=(Link("apps", "StatefulSet", "db"),))


def resource(name: str, kind: str = "Utilization") -> dict[str, Any]:
    target = {"type": kind, "averageUtilization": 80}
    return {"type": "Resource", "resource": {"name": name, "target": target}}


def container_resource(name: str, container: str, kind: str = "Utilization") -> dict[str, Any]:
    source = {"name": name, "container": container, "target": {"type": kind}}
    return {"type": "ContainerResource", "containerResource": source}


def autoscaler(
    name: str = "scaler",
    *,
    kind: str = "Deployment",
    target: str = "web",
    api_version: str = "apps/v1",
    metrics: Any = (),
    namespace: str = "default",
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": api_version, "kind": kind, "name": target},
            "maxReplicas": 3,
            "metrics": list(metrics) if isinstance(metrics, tuple) else metrics,
        },
    }


def counted_names(found: Any) -> tuple[str, ...]:
    return autoscalers.counted(OF_DEPLOYMENT, found).names("app", "cpu")


def counted(chain: Chain, *values: Any) -> autoscalers.Counted:
    return autoscalers.counted(chain, autoscalers.read_all(values).get("default", ()))


@pytest.mark.parametrize(
    ("metrics", "cpu", "memory"),
    [
        ((), True, False),
        (None, True, False),
        ((resource("cpu"),), True, False),
        ((resource("memory"),), False, True),
        ((resource("cpu"), resource("memory")), True, True),
        ((resource("memory", "AverageValue"),), False, False),
        (({"type": "Pods", "pods": {"metric": {"name": "hits"}}},), False, False),
        (({"type": "External", "external": {}}, resource("memory")), False, True),
        ((container_resource("cpu", "app"),), True, False),
        ((container_resource("cpu", "other"),), False, False),
        ((container_resource("memory", "app", "AverageValue"),), False, False),
    ],
)
def test_only_targets_of_the_type_utilization_divide_by_requests(
    metrics: Any, cpu: bool, memory: bool
) -> None:
    found = counted(OF_DEPLOYMENT, autoscaler(metrics=metrics))
    assert found.names("app", "cpu") == (("scaler",) if cpu else ())
    assert found.names("app", "memory") == (("scaler",) if memory else ())


@pytest.mark.parametrize(
    ("fields", "chain", "is_counted"),
    [
        ({}, OF_DEPLOYMENT, True),
        ({"api_version": "apps/v1beta2"}, OF_DEPLOYMENT, True),
        ({"target": "other"}, OF_DEPLOYMENT, False),
        ({"kind": "StatefulSet"}, OF_DEPLOYMENT, False),
        ({"kind": "deployment"}, OF_DEPLOYMENT, False),
        ({"api_version": "openkruise.io/v1", "kind": "Other"}, OF_STATEFUL_SET, False),
        ({"kind": "ReplicaSet", "target": "web-1a"}, OF_DEPLOYMENT, True),
        ({"kind": "StatefulSet", "target": "db"}, OF_STATEFUL_SET, True),
        (
            {"api_version": "v1", "kind": "ReplicationController", "target": "old"},
            Chain(links=(Link("", "ReplicationController", "old"),)),
            True,
        ),
        (
            {"api_version": "argoproj.io/v1alpha1", "kind": "Rollout"},
            Chain(
                links=(
                    Link("apps", "ReplicaSet", "web-1a"),
                    Link("argoproj.io", "Rollout", "web"),
                ),
                is_whole=False,
            ),
            True,
        ),
        ({}, Chain(), False),
        ({"namespace": "other"}, OF_DEPLOYMENT, False),
    ],
)
def test_a_pod_is_counted_by_what_scales_an_owner_in_its_chain(
    fields: dict[str, Any], chain: Chain, is_counted: bool
) -> None:
    assert (counted(chain, autoscaler(**fields)) != NOBODY) is is_counted


def test_what_may_own_the_end_of_a_chain_that_nobody_may_read_counts() -> None:
    """A custom resource that has made a Deployment, which has made the pod's ReplicaSet."""
    of_custom = autoscaler(api_version="example.org/v1", kind="Shop", target="big")
    found = counted(OF_DEPLOYMENT, of_custom)
    assert found.names("app", "cpu") == ("scaler (of Shop big, which may own it)",)
    assert counted(OF_STATEFUL_SET, of_custom) == NOBODY, "it was read that nobody owns it"


def test_all_who_divide_are_named_each_once() -> None:
    both = (resource("cpu"), container_resource("cpu", "app"))
    found = counted(OF_DEPLOYMENT, autoscaler("b", metrics=both), autoscaler("a"))
    assert found.names("app", "cpu") == ("a", "b")
    assert found.names("other", "cpu") == ("a", "b")


@pytest.mark.parametrize(
    "metrics",
    [
        "cpu",
        [3],
        {"type": "Resource"},
        [{"type": "Resource", "resource": "cpu"}],
        [{"type": "Resource", "resource": {"name": 3, "target": {"type": "Utilization"}}}],
        [{"type": "Resource", "resource": {"target": {"type": "Utilization"}}}],
        [{"type": "ContainerResource", "containerResource": {"target": []}}],
    ],
)
def test_metrics_that_cannot_be_read_are_taken_for_all(metrics: Any) -> None:
    found = autoscalers.read(autoscaler(metrics=metrics))
    assert found is not None
    assert found.shares == ALL


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"metadata": {"namespace": "default", "name": "a"}},
        {"metadata": {"namespace": "default", "name": "a"}, "spec": {"scaleTargetRef": {}}},
        {"metadata": "a", "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}}},
        {"metadata": {"name": "a"}, "spec": {"scaleTargetRef": {"kind": "D", "name": "web"}}},
    ],
)
def test_what_scales_nothing_counts_nobody(value: Any) -> None:
    assert autoscalers.read(value) is None
    assert dict(autoscalers.read_all([value, autoscaler()])).keys() == {"default"}


def test_a_metric_of_one_container_is_of_that_one_alone() -> None:
    found = autoscalers.read(autoscaler(metrics=(container_resource("memory", "app"),)))
    assert found is not None
    assert found.shares == {Share("memory", "app")}


@given(data=st.data(), new=JSON)
def test_nothing_that_an_api_server_could_send_is_an_error(data: st.DataObject, new: Any) -> None:
    value = autoscaler(metrics=(resource("cpu"), container_resource("memory", "app")))
    replace(value, data.draw(st.sampled_from(paths(value))), new)
    found = autoscalers.read_all([new, value, autoscaler("good")])
    assert "good" in counted_names(found.get("default", ()))


_NAMES = st.sampled_from(["web", "db"])
_KINDS = st.sampled_from([("apps", "Deployment"), ("apps", "ReplicaSet"), ("example.org", "Shop")])
_LINKS = st.builds(lambda kind, name: Link(kind[0], kind[1], name), _KINDS, _NAMES)


@given(
    chain=st.builds(
        lambda links, whole: Chain(links=tuple(links), is_whole=whole),
        st.lists(_LINKS, max_size=3),
        st.booleans(),
    ),
    targets=st.lists(_LINKS, max_size=4),
)
def test_more_that_is_not_known_or_more_autoscalers_never_count_less(
    chain: Chain, targets: list[Link]
) -> None:
    values = [
        autoscaler(f"a{i}", kind=t.kind, target=t.name, api_version=f"{t.group}/v1")
        for i, t in enumerate(targets)
    ]
    found = counted(chain, *values)
    assert (found != NOBODY) >= any(t in chain.links for t in targets)
    assert found.by >= counted(chain, *values[:-1]).by
    less_known = Chain(links=chain.links, is_whole=False)
    assert (
        counted(less_known, *values).by
        >= counted(Chain(links=chain.links, is_whole=True), *values).by
    )
