"""The command line of the fault harness."""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from faults import CHECKOUT, matrix, results, stage
from faults.cluster import place as places
from faults.cluster import stage as cluster_stage
from faults.conditions import conditions, in_cluster
from faults.errors import FaultError
from faults.matrix import CLUSTER_FAULTS, FAULTS, Pair
from faults.results import Result
from lab import dockerfiles, interrupts, release
from lab import errors as lab_errors
from lab.cache import Cache
from lab.cluster import Cluster
from lab.progress import Progress
from lab.settings import Settings
from support import runtime

BUILD: Final = CHECKOUT / "build"
NODE, CLUSTER = "node", "cluster"
FAULTS_OF: Final = {NODE: FAULTS, CLUSTER: CLUSTER_FAULTS}
FILES: Final = {NODE: "faults.json", CLUSTER: "faults-cluster.json"}


def main(words: list[str] | None = None) -> int:
    """Try the matrix. Exit status 1 if something did not survive."""
    options = parser().parse_args(words)
    stages = [NODE, CLUSTER] if options.stage is None else [options.stage]
    if options.list:
        for where in stages:
            faults = FAULTS_OF[where]
            print(f"{results.table([], faults=faults)}\n\n{results.reasons(faults)}\n")
        return 0
    if os.geteuid() != 0:
        print("faults: namespaces, mounts and cgroups need root", file=sys.stderr)
        return 1
    try:
        every = [fault for where in stages for fault in FAULTS_OF[where]]
        pairs = matrix.tried(options.only, faults=every)
    except ValueError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 2
    interrupts.handle()
    return max([_try(where, pairs, options) for where in stages])


def _try(where: str, chosen: Sequence[Pair], options: argparse.Namespace) -> int:
    """Try those of the *chosen* pairs that are tried there; return the exit status."""
    faults = FAULTS_OF[where]
    pairs = [pair for pair in chosen if pair.fault in faults]
    output = options.build / FILES[where]
    known = results.read(output) if options.keep or options.new else []
    if options.new:
        pairs = results.untried(pairs, known)
        random.shuffle(pairs)
        del pairs[options.new :]
    if not pairs:
        return 0
    found = results.without(known, pairs)
    failed: list[str] = []
    try:
        for result in _on_cluster(pairs, options) if where == CLUSTER else _on_nodes(pairs):
            found.append(result)
            # After each: whatever happens later, what was tried is there.
            results.write(
                results.summary(found, stage=where, conditions=_conditions(where, options)), output
            )
    except (FaultError, lab_errors.LabError, OSError, AssertionError) as error:
        failed.append(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        failed.append("interrupted")
    survived = sum(result.has_survived for result in found)
    print(f"\n{results.table(found, faults=faults)}\n")
    print(f"{survived} of {len(found)} survived; written to {output}")
    failed += [str(result) for result in found if not result.has_survived]
    for text in failed:
        print(f"FAILED  {text}", file=sys.stderr)
    return 1 if failed else 0


def _conditions(where: str, options: argparse.Namespace) -> str:
    if where == NODE:
        return conditions()
    return in_cluster(Cluster.attach().nodes[-1], is_attached=options.attach)


def _on_nodes(pairs: Sequence[Pair]) -> Iterator[Result]:
    """Try *pairs* on nodes without Kubernetes."""
    cache = Cache(Settings.from_environment().cache)
    if "ARCHITECT_CRIU" not in os.environ:
        os.environ["ARCHITECT_CRIU"] = str(dockerfiles.native_programs(cache) / "architect-criu")
    with tempfile.TemporaryDirectory(prefix="architect-faults-") as name:
        directory = Path(name)
        bundle = runtime.build_bundle(directory / "bundle")
        with stage.opened(directory, bundle=bundle) as opened:
            yield from stage.run(opened, pairs, tell=Progress().say)


def _on_cluster(pairs: Sequence[Pair], options: argparse.Namespace) -> Iterator[Result]:
    """Try *pairs* in the development cluster."""
    cluster = Cluster(progress=Progress())
    if not options.attach:
        with cluster.progress.step(f"cluster of {options.nodes} nodes with Architect"):
            cluster.up(options.nodes)
            release.install(cluster)
    with places.opened(cluster, cluster.nodes[-1]) as place:
        for _, group in itertools.groupby(pairs, key=lambda pair: pair.fault.name):
            yield from cluster_stage.run(place, list(group), tell=cluster.progress.say)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m faults``."""
    made = argparse.ArgumentParser(
        prog="faults",
        description="Break one thing at a time, at every step of a container's life.",
    )
    made.add_argument(
        "only",
        nargs="*",
        metavar="FAULT@STEP",
        help="that pair; FAULT or @STEP: all of it (default: the whole matrix)",
    )
    made.add_argument(
        "--stage",
        choices=(NODE, CLUSTER),
        help="a node without Kubernetes, or the development cluster (default: both)",
    )
    made.add_argument("--list", action="store_true", help="print the matrix and try nothing")
    made.add_argument("--keep", action="store_true", help="keep results of pairs not tried now")
    made.add_argument(
        "--new",
        type=int,
        metavar="N",
        help="only pairs without a result, N at most, at random; results are kept",
    )
    made.add_argument("--build", type=Path, default=BUILD, metavar="DIRECTORY")
    made.add_argument("--nodes", type=int, default=2, help="of the cluster")
    made.add_argument(
        "--attach",
        action="store_true",
        help="use the running cluster and what is installed in it as they are",
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
