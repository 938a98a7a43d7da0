"""A checkpoint of random bytes from one node to another, beside a plain copy of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench import conditions, peerside
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result, Spread
from bench.plan import PeerScenario
from bench.stage import Stage
from lab import commands, links
from lab.node import Node

LIMIT_SECONDS: Final = 1800.0
RUN_SECONDS: Final = 4.0
"""Of 1 GiB twice: to see how many runs the time is for."""


def measure(stage: Stage, scenario: PeerScenario, clock: Clock) -> list[Result]:
    """Run one scenario. Raises BenchError, LabError, OSError."""
    others = [node for node in stage.cluster.nodes if node.name != stage.node.name]
    if not others:
        raise BenchError("one node: there is no other one to get anything from")
    load = conditions.Load()
    runs = max(1, min(scenario.runs, int(clock.left_seconds / RUN_SECONDS)))
    work = Path(tempfile.mkdtemp(prefix="bench-peer-", dir=stage.cluster.settings.state))
    try:
        with _wire(stage.node, others[0], scenario.wire_gbps):
            said = _transfer(stage.node, others[0], work, scenario.mebibytes, runs)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return results(said, stage, scenario, load)


@contextmanager
def _wire(source: Node, target: Node, gbps: float | None) -> Iterator[None]:
    """Let no more go from *source* to *target* than a wire of *gbps* carries."""
    if gbps is None:
        yield
        return
    match = links.to(target.addresses.v4)
    with links.limited(source.machine, gbps * 1e9 / 8, match):
        yield


def _transfer(source: Node, target: Node, work: Path, mebibytes: int, runs: int) -> str:
    """Return what the one that gets has printed."""
    address = source.addresses.v4
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    program = (sys.executable, "-m", "bench.peerside")
    with subprocess.Popen(
        source.machine.in_network(*program, "give", work, address, str(mebibytes)),
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as giving:
        assert giving.stdout is not None
        if giving.stdout.readline().strip() != peerside.READY:
            raise BenchError("what gives the checkpoint has not begun: see its output above")
        # Leaving the context closes its standard input, and waits for its end.
        return commands.run(
            target.machine.in_network(*program, "get", work, address, str(runs)),
            env=env,
            timeout_seconds=LIMIT_SECONDS,
        )


def results(said: str, stage: Stage, scenario: PeerScenario, load: conditions.Load) -> list[Result]:
    """Return what the program's lines mean. Raises BenchError if there are none."""
    pairs = [json.loads(line) for line in said.splitlines()]
    if not pairs:
        raise BenchError("no copy was measured")
    (quantity,) = scenario.quantities
    megabytes = scenario.mebibytes * (1 << 20) / 1e6
    return [
        Result(
            name=quantity.name,
            unit=quantity.unit,
            spread=Spread.of([pair["plain"] / pair["ours"] for pair in pairs]),
            goal=quantity.goal,
            at_least=quantity.at_least,
            baseline={
                "ours, MB/s": Spread.of([megabytes / pair["ours"] for pair in pairs]),
                "plain copy, MB/s": Spread.of([megabytes / pair["plain"] for pair in pairs]),
            },
            conditions=conditions.line(
                stage.host,
                load,
                notes=(
                    f"{scenario.mebibytes} MiB of random bytes between the networks of two nodes "
                    "of one host, from the page cache into it, by turns",
                    "no wire between them: both sides' cores and one memory are the bound"
                    if scenario.wire_gbps is None
                    else f"{scenario.wire_gbps:g} Gb/s between them (tc htb), as by a wire",
                    "plain copy: sendfile over one connection, no encryption, no hash",
                ),
            ),
            wanted=scenario.runs,
        )
    ]
