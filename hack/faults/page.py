"""``python -m faults.page``: write what the runs have shown into ``docs/reliability.md``.

Two sections of it are these runs' alone, "Every fault" and "Soak"; the others stay as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from faults import CHECKOUT, matrix, results
from faults.matrix import CLUSTER_FAULTS, FAULTS, MACHINE_FAULTS, STEPS, Fault
from faults.results import Result

PAGE: Final = CHECKOUT / "docs" / "reliability.md"
TITLE: Final = "# Reliability\n"
EVERY_FAULT: Final = "Every fault"
SOAK: Final = "Soak"

STEP_TEXTS: Final = {
    "create": "the lower runtime creates the container; it waits in a `createRuntime` hook",
    "start": "the lower runtime is about to begin its application",
    "awake": "nothing is under way but its clients' requests",
    "before-hold": "the keeper was asked for a sleep, and packets do not wait yet",
    "freezing": "CRIU has its code in the application, and begins to write its memory",
    "dump": "all memory is written, and the application still exists",
    "after-dump": "the application is gone, and the keeper does not know yet",
    "asleep": "",
    "before-restore": "a packet has come, and CRIU was not asked yet",
    "restore": "half of the application's tree is there",
    "before-release": "the application runs again, and what was held still waits",
    "stop": "the application has got SIGTERM and uses its grace period",
    "delete": "the container has ended; `delete` waits in a `poststop` hook",
}
"""By the names of the matrix."""

HOW: Final = """\
    make faults                                     # all: build/faults.json, faults-cluster.json
    make faults CLUSTER=no                          # only what needs no cluster
    make faults FAULTS='keeper @dump criu@restore'  # a fault, a step, a pair
    make faults FAULTS='--new 20'                   # 20 at random that were not tried yet
    make faults FAULTS=--list                       # the matrix, and why some pairs are not tried

One thing at a time is killed or broken at one step of a container's life, while clients ask the
application over new connections, a kept one, with uploads (IPv4, IPv6) and with numbered datagrams.
After it:

- the application goes on with its memory, compared by a digest, and no client saw an error (✓); or
  its container ended and was started anew, and the loss was said, by an event or by its exit
  status, where the matrix allows that (↻); or it sleeps on and says why, with its image
  untouched (…); or, where its node lost its power, it sleeps on in its next container, and wakes
  with its memory (☾);
- it can sleep and wake once more, and what waited was answered;
- nothing is left: processes, descriptors of keeper, warden and CRIU, mounts, network namespaces,
  packet queues, rules, cgroups, UNIX sockets and files are compared with what there was before;
- the keeper's log has no defect in it.

No product code knows of this. The lower runtime is stopped in OCI hooks. It, keeper and CRIU
are stopped by the kernel where they open a certain file (fanotify's permission events): they wait
there until the harness answers, and can be killed there. The disk of the images is a file system
of its own on a loop device, so that it can be filled, frozen, broken, and copied as it is at one
moment: that copy is all that a node has after its power failed.

`make test` tries a sample of the pairs on a node, `make test-long` all pairs, also in a cluster.
"""


OWN_MACHINE: Final = """\
### In a machine of its own

    make test-vm                                               # a sample, among other tests
    make test-vm PYTEST_ARGS=tests/machine FAULTS=clock-ahead  # a fault, at every step

The wall clock is the whole machine's: there is no namespace of it. It is set in the virtual machine
of `make test-vm`, which says what came of each pair. At each step nothing is allowed but that the
application goes on and no client notices.
"""


def every_fault(node: dict[str, Any] | None, cluster: dict[str, Any] | None) -> str:
    """Return the section on faults."""
    parts = [HOW, "| step | |\n| --- | --- |"]
    parts[-1] += "".join(f"\n| `{step}` | {STEP_TEXTS[step]} |" for step in STEPS)
    parts.append(_run("### On a node", node, FAULTS))
    parts.append(OWN_MACHINE)
    parts.append(results.reasons(MACHINE_FAULTS))
    parts.append(_run("### In the cluster", cluster, CLUSTER_FAULTS))
    return "\n\n".join(part.strip("\n") for part in parts)


def _run(title: str, value: dict[str, Any] | None, faults: Sequence[Fault]) -> str:
    found = [Result(**each) for each in value["results"]] if value else []
    planned = len(matrix.tried(faults=faults))
    told = "Not run yet."
    if value is not None:
        told = (
            f"{value['tried']} of {planned} pairs were tried and {value['survived']} survived, "
            f"with {value['leaks']} leaks; an empty cell is a pair that was not tried in this run. "
            f"Conditions: {value['conditions']}."
        )
    table, why = results.table(found, faults=faults), results.reasons(faults)
    return "\n\n".join([title, told, table, why])


SOAK_HOW: Final = """\
    make soak                       # 1,000 cycles over 20 pods: build/soak.json
    make soak SOAK_CYCLES=200

Twenty pods on two nodes are put to sleep again and again, at random moments, and woken by what
their clients ask: each pod over new connections and over a kept one, through its Service, IPv4 and
IPv6. Nobody repeats a request; one without an answer is an error. Leaks are what is on the nodes
afterwards that was not there before. A cycle is one sleep and one wake.
"""
SOAK_MEANING: Final = """\
A request is from a client's `connect`, or its request on the kept connection, to the last byte;
many of them wake a pod. Sleeps and wakes are as the keepers tell them, with twenty pods side
by side on these cores.
"""


def soak(value: dict[str, Any] | None) -> str:
    """Return the section on the soak."""
    if value is None:
        return SOAK_HOW
    rows = ["| ms | p50 | p90 | p99 | longest |", "| --- | --- | --- | --- | --- |"]
    for name, spread in value["percentiles"].items():
        cells = " | ".join(f"{spread[key]:.0f}" for key in ("p50", "p90", "p99", "max"))
        rows.append(f"| {name} | {cells} |")
    counted = ", ".join(
        f"{value[key]} {key}" for key in ("requests", "errors", "restarts", "leaks")
    )
    ran = f"{value['cycles']} cycles over {value['pods']} pods in {value['seconds']:.0f} s"
    return "\n\n".join(
        [
            SOAK_HOW.strip("\n"),
            f"{ran}: {counted}. Conditions: {value['conditions']}.",
            "\n".join(rows),
            SOAK_MEANING,
        ]
    )


def with_section(page: str, title: str, text: str) -> str:
    """Return *page* with the section *title* replaced by *text*, or added at its end."""
    body = text.strip("\n")
    section = f"## {title}\n\n{body}\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    if found is None:
        return f"{page.rstrip()}\n\n{section}"
    rest = page[found.end() :]
    return page[: found.start()] + section + (f"\n{rest}" if rest else "")


def _read(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    value: dict[str, Any] = json.loads(file.read_text())
    return value


def main(words: list[str] | None = None) -> int:
    """Write the page's two sections."""
    made = argparse.ArgumentParser(prog="faults.page", description=__doc__)
    made.add_argument("--build", type=Path, default=CHECKOUT / "build", metavar="DIRECTORY")
    made.add_argument("--page", type=Path, default=PAGE)
    options = made.parse_args(words)
    page = options.page.read_text() if options.page.exists() else TITLE
    node, cluster = (_read(options.build / name) for name in ("faults.json", "faults-cluster.json"))
    page = with_section(page, EVERY_FAULT, every_fault(node, cluster))
    soaked = _read(options.build / "soak.json")
    if soaked is not None or f"\n## {SOAK}\n" not in page:  # else the figures are an earlier run's
        page = with_section(page, SOAK, soak(soaked))
    options.page.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
