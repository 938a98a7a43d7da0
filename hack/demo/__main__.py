"""The command line of the demonstration."""

from __future__ import annotations

import argparse
import http.client
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from demo import drain, results, spot, stage, warm
from demo.errors import DemoError
from demo.results import Result
from demo.stage import Example
from lab import commands, dockerfiles, interrupts, release
from lab import errors as lab_errors
from lab.cluster import Cluster
from lab.progress import Progress

OUTPUT: Final = dockerfiles.CHECKOUT / "build" / "demo.json"
SPOT_OUTPUT: Final = OUTPUT.with_name("demo-spot.json")
SPOT_NEXT: Final = f"""\
Cluster and pods are still there, with a new machine in the old one's place. What to look at:

  make cluster-shell                     # a shell with kubectl and helm; in it:
  kubectl config set-context --current --namespace={stage.NAMESPACE}
  kubectl get pods -l example=spot -o wide
  kubectl get checkpoints -o wide        # trigger SpotInterruption
  kubectl describe checkpoints           # when each was captured, stored, restored; or why not
  kubectl get events -A --field-selector involvedObject.kind=Node

  make demo-down                         # remove all of it
"""
NEXT: Final = f"""\
The cluster and the applications are still there. What to try next:

  make cluster-shell                     # a shell with kubectl and helm; in it:
  kubectl config set-context --current --namespace={stage.NAMESPACE}
  kubectl get pods -L status.architect.dev/counter,status.architect.dev/valkey
  kubectl describe pod -l app=counter    # its events: Slept after …, Woke after …
  kubectl exec -it deploy/postgresql -- psql -U postgres           # wakes it
  kubectl -n architect scale deployment --all --replicas=0         # and it still wakes
  kubectl get checkpoints -o wide        # by which the drained pods moved, and warm ones started
  kubectl describe persistentcheckpoint counter-warm

  make demo-down                                      # remove all of it
"""


def main(words: list[str] | None = None) -> int:
    """Run the demonstration, or remove it. Exit status 1 if anything could not be shown."""
    parser = argparse.ArgumentParser(prog="demo", description="Pods that sleep, wake and move.")
    parser.add_argument("command", nargs="?", choices=("run", "spot", "down"), default="run")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="where the results go, as JSON")
    arguments = parser.parse_args(words)
    if os.geteuid() != 0:
        print("demo: namespaces, mounts and cgroups need root", file=sys.stderr)
        return 1
    interrupts.handle()
    cluster = Cluster(progress=Progress())
    try:
        if arguments.command == "down":
            cluster.down()
            return 0
        tell = run_spot if arguments.command == "spot" else run
        found = tell(cluster, nodes=arguments.nodes)
    except (DemoError, lab_errors.LabError, OSError, http.client.HTTPException) as error:
        print(f"\ndemo: failed: {type(error).__name__}: {error}", file=sys.stderr)
        if arguments.command != "down":
            explain(cluster)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; make demo-down removes what is there", file=sys.stderr)
        return 130
    is_spot = arguments.command == "spot"
    output = arguments.output or (SPOT_OUTPUT if is_spot else OUTPUT)
    results.write(found, output)
    print(f"\n{results.table(found)}\n\nwritten to {output}\n\n{SPOT_NEXT if is_spot else NEXT}")
    return 0


def prepare(cluster: Cluster, *, nodes: int, examples: Sequence[Example] = stage.ALL) -> None:
    """Bring everything up for *examples*, with nothing of an earlier demonstration."""
    progress = cluster.progress
    with progress.step(f"cluster of {nodes} nodes"):
        cluster.up(nodes)
    stage.load_images(cluster, examples)
    with progress.step("Architect"):
        release.install(cluster)
    with progress.step("removing what an earlier demonstration left"):
        stage.clear(cluster)
        cluster.kubectl("uncordon", *(node.name for node in cluster.nodes))
    cluster.kubectl("create", "namespace", stage.NAMESPACE)


def run_spot(cluster: Cluster, *, nodes: int) -> list[Result]:
    """Show what becomes of a spot machine's pods, and return what was measured."""
    prepare(cluster, nodes=nodes, examples=stage.ALL[:1])
    return spot.show(cluster)


def run(cluster: Cluster, *, nodes: int) -> list[Result]:
    """Bring everything up, go through all stories, and return what was measured."""
    prepare(cluster, nodes=nodes)
    progress = cluster.progress
    found: list[Result] = []
    for example in stage.ALL:
        with progress.step(f"{example.name}: kubectl apply -f examples/{example.directory}"):
            app = stage.apply(cluster, example)
        with progress.step(f"{example.name}: sleep and wake"):
            try:
                found += example.story(app).run()
            except (DemoError, OSError, http.client.HTTPException) as error:
                raise DemoError(f"{error}\n{app.diagnosis()}") from error
    return [*found, *drain.show(cluster), *warm.show(cluster)]


def explain(cluster: Cluster) -> None:
    """Leave the logs of all machines, and say where."""
    target = OUTPUT.parent / "demo-logs"
    try:
        cluster.collect_logs(target)
    except (lab_errors.LabError, OSError) as error:
        print(f"demo: the logs could not be gathered: {error}", file=sys.stderr)
        return
    shown = commands.quote([target])
    print(f"demo: logs of all machines are in {shown}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
