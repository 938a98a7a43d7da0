"""Whether runsc can run a container on this node, and with which of its flags: by running one.

What it needs is more than one could ask for one by one: seccomp and ptrace as the platform systrap
uses them, namespaces, and cgroups that can be made. Only the last can be done without: gVisor then
bounds and accounts for nothing, which is said.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.core.errors import NodeError
from architect.shim import installation

MNT_DETACH: Final = 2
"""<sys/mount.h>"""

CGROUPS: Final = Path("/sys/fs/cgroup")

SECONDS: Final = 60.0
"""Under a second on most machines."""
ALTERNATIVES: Final = ((), ("--ignore-cgroups",))
"""Flags that are tried, the best first."""

PROGRAM: Final = "architect-anchor"
PROGRAM_STATUS: Final = 125
"""With which it ends when it is given nothing to wait for; runsc itself fails with others."""


def flags(given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the flags with which a container runs: those *given*, or those that are found out.

    Raises NodeError with what runsc said of the first that were tried.
    """
    first = ""
    for words in [tuple(given)] if given else ALTERNATIVES:
        problem = _problem(words)
        if not problem:
            return words
        first = first or problem
    raise NodeError(
        f"runsc cannot run a container here: {first}",
        reason="RunscFails",
        hint="the same by hand: architect-runtime try-gvisor",
    )


def _problem(words: Sequence[str]) -> str:
    """Run one container; return what went wrong, empty if nothing did."""
    names.RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _bundle() as directory:
        name = f"architect-trial-{os.getpid()}"
        (directory / "config.json").write_text(json.dumps(_config(f"/{name}")))
        common = [str(installation.runsc()), *words, f"--root={directory / 'state'}"]
        run = [*common, "run", f"--bundle={directory}", name]
        try:
            status, said = _run(run)
        finally:
            _run([*common, "delete", "--force", name])
            _remove_cgroups(name)
        if status == PROGRAM_STATUS:
            return ""
        lines = [line for line in said.splitlines() if line.strip()]
        flags = f"{' '.join(words)}: " if words else ""
        return flags + (lines[-1].strip() if lines else f"it ended with status {status}")


def _run(words: Sequence[str]) -> tuple[int, str]:
    """Run a command of runsc; after :data:`SECONDS` kill it.

    A sandbox that it has started is in a session of its own: ``delete --force`` ends that.
    """
    # A file: what a sandbox inherits must keep nobody waiting.
    with tempfile.TemporaryFile(dir=names.RUN) as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        late = ""
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            late = f"\nit did not end in {SECONDS:.0f} s"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return process.returncode, output.read().decode(errors="replace") + late


def _remove_cgroups(name: str) -> None:
    """Remove what a sandbox that was not to be made leaves, in either version's hierarchy."""
    for pattern in (name, f"*/{name}"):
        for directory in CGROUPS.glob(pattern):
            with contextlib.suppress(OSError):
                directory.rmdir()


@contextlib.contextmanager
def _bundle() -> Iterator[Path]:
    """Make a directory with a root file system of one static program."""
    directory = Path(tempfile.mkdtemp(prefix="gvisor-trial-", dir=names.RUN))
    try:
        root = directory / "rootfs"
        root.mkdir()
        shutil.copy(installation.program(PROGRAM), root)
        yield directory
    finally:
        _unmount(directory / "state/null-netns")  # runsc leaves it beside its state
        shutil.rmtree(directory)


def _unmount(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if path.exists() and libc.umount2(os.fsencode(path), MNT_DETACH):
        code = ctypes.get_errno()
        raise NodeError(f"cannot unmount {path}: {os.strerror(code)}")


def _config(cgroup: str) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": [f"/{PROGRAM}"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
        },
        "root": {"path": "rootfs", "readonly": True},
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        },
    }
