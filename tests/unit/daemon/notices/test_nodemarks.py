"""What others put on Node objects."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.daemon.notices import nodemarks
from architect.daemon.notices.notice import Announcement, Kind
from support.jsonvalues import JSON, paths, replace

INTERRUPTION, MAINTENANCE, REBALANCE = Kind.INTERRUPTION, Kind.MAINTENANCE, Kind.REBALANCE


def node(
    *taints: dict[str, str], labels: dict[str, str] | None = None, **condition: str
) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True", "message": "kubelet is posting ready status"}]
    if condition:
        conditions.append({"status": "True", **condition})
    return {
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"kubernetes.io/arch": "amd64", **(labels or {})}},
        "spec": {"taints": list(taints)} if taints else {},
        "status": {"conditions": conditions},
    }


def taint(key: str, value: str = "", effect: str = "NoSchedule") -> dict[str, str]:
    return {"key": key, "effect": effect, **({"value": value} if value else {})}


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        (taint("aws-node-termination-handler/spot-itn", "spot-itn-1a2b"), INTERRUPTION),
        (taint("aws-node-termination-handler/asg-lifecycle-termination"), INTERRUPTION),
        (taint("aws-node-termination-handler/scheduled-maintenance"), MAINTENANCE),
        (taint("aws-node-termination-handler/rebalance-recommendation"), REBALANCE),
        (taint("karpenter.sh/disrupted"), INTERRUPTION),
        (taint("karpenter.sh/disruption", "disrupting"), INTERRUPTION),
        (taint("karpenter.sh/rebooting"), MAINTENANCE),
        (taint("ToBeDeletedByClusterAutoscaler", "1700000000"), INTERRUPTION),
        (
            taint("DeletionCandidateOfClusterAutoscaler", "1700000000", "PreferNoSchedule"),
            REBALANCE,
        ),
        (taint("cloud.google.com/impending-node-termination"), INTERRUPTION),
        (taint("remediator.kubernetes.azure.com/unschedulable"), INTERRUPTION),
        (taint("cloudprovider.azure.microsoft.com/draining", "spot-eviction"), INTERRUPTION),
        (taint("aks-node-termination-handler/preempt"), INTERRUPTION),
    ],
)
def test_taints_of_those_who_end_nodes_are_known(mark: dict[str, str], kind: Kind) -> None:
    (found,) = nodemarks.announced(node(taint("node.kubernetes.io/unschedulable"), mark))
    assert (found.kind, found.id) == (kind, f"taint {mark['key']}")
    assert (found.ends_unix, found.ends_in_seconds) == (None, None), "nobody says when"
    assert mark.get("value", "") in found.said


@pytest.mark.parametrize("key", sorted(nodemarks.OVER))
def test_what_is_said_to_be_over_has_no_time_left(key: str) -> None:
    (found,) = nodemarks.announced(node(taint(key, "nodeshutdown", "NoExecute")))
    assert (found.kind, found.ends_in_seconds) == (INTERRUPTION, 0.0)


@pytest.mark.parametrize(
    "key",
    [
        "node.kubernetes.io/unschedulable",
        "node.kubernetes.io/not-ready",
        "node.cloudprovider.kubernetes.io/uninitialized",
        "karpenter.sh/unregistered",
        "kubernetes.azure.com/scalesetpriority",
        "cloud.google.com/gke-spot",
        "architect.dev/anything",
    ],
)
def test_other_taints_announce_nothing(key: str) -> None:
    assert nodemarks.announced(node(taint(key, "true"))) == ()


def test_one_key_with_two_effects_is_one_announcement() -> None:
    key = "karpenter.sh/disrupted"
    assert len(nodemarks.announced(node(taint(key), taint(key, effect="NoExecute")))) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cloud.google.com/active-node-maintenance", "ONGOING"),
        ("aws-node-termination-handler/action", "UncordonAfterReboot"),
    ],
)
def test_labels_of_maintenance_are_known_by_their_values(key: str, value: str) -> None:
    (found,) = nodemarks.announced(node(labels={key: value}))
    assert found.kind is MAINTENANCE
    assert nodemarks.announced(node(labels={key: "PENDING"})) == ()


MORE = "For more information, see https://aka.ms/aks/scheduledevents. "
ID = "EventId: 40B7BD88-C56E-44E4-93F6-75CEDACE2869"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            f"Preempt Scheduled: Sat, 01 Aug 2026 05:41:02 GMT. {MORE}{ID}",
            (INTERRUPTION, 1785562862, None),
        ),
        (
            f"Preempt Scheduled: Sat,  1 Aug 2026 05:41:02 UTC. {ID}",
            (INTERRUPTION, 1785562862, None),
        ),
        (f"Preempt Started. {MORE}{ID}", (INTERRUPTION, None, 0.0)),
        (
            f"Preempt Started: Sat, 01 Aug 2026 05:41:02 GMT. {ID}",
            (INTERRUPTION, None, 0.0),
        ),
        (f"Preempt Scheduled: soon. {ID}", (INTERRUPTION, None, None)),
        (f"Preempt Scheduled: Sat, 01 Aug 2026 05:41:02 PST. {ID}", (INTERRUPTION, None, None)),
        (f"SpotRebalanceRecommendation Advisory: . {MORE}{ID}", (REBALANCE, None, None)),
        (f"Preempt Advisory: . {MORE}{ID}", (REBALANCE, None, None)),
        (
            f"SpotRebalanceRecommendation Advisory: Sat, 01 Aug 2026 05:41:02 GMT. {ID}",
            (REBALANCE, None, None),
        ),
        (
            f"Redeploy Scheduled: Sat, 01 Aug 2026 05:41:02 GMT. {ID}",
            (MAINTENANCE, 1785562862, None),
        ),
        ("Terminate Scheduled: Sat, 01 Aug 2026 05:41:02 GMT", (INTERRUPTION, 1785562862, None)),
    ],
)
def test_the_message_of_akss_condition_is_what_counts(
    message: str, expected: tuple[Kind, float | None, float | None]
) -> None:
    for name in nodemarks.CONDITIONS:
        (found,) = nodemarks.announced(node(type=name, message=message))
        assert (found.kind, found.ends_unix, found.ends_in_seconds) == expected


@pytest.mark.parametrize(
    ("name", "message", "status"),
    [
        ("VMEventScheduled", "VM has no scheduled event", "False"),
        ("VMEventScheduled", f"Preempt Scheduled: Sat, 01 Aug 2026 05:41:02 GMT. {ID}", "False"),
        ("VMEventScheduled", "Freeze Scheduled: Sat, 01 Aug 2026 05:41:02 GMT", "True"),
        ("VMEventScheduled", "IMDS unavailable", "True"),
        ("Ready", f"Preempt Started. {ID}", "True"),
    ],
)
def test_other_conditions_announce_nothing(name: str, message: str, status: str) -> None:
    assert nodemarks.announced(node(type=name, message=message, status=status)) == ()


def test_a_preemption_that_cannot_be_read_is_one() -> None:
    found = nodemarks.read_condition("PreemptionScheduled", "Präemption um zwölf")
    assert found is not None
    assert (found.kind, found.ends_unix) == (INTERRUPTION, None)


def test_one_event_in_two_conditions_is_one_announcement() -> None:
    value = node(type="VMEventScheduled", message=f"Preempt Started. {ID}")
    value["status"]["conditions"].append(
        {"type": "PreemptionScheduled", "status": "True", "message": f"Preempt Started. {ID}"}
    )
    assert len(nodemarks.announced(value)) == 1


FULL = node(
    taint("karpenter.sh/disrupted"),
    taint("ToBeDeletedByClusterAutoscaler", "1"),
    labels={"cloud.google.com/active-node-maintenance": "ONGOING"},
    type="VMEventScheduled",
    message=f"Preempt Scheduled: Sat, 01 Aug 2026 05:41:02 GMT. {ID}",
)


@given(st.data(), JSON)
def test_a_node_with_another_value_is_read(data: st.DataObject, value: Any) -> None:
    changed = copy.deepcopy(FULL)
    replace(changed, data.draw(st.sampled_from(paths(changed))), value)
    for found in nodemarks.announced(changed):
        check(found)


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), JSON))
def test_anything_is_a_node_without_marks(value: dict[str, Any]) -> None:
    for found in nodemarks.announced(value):
        check(found)


@given(
    st.sampled_from(nodemarks.CONDITIONS),
    st.text() | st.from_regex(r"(Preempt|Freeze|Reboot) (Scheduled|Started)[:. A-Za-z0-9,]{0,60}"),
)
def test_any_message_is_read(name: str, message: str) -> None:
    found = nodemarks.read_condition(name, message)
    if found is not None:
        check(found)


def check(found: Announcement) -> None:
    assert found.id.isprintable()
    assert found.said.isprintable()
