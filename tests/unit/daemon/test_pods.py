"""What is read of a pod."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from architect.daemon import pods


@pytest.mark.parametrize(
    ("annotated", "given", "expected"),
    [
        (None, None, 0),
        (None, 2_000_000_000, 2_000_000_000),
        (7, 1000, 7),
        (0, 1000, 0),
        (-7, 0, -7),
    ],
)
def test_a_pods_priority_is_the_annotations_or_its_classes(
    make: Any, annotated: int | None, given: int | None, expected: int
) -> None:
    value = make.pod_json(policy=replace(make.policy(), priority=annotated))
    if given is not None:
        value["spec"]["priority"] = given
    pod = pods.read(value)
    assert pod is not None
    assert pod.priority == expected
