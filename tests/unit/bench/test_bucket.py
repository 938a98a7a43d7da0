"""What the transfers to and from the object store come to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from architect.checkpoint.envelope import SHARD_BYTES
from bench import bucket, bucketside, conditions, plan
from bench.errors import BenchError

LINES = [
    {"up": 2.0, "down": 4.0},
    {"up": 2.0, "down": 2.0},
    {"before_bytes": 50e6, "peak_bytes": 170e6},
    {"plain_up": 1.0, "plain_up_objects": 0.5, "plain_down": 1.0, "plain_down_objects": 2.0},
    {"plain_up": 1.0, "plain_up_objects": 2.0, "plain_down": 1.0, "plain_down_objects": 0.5},
]


def results(lines: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(conditions, "line", lambda *_, **__: "conditions")
    stage = SimpleNamespace(host=None, node=SimpleNamespace(name="node1"))
    said = "\n".join(map(json.dumps, lines))
    found = bucket.results(said, cast(Any, stage), plan.STORE, cast(Any, None))
    return {result.name: result for result in found}


def test_a_ratio_is_of_speeds_and_one_is_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(LINES, monkeypatch)
    down = found["transfer.s3.down.ratio"]
    assert (down.spread.least, down.spread.most, down.spread.n) == (0.25, 0.25, 2)
    assert down.baseline["plain copy, MB/s"].p50 == pytest.approx(1073.741824, rel=1e-3)


@pytest.mark.parametrize(("way", "least", "most"), [("up", 0.25, 0.5), ("down", 0.25, 0.25)])
def test_the_faster_of_two_plain_ways_counts_in_each_run(
    way: str, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = results(LINES, monkeypatch)[f"transfer.s3.{way}.ratio"]
    assert (found.spread.least, found.spread.most, found.spread.n) == (least, most, 2)
    assert set(found.baseline) == {
        "ours, MB/s", "plain copy, MB/s", "plain copy in objects of 8 MiB, MB/s",
    }  # fmt: skip


def test_what_is_cut_is_the_same_bytes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(os.urandom(SHARD_BYTES + 5))
    cuts = bucketside.cut(whole, tmp_path / "cuts")
    assert [path.stat().st_size for path in cuts] == [SHARD_BYTES, 5]
    assert b"".join(path.read_bytes() for path in cuts) == whole.read_bytes()


def test_memory_is_what_the_transfers_add(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = results(LINES, monkeypatch)["store.memory.1024MB"]
    assert memory.spread.p50 == pytest.approx(120)
    assert memory.baseline["with Python and the daemon's modules"].p50 == pytest.approx(170)


def test_a_program_that_ended_early_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match="no copy was measured"):
        results(LINES[:3], monkeypatch)
