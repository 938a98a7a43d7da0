from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api import names
from architect.core import quantity
from architect.daemon import resize
from architect.daemon.autoscalers import Counted, Share
from architect.daemon.resize import Bounds, Skip


def test_requests_go_to_the_least_and_the_originals_are_noted(make: Any) -> None:
    plan = resize.lower(make.pod(), bounds=Bounds())
    assert plan.requests == {"app": {"cpu": "1m", "memory": "1Ki"}}
    assert plan.original == {"app": {"cpu": "100m", "memory": "64Mi"}}


def test_lowering_twice_changes_nothing_and_keeps_the_first_originals(make: Any) -> None:
    low = [{"name": "app", "resources": {"requests": {"cpu": "1m", "memory": "1Ki"}}}]
    original = {"app": {"cpu": "100m", "memory": "64Mi"}}
    noted = {names.ORIGINAL_REQUESTS: json.dumps(original)}
    pod = make.pod(containers=low, annotations=noted)
    assert resize.lower(pod, bounds=Bounds()).is_empty
    half = [{"name": "app", "resources": {"requests": {"cpu": "1m", "memory": "64Mi"}}}]
    plan = resize.lower(make.pod(containers=half, annotations=noted), bounds=Bounds())
    assert plan.requests == {"app": {"memory": "1Ki"}}
    assert plan.original is None


def test_waking_brings_the_originals_back_and_then_the_note_goes(make: Any) -> None:
    low = [{"name": "app", "resources": {"requests": {"cpu": "1m", "memory": "1Ki"}}}]
    noted = {names.ORIGINAL_REQUESTS: '{"app":{"cpu":"100m","memory":"64Mi"},"gone":{"cpu":"1"}}'}
    plan = resize.restore(make.pod(containers=low, annotations=noted))
    assert plan.requests == {"app": {"cpu": "100m", "memory": "64Mi"}}
    assert plan.is_annotation_to_be_removed
    done = resize.restore(make.pod(annotations=noted))
    assert done.requests == {}
    assert done.is_annotation_to_be_removed
    assert resize.restore(make.pod()).is_empty


def test_a_request_that_somebody_else_raised_meanwhile_stays(make: Any) -> None:
    raised = [{"name": "app", "resources": {"requests": {"cpu": "2", "memory": "1Ki"}}}]
    noted = {names.ORIGINAL_REQUESTS: '{"app":{"cpu":"100m","memory":"64Mi"}}'}
    plan = resize.restore(make.pod(containers=raised, annotations=noted))
    assert plan.requests == {"app": {"memory": "64Mi"}}


def test_a_request_that_its_owner_lowered_and_nobody_saw_before_the_wake_stays(make: Any) -> None:
    """Below what it was, and not what a sleeping pod's is lowered to."""
    noted = {names.ORIGINAL_REQUESTS: '{"app":{"cpu":"100m","memory":"64Mi"}}'}
    set_asleep = [{"name": "app", "resources": {"requests": {"cpu": "50m", "memory": "1Ki"}}}]
    plan = resize.restore(make.pod(containers=set_asleep, annotations=noted))
    assert plan.requests == {"app": {"memory": "64Mi"}}
    assert plan.is_annotation_to_be_removed


def test_what_bounds_kept_higher_than_the_least_comes_back(make: Any) -> None:
    noted = '{"app":{"cpu":"100m","memory":"64Mi"},"app.lowered":{"memory":"8Mi"}}'
    low = [{"name": "app", "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}}}]
    plan = resize.restore(make.pod(containers=low, annotations={names.ORIGINAL_REQUESTS: noted}))
    assert plan.requests == {"app": {"cpu": "100m", "memory": "64Mi"}}


def _resized(make: Any, now: dict[str, str], noted: dict[str, Any]) -> Any:
    containers = [{"name": "app", "resources": {"requests": now}}]
    return make.pod(containers=containers, annotations={names.ORIGINAL_REQUESTS: json.dumps(noted)})


@pytest.mark.parametrize("wanted", ["2", "50m"])
def test_what_the_owner_sets_while_it_sleeps_is_what_it_gets_back(make: Any, wanted: str) -> None:
    pod = _resized(
        make, {"cpu": wanted, "memory": "1Ki"}, {"app": {"cpu": "100m", "memory": "64Mi"}}
    )
    plan = resize.lower(pod, bounds=Bounds())
    assert plan.requests == {"app": {"cpu": "1m"}}
    assert plan.original == {"app": {"cpu": wanted, "memory": "64Mi"}}


def test_bounds_that_fall_while_it_sleeps_are_not_taken_for_its_owners_wish(make: Any) -> None:
    containers = [{"name": "app", "resources": {"requests": {"cpu": "100m"}}}]
    bounds = Bounds(least={"cpu": Fraction(4, 1000)})
    plan = resize.lower(make.pod(containers=containers), bounds=bounds)
    assert plan.requests == {"app": {"cpu": "4m"}}
    assert plan.original == {"app": {"cpu": "100m"}, "app.lowered": {"cpu": "4m"}}
    assert plan.original is not None
    pod = _resized(make, {"cpu": "4m"}, dict(plan.original))
    assert resize.lower(pod, bounds=bounds).is_empty
    again = resize.lower(pod, bounds=Bounds())
    assert again.requests == {"app": {"cpu": "1m"}}
    assert again.original is None
    assert resize.restore(pod).requests == {"app": {"cpu": "100m"}}


@pytest.mark.parametrize("text", ["no json", "[]", '{"app": 3}', '{"app":{"cpu":"x"}}'])
def test_a_spoilt_note_restores_nothing_and_goes(make: Any, text: str) -> None:
    plan = resize.restore(make.pod(annotations={names.ORIGINAL_REQUESTS: text}))
    assert plan.requests == {}
    assert plan.is_annotation_to_be_removed


@pytest.mark.parametrize(
    ("qos", "skip"), [("Guaranteed", Skip.GUARANTEED), ("BestEffort", Skip.BEST_EFFORT)]
)
def test_a_pod_whose_class_would_change_keeps_its_requests(make: Any, qos: str, skip: Skip) -> None:
    plan = resize.lower(make.pod(status={"qosClass": qos}), bounds=Bounds())
    assert plan.is_empty
    assert plan.skipped == {"app": skip}


def test_a_resource_whose_resize_restarts_the_container_stays(make: Any) -> None:
    container = {
        "name": "app",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
    }
    plan = resize.lower(make.pod(containers=[container]), bounds=Bounds())
    assert plan.requests == {"app": {"cpu": "1m"}}
    assert plan.skipped == {"app": Skip.RESTART_POLICY}


def test_a_limit_range_sets_the_least(make: Any) -> None:
    item = {
        "type": "Container",
        "min": {"cpu": "20m", "memory": "4Mi"},
        "maxLimitRequestRatio": {"cpu": "4"},
    }
    ranges = [{"spec": {"limits": [item, {"type": "Pod", "min": {"cpu": "3"}}]}}]
    container = {
        "name": "app",
        "resources": {
            "requests": {"cpu": "500m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "64Mi"},
        },
    }
    plan = resize.lower(make.pod(containers=[container]), bounds=resize.bounds_of(ranges))
    assert plan.requests == {"app": {"cpu": "250m", "memory": "4096Ki"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100m", Fraction(1, 10)),
        ("1.5", Fraction(3, 2)),
        ("128Mi", Fraction(128 * 2**20)),
        ("1e3", Fraction(1000)),
        ("1E", Fraction(10**18)),
        (".5Gi", Fraction(2**29)),
        ("12k", Fraction(12000)),
    ],
)
def test_quantities_are_read_exactly(text: str, value: Fraction) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize("text", ["", "1 Gi", "x", "1KB", "1mi", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity.parse(text)


@given(st.integers(min_value=0, max_value=2**60))
def test_rendered_bytes_read_back_as_the_same_number(number: int) -> None:
    assert quantity.parse(quantity.render_bytes(Fraction(number))) == number


@given(
    cpu=st.integers(min_value=1, max_value=10**7), memory=st.integers(min_value=1, max_value=2**50)
)
def test_sleep_and_wake_leave_the_requests_as_they_were(make: Any, cpu: int, memory: int) -> None:
    before = {"cpu": f"{cpu}m", "memory": str(memory)}
    awake = [{"name": "app", "resources": {"requests": before}}]
    down = resize.lower(make.pod(containers=awake), bounds=Bounds())
    asleep = [
        {"name": "app", "resources": {"requests": before | dict(down.requests.get("app", {}))}}
    ]
    noted = (
        {} if down.original is None else {names.ORIGINAL_REQUESTS: resize.annotation(down.original)}
    )
    up = resize.restore(make.pod(containers=asleep, annotations=noted))
    after = asleep[0]["resources"]["requests"] | dict(up.requests.get("app", {}))  # type: ignore[index]
    assert after == before


DIVIDES_MEMORY = Counted(by=frozenset({(Share("memory"), "scaler")}))
DIVIDES_BOTH = Counted(by=frozenset({(Share("memory"), "scaler"), (Share("cpu", "app"), "other")}))


def test_a_request_by_which_an_autoscaler_divides_stays_and_the_others_go(make: Any) -> None:
    plan = resize.lower(make.pod(), bounds=Bounds(), counted=DIVIDES_MEMORY)
    assert plan.requests == {"app": {"cpu": "1m"}}
    assert plan.original == {"app": {"cpu": "100m"}}
    assert plan.skipped == {"app": Skip.AUTOSCALER}
    assert plan.kept == (
        "its requests for memory stay, since what it uses is divided by them: "
        "HorizontalPodAutoscaler scaler",
    )
    both = resize.lower(make.pod(), bounds=Bounds(), counted=DIVIDES_BOTH)
    assert both.is_empty
    (text,) = both.kept
    assert "for cpu and memory" in text
    assert text.endswith("HorizontalPodAutoscaler other, scaler")


def test_what_was_lowered_before_an_autoscaler_came_is_given_back_and_lowered_again(
    make: Any,
) -> None:
    original = {"app": {"cpu": "100m", "memory": "64Mi"}}
    pod = _resized(make, {"cpu": "1m", "memory": "1Ki"}, original)
    plan = resize.lower(pod, bounds=Bounds(), counted=DIVIDES_MEMORY)
    assert plan.returned == {"app": {"memory": "64Mi"}}
    assert plan.requests == {}
    assert plan.original is None
    back = _resized(make, {"cpu": "1m", "memory": "64Mi"}, original)
    assert resize.lower(back, bounds=Bounds(), counted=DIVIDES_MEMORY).is_empty
    gone = resize.lower(back, bounds=Bounds())
    assert gone.requests == {"app": {"memory": "1Ki"}}
    assert gone.original is None
    assert resize.restore(back).requests == {"app": {"cpu": "100m"}}


def test_what_its_owner_sets_while_an_autoscaler_counts_it_stays(make: Any) -> None:
    pod = _resized(make, {"cpu": "50m", "memory": "1Gi"}, {"app": {"cpu": "100m"}})
    assert resize.lower(pod, bounds=Bounds(), counted=DIVIDES_BOTH).is_empty


def test_where_no_autoscaler_is_known_requests_stay_as_they_are(make: Any) -> None:
    unknown = Counted(unknown="the API server is away")
    plan = resize.lower(make.pod(), bounds=Bounds(), counted=unknown)
    assert plan.is_empty
    assert plan.kept == (
        "its requests stay: which HorizontalPodAutoscaler counts it is not known: "
        "the API server is away",
    )
    low = _resized(make, {"cpu": "1m", "memory": "1Ki"}, {"app": {"cpu": "100m"}})
    assert resize.lower(low, bounds=Bounds(), counted=unknown).is_empty


@pytest.mark.parametrize("qos", ["Guaranteed", "BestEffort"])
def test_a_pod_that_keeps_its_requests_anyway_needs_no_autoscaler_for_it(
    make: Any, qos: str
) -> None:
    pod = make.pod(status={"qosClass": qos})
    plan = resize.lower(pod, bounds=Bounds(), counted=DIVIDES_BOTH)
    assert plan == resize.lower(pod, bounds=Bounds())
    assert not resize.may_be_lowered(pod)
