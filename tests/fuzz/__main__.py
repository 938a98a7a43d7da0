"""Fuzz the parsers, one after the other: ``make fuzz``.

::

    python -m fuzz [TARGET …] [--seconds N]     look for inputs that break them
    python -m fuzz --again FILE                 run one input once more, and show where it breaks

Without a name it is all targets, ``N`` seconds each (:envvar:`FUZZ_SECONDS`). What was reached is
kept in ``build/fuzz/<target>/corpus`` (``--into``) and gone on from the next time. An input that
breaks its target is kept beside it, and shown with the command that runs it again; the other
targets follow, and the whole fails.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from fuzz import harness
from fuzz.harness import Target

INTO: Final = harness.HERE.parents[1] / "build" / "fuzz"

TIMEOUT_SECONDS: Final = 25
"""For one input; the longest take some milliseconds, on a machine that has nothing else to do."""
MEMORY_MIB: Final = 1024
"""More than any parser may take for 64 KiB."""

_STATISTICS = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_REACHED = re.compile(r"cov: (\d+)")


def main() -> int:
    """Carry out the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(harness.names()))
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("FUZZ_SECONDS") or 60))
    parser.add_argument("--again", type=Path, metavar="FILE", help="below the name of its target")
    parser.add_argument("--into", type=Path, default=INTO, metavar="DIRECTORY")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(harness.names()):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {harness.names()}")
    if asked.again is not None:
        return again(asked.again)
    chosen = asked.targets or harness.names()
    print(f"==> Fuzzing {len(chosen)} parsers, {asked.seconds} s each", flush=True)
    found = [path for name in chosen for path in fuzz(name, asked.into, seconds=asked.seconds)]
    if not found:
        print(f"==> Nothing found; what was reached is in {asked.into}")
        return 0
    print("==> Inputs that break their parser:")
    for path in found:
        print(f"    {path}\n        make fuzz AGAIN={path}")
    print(
        "==> Once mended, keep each: copy it to tests/fuzz/corpus/<target>/ under a name that says "
        "what it is"
    )
    return 1


def fuzz(name: str, into: Path, *, seconds: int) -> list[Path]:
    """Fuzz one target below *into*, and return the inputs that break it."""
    corpus, broken = into / name / "corpus", into / name / "broken"
    for directory in (corpus, broken):
        directory.mkdir(parents=True, exist_ok=True)
    for seed in Target.load(name).seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    before = set(broken.iterdir())
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "fuzz.campaign", name, corpus),
            f"-max_total_time={seconds}",
            f"-timeout={TIMEOUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-artifact_prefix={broken}/",
            "-print_final_stats=1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    new = sorted(set(broken.iterdir()) - before)
    runs, reached = _STATISTICS.search(ended.stdout), _REACHED.findall(ended.stdout)
    print(
        f"    {name:<16} {int(runs[1]) if runs else 0:>9} runs, {reached[-1] if reached else '?'} "
        f"places reached{', BROKEN' if ended.returncode else ''}",
        flush=True,
    )
    if ended.returncode and not new:
        raise SystemExit(f"{ended.stdout[-4000:]}\n{name} ended with {ended.returncode}")
    if ended.returncode:
        print(ended.stdout[-4000:])
    return new


def again(path: Path) -> int:
    """Run one input, whose target is named by a directory above it; a defect is a traceback."""
    data = path.read_bytes()
    name = next((part.name for part in path.resolve().parents if part.name in harness.names()), "")
    if not name:
        raise SystemExit(f"{path} lies below the name of no target")
    print(f"==> {name}: {len(data)} bytes\n{data[:2000]!r}", flush=True)
    Target.load(name).run(data)
    print("==> It breaks nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
