"""What runs in the machine: kernel tests, or cluster tests with a cluster for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vm import guest, job
from vm.machine import Size

LAB: Final = ("python3", "-m", "lab")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A kind of tests, and what they need."""

    sample: tuple[str, ...]
    """What runs if pytest is given no path."""
    size: Size
    patience: float
    """By what every deadline is multiplied: emulation is so much slower, and more."""
    test_seconds: float
    """A single test's bound, before it is multiplied."""
    has_cluster: bool = False

    def argv(self, asked: Sequence[str], *, patience: float) -> list[str]:
        """Return the command line for *asked*, pytest's arguments after an optional ``--``."""
        words = list(asked[1:] if asked[:1] == ["--"] else asked)
        if not any(word.startswith("tests/") for word in words):
            words += self.sample
        tests = [
            *("python3", "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"),
            # Debian's /tmp is a tmpfs, where the product keeps no memory images.
            *("--basetemp=/var/tmp/tests", "-o", "tmp_path_retention_policy=failed"),
            f"--timeout={self.test_seconds * patience:.0f}",
            *words,
        ]
        if not self.has_cluster:
            return tests
        run = [*LAB, "run", "--nodes", "1", "--logs", f"{guest.LOGS}/tests", "--", *tests]
        look = " ".join((*LAB, "prerequisites", "--kernel"))
        return ["sh", "-c", f'{look} && exec "$@"', "sh", *run]

    def environment(self, *, patience: float) -> dict[str, str]:
        """Return what lab and tests are told."""
        told = {
            "PYTHONPATH": ":".join(job.FOLDERS),
            "PYTHONDONTWRITEBYTECODE": "",
            "ARCHITECT_PATIENCE": f"{patience:g}",
            "ARCHITECT_CRIU": f"/job/{job.PROGRAMS}/architect-criu",
            "ARCHITECT_REQUIRE": "kernel",
            "ARCHITECT_OWN_MACHINE": "1",
        }
        if faults := os.environ.get("FAULTS"):
            told["FAULTS"] = faults
        if self.has_cluster:
            told |= {"ARCHITECT_CACHE": str(guest.CACHE), "ARCHITECT_LAB": str(guest.STATE)}
        return told


KERNEL: Final = Suite(
    # What a v2 node does differently: cgroups of restored trees, limits, freezing, nft's queue.
    sample=(
        "tests/kernel/keeper",
        "tests/kernel/shim/test_asleep.py",
        "tests/kernel/hold/test_sleeping_sockets.py",
        "tests/kernel/packets",
        "tests/machine",
    ),
    size=Size(),
    patience=30.0,
    test_seconds=60.0,
)
CLUSTER: Final = Suite(
    sample=("tests/cluster/test_main_path.py",),
    size=Size(processors=2, memory="8G", minutes=150.0),
    # Deadlines of the cluster are generous already.
    patience=10.0,
    test_seconds=300.0,
    has_cluster=True,
)
