"""Run pytest, and whatever fails once more, alone: does it fail, or is it unstable?

Tests with a real kernel and a real cluster share a machine with everything else that runs there. A
failure that shows again is a failure. One that does not is told as such, with the output of both
runs, and kept in a list that the last line of `make test` repeats: it is a defect of a test, or a
race of the product, and is mended before anything else. More than a few failures are never looked
at again, nor is a run that was to end with its first failure, of which the rest was never run. Unit
tests are not: they share nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MOST: Final = 3
"""How many failures may be looked at again; more are no accident."""

FAILED: Final = 1
"""Pytest's exit status when tests failed (https://docs.pytest.org, "Exit codes")."""

NOTES: Final = Path("build/unstable.json")


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m secondlook``."""
    made = argparse.ArgumentParser(prog="secondlook", description=sys.modules[__name__].__doc__)
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--forget", action="store_true", help="begin a new list of unstable tests")
    what.add_argument("--tell", action="store_true", help="print the list")
    what.add_argument("--of", metavar="NAME", help="run pytest; NAME is this run's in the list")
    made.add_argument("argv", nargs=argparse.REMAINDER, help="-- and pytest's arguments")
    return made


def main(words: Sequence[str] | None = None) -> int:
    """Return pytest's exit status: the second one's, if what failed was looked at again."""
    options = parser().parse_args(words)
    if options.forget:
        NOTES.unlink(missing_ok=True)
        return 0
    if options.tell:
        tell(unstable())
        return 0
    argv = [word for position, word in enumerate(options.argv) if (position, word) != (0, "--")]
    return run(options.of, argv)


def run(name: str, argv: Sequence[str]) -> int:
    """Run pytest with *argv*, and what fails again; note what passes then."""
    cache = Path("build/pytest", name)
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}", *argv]
    status = subprocess.run(command, check=False).returncode
    tests = failures(cache)
    if status != FAILED or not tests:
        return status
    is_off = os.environ.get("ARCHITECT_SECOND_LOOK") == "no"
    if len(tests) > MOST or is_off or ends_early(argv):
        print(f"secondlook: {len(tests)} tests failed; they are not run again", flush=True)
        return status
    print(f"\nsecondlook: run again, alone: {', '.join(tests)}", flush=True)
    again = ["--last-failed", "--last-failed-no-failures=none"]
    if any(word.startswith("--numprocesses") for word in argv):
        again.append("--numprocesses=0")  # one after the other
    status = subprocess.run([*command, *again], check=False).returncode
    if status == 0:
        NOTES.parent.mkdir(exist_ok=True)
        NOTES.write_text(json.dumps([*unstable(), *tests], indent=2) + "\n")
        tell(tests)
    return status


def ends_early(argv: Sequence[str]) -> bool:
    """Whether pytest is to end with one of the first failures (``-x``, ``--maxfail``)."""
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *argv]
    return any(re.match(r"-[a-z]*x|--exitfirst|--maxfail|--stepwise|--sw\b", w) for w in words)


def failures(cache: Path) -> list[str]:
    """Return what pytest's cache says of its last run: the ids of the tests that failed."""
    try:
        found = json.loads((cache / "v/cache/lastfailed").read_text())
    except FileNotFoundError:
        return []
    return sorted(found)


def unstable() -> list[str]:
    """Return the tests that have failed once and passed alone since the list was begun."""
    return json.loads(NOTES.read_text()) if NOTES.exists() else []


def tell(tests: Sequence[str]) -> None:
    """Print what is unstable, if anything is."""
    for test in tests:
        print(f"UNSTABLE: {test} failed, and passed alone: mend it first", flush=True)


if __name__ == "__main__":
    sys.exit(main())
