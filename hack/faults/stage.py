"""The pairs of the matrix, one after the other, on nodes without Kubernetes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from faults import trial
from faults.matrix import Pair
from faults.node import Node
from faults.pod import Pod
from faults.results import Result


class Stage:
    """The node that is there now; another one where a fault leaves none that can be used."""

    def __init__(self, directory: Path, *, bundle: Path) -> None:
        self._directory = directory
        self._bundle = bundle
        self._numbers = itertools.count(1)
        self._node: Node | None = None

    def node(self) -> Node:
        """Return the node, on which a pod has run already: what is made once is made."""
        if self._node is None:
            self._node = self._new(None)
        return self._node

    def _new(self, disk_file: Path | None) -> Node:
        made = Node(
            self._directory / f"node-{next(self._numbers)}",
            bundle=self._bundle,
            disk_file=disk_file,
        )
        made.start_keeper()
        if disk_file is None:
            pod = Pod(made)
            try:
                pod.run()
                pod.sleep()
                pod.who()
            finally:
                pod.close()
        return made

    def after_power_cut(self) -> Node:
        """Return a node with what was on the disk of the last one: its ``after.img``."""
        old, self._node = self._node, None
        assert old is not None
        # First: it ends whatever keeper there is of this bundle, and none is its own any more.
        old.close()
        self._node = self._new(old.directory / "after.img")
        return self._node

    def run(self, pair: Pair) -> Result:
        """Try one pair."""
        result = trial.run(pair, self.node(), renew=self.after_power_cut)
        if pair.fault.ends_host or not result.has_survived:
            # What failed may have left something: it is not held against the next one.
            self.close()
        return result

    def close(self) -> None:
        """Remove the node."""
        old, self._node = self._node, None
        if old is not None:
            old.close()


@contextmanager
def opened(directory: Path, *, bundle: Path) -> Iterator[Stage]:
    """A stage of which nothing is left afterwards."""
    made = Stage(directory, bundle=bundle)
    try:
        yield made
    finally:
        made.close()


def run(
    stage: Stage, pairs: Sequence[Pair], *, tell: Callable[[str], None] = print
) -> Iterator[Result]:
    """Try all *pairs*, and tell each result as it comes."""
    for number, pair in enumerate(pairs, start=1):
        result = stage.run(pair)
        tell(f"{number}/{len(pairs)} {result} [{result.seconds} s]")
        yield result
