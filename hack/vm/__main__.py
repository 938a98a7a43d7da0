"""The command line: run kernel or cluster tests of this checkout in a virtual machine."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from lab import dockerfiles, errors, interrupts
from lab.cache import Cache
from lab.progress import Progress
from lab.settings import Settings
from vm import job, machine, parts
from vm.disk import disk
from vm.emulator import emulator
from vm.suite import CLUSTER, KERNEL

LOGS: Final = Path("build/vm-logs.tar")


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m vm``."""
    made = argparse.ArgumentParser(prog="vm", description=sys.modules[__name__].__doc__)
    made.add_argument(
        "--cluster", action="store_true", help="bring up a node in the machine for cluster tests"
    )
    made.add_argument("--memory")
    made.add_argument("--processors", type=int)
    made.add_argument("--minutes", type=float, help="the machine's longest life")
    made.add_argument("--accelerator", choices=("tcg", "kvm"))
    made.add_argument("--patience", type=float, help="factor for all deadlines")
    made.add_argument(
        "--logs", type=Path, default=LOGS, help="where the cluster's logs go if something fails"
    )
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
    interrupts.handle()
    try:
        return run(options)
    except errors.LabError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vm: interrupted", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """Build what is missing, boot, run, and remove what the run has made."""
    suite = CLUSTER if options.cluster else KERNEL
    patience = options.patience or suite.patience
    told = {key: getattr(options, key) for key in vars(suite.size) if getattr(options, key)}
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
            argv=suite.argv(options.argv, patience=patience),
            env=suite.environment(patience=patience),
        )
        if suite.has_cluster:
            with progress.step("packing what the cluster is made of"):
                parts.disk(cache, directory / "parts.ext4")
        status = machine.run(
            runs_on,
            boots_from,
            job=directory / "job.tar",
            directory=directory,
            size=dataclasses.replace(suite.size, **told),
            progress=progress,
            parts=directory / "parts.ext4" if suite.has_cluster else None,
        )
        keep(machine.files(directory), options.logs, progress=progress)
    return status


def keep(sent: Path, target: Path, *, progress: Progress) -> None:
    """Keep the logs that the guest has *sent*, if there are any."""
    if sent.exists() and sent.stat().st_size:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sent, target)
        progress.say(f"the cluster's logs are in {target}")


if __name__ == "__main__":
    sys.exit(main())
