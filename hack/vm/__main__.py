"""The command line: run kernel tests of this checkout in a virtual machine."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Final

from lab import commands, dockerfiles, errors
from lab.cache import Cache
from lab.progress import Progress
from lab.settings import Settings
from vm import job, machine
from vm.disk import disk
from vm.emulator import emulator

SAMPLE: Final = (
    "tests/kernel/keeper",
    "tests/kernel/shim/test_asleep.py",
    "tests/kernel/hold/test_sleeping_sockets.py",
    "tests/kernel/packets",
)
"""What a v2 node does differently: cgroups of restored trees, limits, freezing, nft's queue."""
PATIENCE: Final = 30.0
"""Emulation is so much slower."""
TEST_SECONDS: Final = 60.0
"""A single test's bound, before it is multiplied."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m vm``."""
    size = machine.Size()
    made = argparse.ArgumentParser(prog="vm", description=sys.modules[__name__].__doc__)
    made.add_argument("--memory", default=size.memory)
    made.add_argument("--processors", type=int, default=size.processors)
    made.add_argument(
        "--minutes", type=float, default=size.minutes, help="the machine's longest life"
    )
    made.add_argument("--accelerator", default=size.accelerator, choices=("tcg", "kvm"))
    made.add_argument("--patience", type=float, default=PATIENCE, help="factor for all deadlines")
    made.add_argument(
        "argv", nargs=argparse.REMAINDER, help="pytest's arguments; without a path, a sample"
    )
    return made


def main(words: list[str] | None = None) -> int:
    """Run the tests and return pytest's exit status; errors of ours are a line and status 1."""
    options = parser().parse_args(words)
    if os.geteuid() != 0:
        print("vm: building its disk needs root", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        return run(options)
    except errors.LabError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vm: interrupted", file=sys.stderr)
        return 130


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal that ends us. Builds end first, as in the lab."""
    commands.stop_builds()
    raise KeyboardInterrupt


def run(options: argparse.Namespace) -> int:
    """Build what is missing, boot, run, and remove what the run has made."""
    settings = Settings.from_environment()
    progress = Progress()
    cache = Cache(settings.cache, progress=progress)
    runs_on, boots_from = emulator(cache), disk(cache)
    programs = dockerfiles.native_programs(cache)
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=settings.state, prefix="vm-") as name:
        directory = Path(name)
        job.pack(
            directory / "job.tar",
            programs=programs,
            argv=pytest(options.argv, patience=options.patience),
            env=environment(patience=options.patience),
        )
        return machine.run(
            runs_on,
            boots_from,
            job=directory / "job.tar",
            directory=directory,
            size=machine.Size(
                processors=options.processors,
                memory=options.memory,
                minutes=options.minutes,
                accelerator=options.accelerator,
            ),
            progress=progress,
        )


def pytest(argv: list[str], *, patience: float) -> list[str]:
    """Return the command line for *argv*, which may begin with the ``--`` that ends our options."""
    asked = argv[1:] if argv[:1] == ["--"] else argv
    return [
        *("python3", "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"),
        # Debian's /tmp is a tmpfs, where the product keeps no memory images.
        *("--basetemp=/var/tmp/tests", "-o", "tmp_path_retention_policy=failed"),
        f"--timeout={TEST_SECONDS * patience:.0f}",
        *asked,
        *(() if any(word.startswith("tests/") for word in asked) else SAMPLE),
    ]


def environment(*, patience: float) -> dict[str, str]:
    """Return what the tests are told."""
    return {
        "PYTHONPATH": ":".join(job.FOLDERS),
        "PYTHONDONTWRITEBYTECODE": "",
        "ARCHITECT_PATIENCE": f"{patience:g}",
        "ARCHITECT_CRIU": f"/job/{job.PROGRAMS}/architect-criu",
        "ARCHITECT_REQUIRE": "kernel",
    }


if __name__ == "__main__":
    sys.exit(main())
