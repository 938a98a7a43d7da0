"""The command that tries the applications and writes ``docs/workloads.md``."""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from applications import catalogue, page, trial
from applications.entry import Entry
from applications.results import Conditions, Results
from demo.errors import DemoError
from lab import dockerfiles, interrupts, release
from lab import errors as lab_errors
from lab.cluster import Cluster
from lab.progress import Progress

PAGE: Final = dockerfiles.CHECKOUT / "docs" / "workloads.md"
OUTPUT: Final = dockerfiles.CHECKOUT / "build" / "workloads.json"
LOGS: Final = dockerfiles.CHECKOUT / "build" / "workloads-logs"


def main(words: list[str] | None = None) -> int:
    """Try the applications. Exit status 1 if one did anything else than what was expected."""
    options = parser().parse_args(words)
    if os.geteuid() != 0:
        print("applications: namespaces, mounts and cgroups need root", file=sys.stderr)
        return 1
    known = {entry.name: entry for entry in catalogue.ALL}
    chosen = [known[name] for name in options.only or known]
    interrupts.handle()
    cluster = Cluster(progress=Progress())
    found = Results.read(options.output)
    failed: list[str] = []
    try:
        if not options.attach:
            with cluster.progress.step(f"cluster of {options.nodes} nodes with Architect"):
                cluster.up(options.nodes)
                release.install(cluster)
        run(cluster, chosen, found=found, failed=failed, output=options.output)
    except (lab_errors.LabError, OSError) as error:
        failed.append(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        failed.append("interrupted")
    if failed:
        print("\n".join(f"FAILED  {text}" for text in failed), file=sys.stderr)
        return 1
    missing = [entry.name for entry in catalogue.ALL if entry.name not in found.rows]
    if missing:
        print(f"{options.page} is not written: not tried yet: {', '.join(missing)}")
        return 0
    Path(options.page).write_text(page.write(catalogue.ALL, found.rows, found.told_conditions()))
    print(f"written: {options.page}, {options.output}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m applications``."""
    made = argparse.ArgumentParser(
        prog="applications", description="Real applications sleep and wake under their clients."
    )
    made.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[entry.name for entry in catalogue.ALL],
        help="one application; can be repeated. The rows of others stay as they are",
    )
    made.add_argument("--nodes", type=int, default=2)
    made.add_argument(
        "--attach",
        action="store_true",
        help="use the running cluster and what is installed in it as they are",
    )
    made.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE")
    made.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    return made


def run(
    cluster: Cluster,
    chosen: Sequence[Entry],
    *,
    found: Results,
    failed: list[str],
    output: Path,
) -> None:
    """Try each of *chosen*; *output* is written after each, *failed* has what went wrong."""
    namespace = f"applications-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", namespace)
    try:
        for entry in chosen:
            load = os.getloadavg()[0]
            try:
                row = trial.run(cluster, entry, namespace=namespace)
            except (DemoError, lab_errors.LabError) as error:
                cluster.progress.say(f"{entry.name}: {error}")
                failed.append(f"{entry.name}: {str(error).splitlines()[0]:.300}")
                continue
            found.add(row, conditions(cluster, load=load))
            found.write(output)
            cluster.progress.say(page.brief(row))
        if failed:
            shutil.rmtree(LOGS, ignore_errors=True)
            cluster.collect_logs(LOGS)
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def conditions(cluster: Cluster, *, load: float) -> Conditions:
    """Return what a row was measured under."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    groups = cluster.nodes[0].exec(["stat", "--file-system", "--format=%T", "/sys/fs/cgroup"])
    version = 2 if groups.strip() == "cgroup2fs" else 1
    cores = len(os.sched_getaffinity(0))
    host = f"{today}, Linux {os.uname().release}, cgroup v{version}, {cores} cores"
    return Conditions(host=host, load=load)


if __name__ == "__main__":
    sys.exit(main())
