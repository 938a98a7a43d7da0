"""Windows of processor time, and what replaced processes do to them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import fifty
from bench.accounting import NOTHING
from bench.clock import Clock
from bench.errors import BenchError
from bench.fifty import Ours, Sight


def sight(
    at: float, *, daemon: float = 0, keeper: float = 0, pids: tuple[int, ...] = (1, 2)
) -> Sight:
    return Sight(
        at=at,
        daemon=Path("/daemon"),
        daemon_seconds=daemon,
        keeper=frozenset(pids),
        keeper_seconds=keeper,
        keeper_memory=NOTHING,
    )


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(fifty, "WINDOW_SECONDS", 0)

    def look_at(*seen: Sight | None) -> tuple[Ours, fifty.Watch]:
        ours = Ours.__new__(Ours)
        ours.replaced = 0
        looks = iter(seen)
        monkeypatch.setattr(ours, "_look", lambda: next(looks))
        return ours, ours.watch(2, Clock(3600))

    return look_at


def test_a_daemon_that_is_being_replaced_is_passed_over() -> None:
    def pod(node: str, kind: str, *statuses: dict[str, Any]) -> dict[str, Any]:
        return {
            "metadata": {"ownerReferences": [{"kind": kind}]},
            "spec": {"nodeName": node},
            "status": {"containerStatuses": list(statuses)} if statuses else {},
        }

    running = {"state": {"running": {}}, "containerID": "containerd://abc"}
    items = [
        pod("node2", "DaemonSet", running),
        pod("node1", "ReplicaSet", running),
        pod("node1", "DaemonSet"),
        pod("node1", "DaemonSet", {"state": {"waiting": {}}}),
    ]
    stage = SimpleNamespace(
        node=SimpleNamespace(name="node1"),
        cluster=SimpleNamespace(api=SimpleNamespace(get=lambda path: {"items": items})),
    )
    with pytest.raises(BenchError, match="no daemon runs on node1"):
        fifty.daemon_container(cast(Any, stage))
    items.append(pod("node1", "DaemonSet", running))
    assert fifty.daemon_container(cast(Any, stage)) == "abc"


def test_a_window_is_the_share_of_a_core_between_two_looks(watch: Any) -> None:
    ours, watched = watch(
        sight(10), sight(12, daemon=0.02, keeper=0.5), sight(14, daemon=0.02, keeper=0.6)
    )
    assert watched.daemon == [pytest.approx(1.0), 0.0]
    assert watched.keeper == [pytest.approx(25.0), pytest.approx(5.0)]
    assert ours.replaced == 0


def test_windows_over_a_replacement_are_left_out(watch: Any) -> None:
    ours, watched = watch(
        sight(0, daemon=9),
        sight(2, daemon=9.02),
        None,
        sight(6, daemon=0.5, pids=(1, 3)),
        sight(8, daemon=0.52, pids=(1, 3)),
    )
    assert watched.daemon == [pytest.approx(1.0)] * 2
    assert ours.replaced == 1


def test_a_new_process_in_the_family_ends_a_window(watch: Any) -> None:
    ours, watched = watch(sight(0), sight(2, pids=(1, 2, 3)), sight(4), sight(6), sight(8))
    assert len(watched.daemon) == 2
    assert ours.replaced == 2


def test_what_never_rests_cannot_be_watched(watch: Any) -> None:
    with pytest.raises(BenchError, match="not at rest"):
        watch(*[None] * 100)
