"""What can be restored is counted, by namespace and kind, and nothing else is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from architect.kube import checkpoints, resources
from architect.kube.checkpoints import CheckpointSpec, Trigger
from architect.operator import holdings, metrics
from architect.operator.holdings import Holding
from architect.operator.metrics import Metrics
from unit.operator.test_retention import warm

Json = dict[str, Any]

KINDS = {
    Trigger.SLEEP: holdings.ASLEEP,
    Trigger.EVICTION: holdings.MOVING,
    Trigger.SPOT_INTERRUPTION: holdings.MOVING,
}


def checkpoint(
    name: str = "web",
    *,
    namespace: str = "shop",
    trigger: Trigger = Trigger.EVICTION,
    size: int | None = 7,
    available: str = "True",
) -> Json:
    pod = resources.pod(namespace, name, uid=f"uid-{name}")
    value = checkpoints.build(
        CheckpointSpec(pod=pod, trigger=trigger, template_hash="", containers=("app",))
    )
    status: Json = {"conditions": [{"type": "Available", "status": available}]}
    if size is not None:
        status["bytes"] = size
    return {**value, "status": status}


def persistent(name: str, *, namespace: str = "shop", size: int = 5) -> Json:
    return {"kind": "PersistentCheckpoint", **warm(name, namespace=namespace, size=size)}


def test_each_kind_of_each_namespace_is_counted_apart() -> None:
    values = [
        checkpoint("a"),
        checkpoint("b", trigger=Trigger.SLEEP, size=3),
        checkpoint("c", trigger=Trigger.SPOT_INTERRUPTION, size=None),
        checkpoint("d", namespace="blog", size=1),
        persistent("e"),
    ]
    assert holdings.of(values) == {
        ("shop", "moving"): Holding(count=2, size=7),
        ("shop", "asleep"): Holding(count=1, size=3),
        ("blog", "moving"): Holding(count=1, size=1),
        ("shop", "persistent"): Holding(count=1, size=5),
    }


def test_what_nobody_can_restore_holds_nothing() -> None:
    gone = checkpoint()
    gone["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    pod = resources.pod("shop", "new", uid="uid-new")
    source = persistent("warm")
    source["status"] |= {"podRef": {"name": "w", "uid": "u"}, "containers": ["app"]}
    start = checkpoints.build_start(pod, source, template_hash="")
    start["status"] = checkpoint()["status"]
    values = [checkpoint(available="False"), checkpoint(available="Unknown"), gone, start]
    assert holdings.of([*values, {"metadata": {"namespace": "n"}}]) == {}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["shop", "blog"]), st.sampled_from([*KINDS, None]), st.integers(0, 9)
        ),
        max_size=12,
    )
)
def test_the_namespaces_together_are_the_cluster(
    made: list[tuple[str, Trigger | None, int]],
) -> None:
    values = [
        persistent(f"n{n}", namespace=namespace, size=size)
        if trigger is None
        else checkpoint(f"n{n}", namespace=namespace, trigger=trigger, size=size)
        for n, (namespace, trigger, size) in enumerate(made)
    ]
    found = holdings.of(values)
    assert sum(one.count for one in found.values()) == len(made)
    assert sum(one.size for one in found.values()) == sum(size for _, _, size in made)
    for (namespace, kind), one in found.items():
        wanted = [
            size
            for ns, trigger, size in made
            if ns == namespace and kind == (KINDS[trigger] if trigger else holdings.PERSISTENT)
        ]
        assert (one.count, one.size) == (len(wanted), sum(wanted))


def test_the_numbers_are_those_of_the_last_look_and_of_no_other_kind() -> None:
    numbers = Metrics()
    both = (holdings.ASLEEP, holdings.MOVING)
    metrics.tell_held(numbers, [persistent("e")], holdings.PERSISTENT)
    metrics.tell_held(numbers, [checkpoint("a"), checkpoint("d", namespace="blog")], *both)
    metrics.tell_held(numbers, [checkpoint("a"), checkpoint("b")], *both)
    lines = [t for t in numbers.render().splitlines() if t.startswith("architect_operator_held")]
    assert lines == [
        'architect_operator_held_checkpoints{kind="moving",namespace="shop"} 2',
        'architect_operator_held_checkpoints{kind="persistent",namespace="shop"} 1',
        'architect_operator_held_checkpoint_bytes{kind="moving",namespace="shop"} 14',
        'architect_operator_held_checkpoint_bytes{kind="persistent",namespace="shop"} 5',
    ]
