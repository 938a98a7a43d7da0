"""Fuzz one target in this process, guided by what its inputs reach: ``fuzz.campaign TARGET …``.

Started by :mod:`fuzz.__main__`, with libFuzzer's options behind the target's name. Only the target
and our own code are instrumented.
"""

from __future__ import annotations

import random
import sys

import atheris

from fuzz.harness import Target
from fuzz.mutations import MAX_BYTES


def main() -> None:
    """Fuzz until libFuzzer has enough, or finds something."""
    program, name, *options = sys.argv
    with atheris.instrument_imports(
        include=["architect", "fuzz.targets"], enable_loader_override=False
    ):
        target = Target.load(name)
    seeds = target.seeds()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random_ = random.Random(seed)
        # Half of them are libFuzzer's own, which knows what was compared with what.
        if random_.randrange(2):
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(random_, data, seeds)[:max_size]

    atheris.Setup([program, f"-max_len={MAX_BYTES}", *options], target.run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
