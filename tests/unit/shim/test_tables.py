"""What ``architect-runtime`` tells people."""

from __future__ import annotations

import pytest

from architect.shim import tables


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.25, "shop/web-0 is awake after 250ms"), (None, "shop/web-0 is awake")]
)
def test_a_pod_that_never_slept_is_awake_without_a_time(seconds: float | None, told: str) -> None:
    status = {"pod": "u", "namespace": "shop", "name": "web-0", "state": "awake"}
    assert tables.transition({"status": status, "duration_seconds": seconds}) == told
