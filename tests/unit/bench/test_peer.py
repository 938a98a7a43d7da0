"""What the lines of the program that gets a checkpoint become."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import conditions, peer, plan
from bench.conditions import Host
from bench.errors import BenchError

HOST = Host(kernel="k", cgroup_version=2, cores=2, memory_gib=1, huge_pages="no", versions={})
STAGE = cast(Any, SimpleNamespace(host=HOST))


def test_each_of_our_transfers_is_compared_with_its_neighbour() -> None:
    said = '{"ours": 1.0, "plain": 0.5}\n{"ours": 0.5, "plain": 0.4}\n{"ours": 2.0, "plain": 1.8}\n'
    (found,) = peer.results(said, STAGE, plan.PEER, conditions.Load())
    assert found.name == "transfer.peer.ratio"
    assert found.at_least == {"p50": 0.7}
    assert found.spread.p50 == pytest.approx(0.8)
    assert found.spread.least == pytest.approx(0.5)
    assert found.baseline["ours, MB/s"].p50 == pytest.approx(1073.74, rel=0.01)


def test_a_wire_is_told() -> None:
    said = '{"ours": 1.0, "plain": 0.9}\n'
    (wired,) = peer.results(said, STAGE, plan.PEER_BY_WIRE, conditions.Load())
    (bare,) = peer.results(said, STAGE, plan.PEER, conditions.Load())
    assert wired.name == "transfer.peer.ratio.10Gbps"
    assert "10 Gb/s between them" in wired.conditions
    assert "no wire between them" in bare.conditions


def test_no_line_is_no_measure() -> None:
    with pytest.raises(BenchError):
        peer.results("", STAGE, plan.PEER, conditions.Load())
