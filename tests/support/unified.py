"""The cgroup of a test's host on a machine that has cgroup v2 only.

There a cgroup with processes in it, such as the session that the tests run in, cannot hand
controllers down. So each host gets a cgroup at the top of what is mounted, with its own processes
in a leaf and containers beside it, as on a node.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lab import cgroups
from support.patience import patient

LEAF = "tests"
REMOVAL_SECONDS = patient(90.0)
"""A cgroup is busy until the last process in it is reaped."""


class Unified:
    """One host's cgroup."""

    def __init__(self) -> None:
        (hierarchy,) = cgroups.hierarchies()
        cgroups.delegate(hierarchy.mount)
        self.directory = Path(tempfile.mkdtemp(prefix="architect-tests-", dir=hierarchy.mount))
        self.leaf = self.directory / LEAF
        self.leaf.mkdir()

    @staticmethod
    def is_needed() -> bool:
        """Whether version 2 is all there is; on a hybrid host version 1 has the controllers."""
        return [hierarchy.version for hierarchy in cgroups.hierarchies()] == [2]

    def rooted(self, words: Sequence[str | Path]) -> list[str]:
        """Return *words* as a command line whose own cgroup namespace would have its root here."""
        return _inside(self.directory, words)

    def inside(self, words: Sequence[str | Path]) -> list[str]:
        """Return *words* as a command line that runs among the host's own processes."""
        return _inside(self.leaf, words)

    def hand_down(self, holder: int) -> None:
        """Move the process *holder* to the leaf and give containers all controllers.

        Raises AssertionError if there are too few of them.
        """
        (self.leaf / "cgroup.procs").write_text(str(holder))
        cgroups.delegate(self.directory)
        missing = cgroups.REQUIRED - set(
            (self.directory / "cgroup.subtree_control").read_text().split()
        )
        assert not missing, (
            f"{self.directory.parent} does not hand down {', '.join(sorted(missing))}"
        )

    def remove(self) -> None:
        """Remove what is left of it; what still runs in it is an error."""
        deadline = time.monotonic() + REMOVAL_SECONDS
        for folder, _, _ in os.walk(self.directory, topdown=False):
            while True:
                try:
                    os.rmdir(folder)
                    break
                except FileNotFoundError:
                    break  # who made it has removed it
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)


def _inside(directory: Path, words: Sequence[str | Path]) -> list[str]:
    enter = 'echo 0 >"$0" && exec "$@"'
    return ["sh", "-c", enter, str(directory / "cgroup.procs"), *map(str, words)]
