"""What a target is, and where its inputs come from.

A target is a module of :mod:`fuzz.targets` for one parser. It has

``run(data)``
    Gives *data* to the parser. Errors that the parser declares are no news and end there; whatever
    else is raised is a defect, and so is an answer that breaks a promise of the parser.
``seeds()``
    Inputs as they are when all is well. They are made by our own code where there is some, so that
    they stay right when a format changes.
``MUTATE``
    How inputs are made from others: :mod:`fuzz.mutations`.

Files in ``corpus/<target>`` are inputs that once showed a defect, or that no ``seeds()`` would
think of. Their names say what they are.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fuzz import targets
from fuzz.mutations import Mutate

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"


def names() -> list[str]:
    """Return the names of all targets."""
    return sorted(found.name for found in pkgutil.iter_modules(targets.__path__))


@dataclass(frozen=True)
class Target:
    """One parser, ready to be given anything."""

    name: str
    module: Any

    @classmethod
    def load(cls, name: str) -> Target:
        """Return the target *name*, importing the parser."""
        return cls(name, importlib.import_module(f"fuzz.targets.{name}"))

    def run(self, data: bytes) -> None:
        """Give *data* to the parser. Raises whatever is a defect."""
        self.module.run(data)

    @property
    def mutate(self) -> Mutate:
        """How inputs are made from others."""
        made: Mutate = self.module.MUTATE
        return made

    def seeds(self) -> list[bytes]:
        """Return what runs begin with: seeds, and the files of the corpus."""
        own: Iterable[bytes] = self.module.seeds()
        return [*own, *(file.read_bytes() for file in self.files())]

    def files(self) -> list[Path]:
        """Return the files of the corpus."""
        return sorted((CORPUS / self.name).glob("*"))

    def inputs(self, runs: int) -> Iterator[bytes]:
        """Yield the seeds, and *runs* inputs made of them: the same ones each time."""
        seeds = self.seeds()
        yield from seeds
        random_ = random.Random(self.name)
        for _ in range(runs):
            yield self.mutate(random_, random_.choice(seeds), seeds)
