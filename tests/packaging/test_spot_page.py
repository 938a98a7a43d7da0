"""``docs/spot.md``: its figures, tables and names are those of the code."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from architect.daemon.metrics import Metrics
from architect.daemon.notices import aws, azure
from architect.daemon.spot import (
    inputs,
    learning,
    lookahead,
    outlook,
    page,
    planner,
    schedule,
    width,
)
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request, State
from architect.daemon.spot.need import Limit
from architect.daemon.spot.pipeline import OBJECT_BYTES
from architect.daemon.spot.schedule import Schedule
from bench import paper

CHECKOUT = Path(__file__).parents[2]
TESTS = CHECKOUT / "tests" / "unit" / "daemon" / "spot"
DAEMON_PAGE = (CHECKOUT / "docs" / "daemon.md").read_text(encoding="utf-8")
PAGE = (CHECKOUT / "docs" / "spot.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("machine", paper.MACHINES, ids=str)
def test_what_a_node_can_hold_is_computed(machine: paper.Machine) -> None:
    rows = paper.rows(machine)
    assert len(rows) == len(paper.NOTICES_SECONDS) * len(paper.SIZES_MIB)
    for row in rows:
        assert f"\n{row}\n" in PAGE
    assert PAGE.count(f"| {machine} |") == len(rows)


def test_the_plan_that_is_shown_is_one() -> None:
    (block,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert block == (TESTS / "table-mixed.txt").read_text(encoding="utf-8")


def test_the_defaults_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE, re.MULTILINE))
    assert {name: float(value) for name, value in rows.items()} == vars(Rates())


def test_what_is_learnt_is_measured_by_somebody() -> None:
    """What nobody measures is its default for ever, and is not to be called learnt."""
    daemon = CHECKOUT / "daemon" / "architect" / "daemon"
    sources = [path.read_text() for path in daemon.rglob("*.py") if path.parent.name != "spot"]
    taken = {name for source in sources for name in re.findall(r"\bMeasure\.([A-Z]\w+)", source)}
    assert taken == {measure.name for measure in learning.Measure}
    unlearnt = vars(Rates()).keys() - {measure.value for measure in learning.Measure}
    assert (unlearnt, "Each rate but the disk's is learnt" in PAGE) == (
        {"disk_bytes_per_second"},
        True,
    )


def test_what_is_fixed_stands_there() -> None:
    assert f"less a reserve of {inputs.RESERVE_SECONDS:g}" in PAGE
    assert f"saved by = {schedule.SAFETY} ×" in PAGE
    assert f"at most ({Bounds().captures}:" in PAGE
    assert f"sends at once ({Bounds().objects})" in PAGE
    assert f"of the last {learning.KEPT} samples" in PAGE
    turns = ", ".join(f"{turn >> 20} MiB" for turn in schedule.TURNS_BYTES[1:3])
    assert f"0 (smallest first), {turns}, 1 GiB, ∞ (largest first)" in PAGE


@pytest.mark.parametrize("is_noticed", [False, True])
def test_what_the_order_gains_is_computed(is_noticed: bool) -> None:
    sizes = [16] * 6 + [64] * 6 + [256] * 6 + [288] + [1792]
    assert (len(sizes), sum(sizes)) == (20, 4096)
    machine = paper.MACHINES[0]
    request = Request(
        deadline_seconds=math.inf,
        pods=tuple(Pod(name=f"{n:02}", image_bytes=size << 20) for n, size in enumerate(sizes)),
        cores=machine.cores,
        rates=machine.rates,
        bounds=machine.as_it_is if is_noticed else Bounds(),
    )
    assert (machine.cores, machine.gigabits) == (16, 10)
    chosen = planner.plan(request).seconds
    smallest_first = min(
        Schedule(request, request.pods, manner).seconds(range(20))
        for manner in planner.manners(request)
        if manner.turn_bytes == schedule.SMALLEST_FIRST
    )
    said = f"after {chosen:.0f} s, and smallest first after {smallest_first:.0f}"
    assert said in PAGE


def test_what_few_streams_carry_is_computed() -> None:
    rates, megabytes = Rates(), OBJECT_BYTES / 1e6
    worked = 1 / rates.seal_bytes_per_second_per_core + 1 / rates.hash_bytes_per_second_per_core
    seconds = rates.upload_object_seconds + OBJECT_BYTES * worked
    assert f"no link carries more than {Bounds().objects * megabytes / seconds:.0f} MB/s" in PAGE
    # Two cores, one of which seals.
    seconds = rates.upload_object_seconds + Bounds().objects * OBJECT_BYTES * (
        worked + 1 / rates.upload_bytes_per_second
    )
    assert f"an upload of {Bounds().objects * megabytes / seconds:.0f} MB/s" in PAGE


def test_how_many_objects_at_once_is_computed() -> None:
    def objects(cores: int, bytes_per_second: float = Rates().upload_bytes_per_second) -> int:
        rates = dataclasses.replace(Rates(), upload_bytes_per_second=bytes_per_second)
        return width.objects(rates, cores=cores, memory_bytes=paper.MEMORY_BYTES)

    fast = paper.MACHINES[0].rates.upload_bytes_per_second
    assert objects(2) == objects(16)
    assert (
        f"Before anything was measured that is {objects(16)}; on 16 cores and 10 Gb/s it gets to "
        f"{objects(16, fast)}, on two cores to {objects(2, math.inf)}."
    ) in PAGE
    assert f"{objects(96, math.inf)} of 4 GiB" in PAGE
    assert f"nor more than {width.MOST}" in PAGE
    assert f"up to {width.STREAM_BYTES >> 20} MiB" in PAGE
    assert {machine.as_it_is.objects for machine in paper.MACHINES} == {39}
    assert "once the link is known (39)" in PAGE


def test_every_reason_state_and_limit_stands_there() -> None:
    reasons = [v for n, v in vars(planner).items() if n.isupper() and isinstance(v, str)]
    assert len(reasons) == 6
    words = [*reasons, *(s.value for s in State), *(limit.value for limit in Limit)]
    assert [word for word in words if f"`{word}`" not in PAGE] == []


def test_every_guarantee_is_a_test() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    source = "".join(path.read_text(encoding="utf-8") for path in TESTS.glob("test_*.py"))
    assert len(named) >= 10
    assert [name for name in sorted(named) if f"\ndef {name}(" not in source] == []


def test_what_is_told_all_the_time_is_named() -> None:
    families = {family.name for family in Metrics().registry.collect()}
    ours = {name for name in families if name.startswith("architect_spot_")}
    assert ours == set(re.findall(r"`(architect_spot_\w+)", PAGE))
    assert ours == set(re.findall(r"`(architect_spot_\w+)", DAEMON_PAGE))
    (passage,) = re.findall(r"Pods are not told (.*?), and nothing is counted", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", passage)) == outlook.UNTOLD
    (shown,) = re.findall(r"^ *```json\n(.*?)```$", PAGE, re.MULTILINE | re.DOTALL)
    request = Request(deadline_seconds=25.0, pods=(), cores=1)
    told = outlook.annotation(outlook.look(request, notice_seconds=30.0))
    assert json.loads(shown).keys() == told.keys()
    assert json.loads(shown)["version"] == told["version"]


def test_how_often_is_looked_and_written_stands_there() -> None:
    assert (
        f"not within {lookahead.LEAST_SECONDS:g} s, and every {lookahead.INTERVAL_SECONDS:g} s"
        in PAGE
    )
    assert f"it rests {lookahead.REST:g} times as long" in PAGE
    assert (lookahead.WRITE_SECONDS, "at most once a minute" in PAGE) == (60.0, True)
    share, size = outlook.SAME_SHARE, outlook.SAME_BYTES
    assert (
        f"more than {share:.0%} (and {outlook.SAME_SECONDS:g} s, {size >> 20} MiB)"
        in PAGE.replace(" %", "%")
    )
    assert f"120 s with Amazon, {azure.NOTICE_SECONDS:g} s with Azure" in PAGE
    assert aws.NOTICE_SECONDS == 120.0
    assert page.MOST_WAITING == 4 and "more than four who wait are turned away" in PAGE
    assert page.REST == 3.0 and "a quarter of a core at most" in PAGE
