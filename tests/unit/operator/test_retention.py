"""What is kept within limits: the least used goes first, and nobody loses their last one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from architect.api import names
from architect.operator import retention
from architect.operator.retention import Limits

GIB = 1 << 30


def warm(
    name: str,
    *,
    namespace: str = "shop",
    size: int = GIB,
    captured: int = 1,
    used: int = 0,
    asks: str = "web",
    available: str = "True",
    is_pinned: bool = False,
) -> dict[str, Any]:
    status: dict[str, Any] = {
        "bytes": size,
        "capturedAt": f"2030-01-{captured:02}T00:00:00Z",
        "conditions": [{"type": "Available", "status": available, "reason": "R", "message": ""}],
    }
    if used:
        status["lastUsedAt"] = f"2030-01-{used:02}T00:00:00Z"
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "annotations": {names.PIN: "true"} if is_pinned else {},
        },
        "spec": {"selector": {"matchLabels": {"app": asks}}},
        "status": status,
    }


def gone(values: list[dict[str, Any]], **limits: int) -> list[str]:
    return sorted(e.persistent.name for e in retention.excess(values, Limits(**limits)).ends)


def beyond(values: list[dict[str, Any]], **limits: int) -> tuple[str, ...]:
    return retention.excess(values, Limits(**limits)).beyond


THREE = [warm("a", captured=1), warm("b", captured=2), warm("c", captured=3)]


def test_without_limits_all_stay() -> None:
    assert gone(THREE) == []


def test_the_oldest_goes_first_by_number_and_by_size() -> None:
    assert gone(THREE, count=2) == ["a"]
    assert gone(THREE, namespace_count=2) == ["a"]
    assert gone(THREE, size=2 * GIB) == ["a"]
    assert gone(THREE, namespace_size=GIB) == ["a", "b"]
    assert gone(THREE, count=3, size=3 * GIB) == []


def test_use_counts_and_not_age() -> None:
    values = [warm("a", captured=1, used=9), *THREE[1:]]
    assert gone(values, count=2) == ["b"]


def test_the_last_good_one_stays() -> None:
    assert gone([warm("a"), warm("b", asks="api", captured=2)], count=1) == []
    assert gone(THREE, count=1, size=1) == ["a", "b"]


def test_of_those_of_one_second_the_last_one_stays() -> None:
    """The API lists them by name."""
    for older, newer in ((("1", 8), ("2", 9)), (("2", 9), ("2", 10))):
        values = [warm("a-newer", captured=1), warm("b-older", captured=1)]
        for value, (second, version) in zip(values, (newer, older), strict=True):
            value["metadata"]["creationTimestamp"] = f"2030-01-01T00:00:0{second}Z"
            value["metadata"]["resourceVersion"] = str(version)
        assert gone(values, namespace_count=1) == ["b-older"]


def test_what_is_pinned_stays() -> None:
    values = [warm("a", captured=1, is_pinned=True), *THREE[1:]]
    assert gone(values, count=1) == ["b"]


def test_who_stays_beyond_the_limits_is_told() -> None:
    pinned = [warm("a", captured=1, is_pinned=True), *THREE[1:]]
    assert beyond(pinned, count=1) == ("the cluster",)
    assert beyond(pinned, namespace_size=GIB) == ("namespace shop",)
    assert beyond([warm("a", size=2)], size=1, namespace_size=1) == (
        "namespace shop",
        "the cluster",
    )
    assert beyond(THREE, count=1, namespace_count=1, size=GIB) == ()
    assert beyond(THREE) == ()


def test_a_namespaces_limit_is_its_own() -> None:
    values = [*THREE, warm("x", namespace="other"), warm("y", namespace="other", captured=2)]
    assert gone(values, namespace_count=2) == ["a"]
    assert gone(values, count=3) == ["a", "x"]


def test_what_was_never_saved_counts_for_nothing() -> None:
    values = [*THREE, warm("d", captured=4, available="False")]
    assert gone(values, count=3) == []


def test_their_bytes_are_those_that_the_limits_count() -> None:
    values = [*THREE, warm("d", size=7), warm("e", available="False")]
    assert retention.total_bytes(values) == 3 * GIB + 7


def test_the_reason_names_place_and_limit() -> None:
    (end,) = retention.excess(THREE, Limits(namespace_count=2)).ends
    assert "namespace shop" in end.why
    assert "3 of" in end.why


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["shop", "other"]),
            st.integers(1, 28),
            st.integers(0, 28),
            st.integers(0, 5),
            st.sampled_from(["web", "api"]),
            st.booleans(),
        ),
        max_size=12,
    ),
    st.integers(0, 4),
    st.integers(0, 9),
)
def test_nobody_ever_loses_their_last_or_what_is_pinned(
    made: list[tuple[str, int, int, int, str, bool]], count: int, size: int
) -> None:
    values = [
        warm(
            f"p{n}", namespace=ns, captured=at, used=used, size=size_, asks=asks,
            is_pinned=pinned,
        )
        for n, (ns, at, used, size_, asks, pinned) in enumerate(made)
    ]  # fmt: skip
    ends = set(gone(values, count=count, size=size, namespace_count=count))
    asked = {(v["metadata"]["namespace"], str(v["spec"])) for v in values}
    left = [v for v in values if v["metadata"]["name"] not in ends]
    assert {(v["metadata"]["namespace"], str(v["spec"])) for v in left} == asked
    assert not [
        v for v in values if names.PIN in v["metadata"]["annotations"]
        and v["metadata"]["name"] in ends
    ]  # fmt: skip
    free = [v for v in left if names.PIN not in v["metadata"]["annotations"]]
    told = beyond(values, count=count, size=size, namespace_count=count)
    held = sum(v["status"]["bytes"] for v in left)
    assert ("the cluster" in told) == bool((count and len(left) > count) or (size and held > size))
    if count and len(left) > count:
        assert len(free) <= len(asked), "only what must stay is beyond the limit"
