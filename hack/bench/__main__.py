"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from architect.core.errors import ArchitectError
from bench import (
    bucket,
    creation,
    drains,
    execs,
    fifty,
    figures,
    moves,
    peer,
    plan,
    spot,
    stage,
    wake,
)
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result
from bench.plan import (
    MoveScenario,
    PeerScenario,
    Scenario,
    SpotScenario,
    StoreScenario,
    WakeScenario,
)
from bench.stage import Stage
from lab import dockerfiles, interrupts, release
from lab import errors as lab_errors
from lab.cluster import Cluster
from lab.progress import Progress

BUILD: Final = dockerfiles.CHECKOUT / "build"
OUTPUT: Final = BUILD / "bench.json"
LOGS: Final = BUILD / "bench-logs"
MINUTES: Final = 71.0
"""For all measures together; what lies around them stays below four more."""
FAILURES: Final = (BenchError, lab_errors.LabError, ArchitectError, OSError)

Measure = Callable[[Stage, Any, Clock], list[Result]]


def main(words: list[str] | None = None) -> int:
    """Run the benchmark. Exit status 1 if something could not be measured, not for a missed goal.

    Missed goals are in the table and in the last lines of the output.
    """
    options = parser().parse_args(words)
    if os.geteuid() != 0:
        print("bench: namespaces, mounts and cgroups need root", file=sys.stderr)
        return 1
    try:
        scenarios = chosen(options.only, runs=options.runs)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    # A terminated run cleans up, and keeps what it has, as an interrupted one does.
    interrupts.handle()
    cluster = Cluster(progress=Progress())
    found: list[Result] = []
    failed: list[str] = []
    try:
        if not options.attach:
            with cluster.progress.step(f"cluster of {options.nodes} nodes with Architect"):
                cluster.up(options.nodes)
                release.install(cluster)
        with stage.opened(cluster, node=options.node, logs=LOGS) as opened:
            clock = Clock(options.minutes * 60)
            run(opened, scenarios, clock, output=options.output, found=found, failed=failed)
    except FAILURES as error:
        failed.append(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        failed.append("interrupted")
    if found:
        print(f"\n{figures.table(found)}\n\nwritten to {options.output}")
        print(figures.verdict(found))
    for text in failed:
        print(f"FAILED  {text}", file=sys.stderr)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m bench``."""
    made = argparse.ArgumentParser(
        prog="bench", description="What sleeping, waking and moving cost."
    )
    made.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="a quantity, or the beginning of names up to a dot; can be repeated",
    )
    made.add_argument(
        "--runs", type=positive, metavar="N", help="of each measure, in place of its own number"
    )
    made.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE")
    made.add_argument(
        "--minutes", type=float, default=MINUTES, help="for all measures (default: %(default)g)"
    )
    made.add_argument("--nodes", type=positive, default=2)
    made.add_argument("--node", metavar="NAME", help="on which the pods run (default: the first)")
    made.add_argument(
        "--attach",
        action="store_true",
        help="use the running cluster and what is installed in it as they are",
    )
    return made


def positive(text: str) -> int:
    """Accept a whole number above 0. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def chosen(only: Sequence[str], *, runs: int | None) -> list[Scenario]:
    """Return the scenarios that were asked for. Raises BenchError for a name that is none."""
    scenarios = plan.select(only)
    if runs is None:
        return scenarios
    return [dataclasses.replace(scenario, runs=runs) for scenario in scenarios]


def run(
    opened: Stage,
    scenarios: Sequence[Scenario],
    clock: Clock,
    *,
    output: Path,
    found: list[Result],
    failed: list[str],
) -> None:
    """Go through *scenarios*; one that fails is told in *failed*, and the next one begins.

    *output* is written after each: whatever happens later, what was measured is there.
    """
    progress = opened.cluster.progress
    weights = [scenario.weight for scenario in scenarios]
    for at, scenario in enumerate(scenarios):
        seconds = plan.allotted_seconds(clock.left_seconds, weights[at:])
        started = time.monotonic()
        try:
            with progress.step(f"{scenario.name}: {scenario.runs} runs, {seconds:.0f} s at most"):
                found += _measure_of(scenario)(opened, scenario, Clock(seconds))
            figures.write(found, output)
        except FAILURES as error:
            text = f"{scenario.name}: {type(error).__name__}: {error}"
            progress.say(text)
            failed.append(text)
        progress.say(f"{scenario.name}: {time.monotonic() - started:.0f} s in all")


def _measure_of(scenario: Scenario) -> Measure:
    if isinstance(scenario, WakeScenario):
        return wake.measure
    if isinstance(scenario, MoveScenario):
        return moves.measure if scenario.pods == 1 else drains.measure
    if isinstance(scenario, PeerScenario):
        return peer.measure
    if isinstance(scenario, StoreScenario):
        return bucket.measure
    if isinstance(scenario, SpotScenario):
        return spot.measure
    return {plan.EXEC.name: execs.measure, plan.CREATE.name: creation.measure}.get(
        scenario.name, fifty.measure
    )


if __name__ == "__main__":
    sys.exit(main())
