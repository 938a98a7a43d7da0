"""What the node's object says of the end of its machine."""

from __future__ import annotations

import copy
import dataclasses
import datetime
from typing import Any

import pytest

from architect.api import names
from architect.core.interruption import Interruption
from architect.daemon.evacuation import marks

SAID = Interruption(
    kind="interruption",
    source="aws",
    ends=datetime.datetime(2026, 12, 1, 10, tzinfo=datetime.UTC),
    uncordon=False,
)
OURS = {"key": names.INTERRUPTION, "value": "interruption", "effect": "NoSchedule"}
THEIRS = {"key": "theirs", "value": "x", "effect": "NoExecute"}
CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def node(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "node1", "annotations": {"other": "kept"}}, "spec": spec}


def patched(value: dict[str, Any], patch: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a merge patch makes of *value* (RFC 7386)."""
    if patch is None:
        return value
    result = copy.deepcopy(value)
    _merge(result, patch)
    return result


def _merge(value: dict[str, Any], patch: dict[str, Any]) -> None:
    for key, new in patch.items():
        if new is None:
            value.pop(key, None)
        elif isinstance(new, dict):
            _merge(value.setdefault(key, {}), new)
        else:
            value[key] = new


@pytest.mark.parametrize(
    "before",
    [
        node(),
        node(taints=[THEIRS]),
        node(unschedulable=True, taints=[THEIRS, CORDON]),
        node(taints=[{**OURS, "value": "maintenance"}, THEIRS]),
    ],
)
def test_a_marked_node_takes_no_pod_and_says_why_and_is_as_before_then(
    before: dict[str, Any],
) -> None:
    after = patched(before, marks.marked(before, SAID))
    assert after["spec"]["unschedulable"] is True
    assert OURS in after["spec"]["taints"]
    assert marks.is_marked(after)
    assert marks.marked(after, SAID) is None, "it says so already"
    again = patched(after, marks.unmarked(after))
    others = [t for t in before["spec"].get("taints", []) if t["key"] != names.INTERRUPTION]
    assert again["spec"].get("taints", []) == others
    assert again["spec"].get("unschedulable") == before["spec"].get("unschedulable")
    assert again["metadata"] == before["metadata"]
    assert marks.unmarked(again) is None


def test_another_notice_changes_what_is_said_and_not_what_was_before() -> None:
    before = node()
    after = patched(before, marks.marked(before, SAID))
    later = dataclasses.replace(SAID, kind="maintenance", source="azure", ends=None)
    after = patched(after, marks.marked(after, later))
    assert after["spec"]["taints"] == [{**OURS, "value": "maintenance"}]
    assert patched(after, marks.unmarked(after)) == {**before, "spec": {"taints": []}}


def test_a_cordon_that_somebody_took_away_is_put_back_and_goes_with_the_notice() -> None:
    after = patched(node(), marks.marked(node(), SAID))
    del after["spec"]["unschedulable"]
    after = patched(after, marks.marked(after, SAID))
    assert after["spec"]["unschedulable"] is True
    assert "unschedulable" not in patched(after, marks.unmarked(after))["spec"]


def test_what_somebody_else_wrote_there_is_replaced_and_no_reason_to_uncordon() -> None:
    value = node(unschedulable=True)
    value["metadata"]["annotations"][names.INTERRUPTION] = "nonsense"
    after = patched(value, marks.unmarked(value))
    assert after["spec"]["unschedulable"] is True
    assert not marks.is_marked(after)
    marked = patched(value, marks.marked(value, SAID))
    assert marks.marked(marked, SAID) is None
