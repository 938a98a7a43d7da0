"""A checkpoint of random bytes to the lab's object store and back, beside a plain copy of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from bench import conditions
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result, Spread
from bench.plan import StoreScenario
from bench.stage import Stage
from lab import commands, object_store

LIMIT_SECONDS: Final = 1800.0
RUN_SECONDS: Final = 15.0
"""Of 1 GiB six times on two cores that do everything: to see how many runs the time is for."""


def measure(stage: Stage, scenario: StoreScenario, clock: Clock) -> list[Result]:
    """Run one scenario. Raises BenchError, LabError, OSError."""
    load = conditions.Load()
    runs = max(1, min(scenario.runs, int(clock.left_seconds / RUN_SECONDS)))
    machine = stage.node.machine
    work = Path(tempfile.mkdtemp(prefix="bench-store-", dir=stage.cluster.settings.state))
    try:
        said = commands.run(
            machine.in_network(
                *(sys.executable, "-m", "bench.bucketside", work),
                *(object_store.ENDPOINT, object_store.REGION, object_store.BUCKET),
                *(str(scenario.mebibytes), str(runs)),
            ),
            env=environment(),
            timeout_seconds=LIMIT_SECONDS,
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
        bucket = f"{object_store.DATA}/{object_store.BUCKET}"
        stage.cluster.plane.machine.exec(["rm", "-rf", f"{bucket}/bench"])
    return results(said, stage, scenario, load)


def results(
    said: str, stage: Stage, scenario: StoreScenario, load: conditions.Load
) -> list[Result]:
    """Return what the program's lines mean. Raises BenchError if some are missing."""
    values: dict[str, list[float]] = defaultdict(list)
    for line in said.splitlines():
        told: dict[str, Any] = json.loads(line)
        for name, value in told.items():
            values[name].append(float(value))
    if not values["plain_down"]:
        raise BenchError(f"no copy was measured: {said[-400:]}")
    size = f"{scenario.mebibytes} MiB of random bytes, which compression does not make smaller"
    text = conditions.line(
        stage.host,
        load,
        notes=(
            size,
            f"from the network of {stage.node.name} to versitygw on the same host, over http",
            "plain copy: by awscrt, no encryption, no hash; one object in parts of 8 MiB, and "
            "objects of 8 MiB, as ours are: the faster of these two neighbours counts",
            "what was written is removed before the next transfer",
        ),
    )
    found = []
    for quantity in scenario.quantities:
        if quantity.name.startswith("store.memory."):
            own = [(values["peak_bytes"][0] - values["before_bytes"][0]) / 1e6]
            beside = {"with Python and the daemon's modules": [values["peak_bytes"][0] / 1e6]}
        else:
            way = "up" if ".up." in quantity.name else "down"
            ours = values[way]
            plainly = {
                "plain copy": values[f"plain_{way}"],
                "plain copy in objects of 8 MiB": values[f"plain_{way}_objects"],
            }
            fastest = [min(run) for run in zip(*plainly.values(), strict=True)]
            own = [p / o for p, o in zip(fastest, ours, strict=True)]
            megabytes = scenario.mebibytes * (1 << 20) / 1e6
            beside = {
                f"{name}, MB/s": [megabytes / s for s in seconds]
                for name, seconds in {"ours": ours, **plainly}.items()
            }
        found.append(
            Result(
                name=quantity.name,
                unit=quantity.unit,
                spread=Spread.of(own),
                goal=quantity.goal,
                at_least=quantity.at_least,
                baseline={name: Spread.of(found_) for name, found_ in beside.items()},
                conditions=text,
                wanted=scenario.runs,
            )
        )
    return found


def environment() -> dict[str, str]:
    """Return what a program of the benchmark needs that talks to the lab's object store."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "AWS_ACCESS_KEY_ID": object_store.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": object_store.SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
