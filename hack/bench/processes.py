"""Starts the benchmark's own processes inside machines and in their networks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.remote import Remote
from lab.machine import Machine

PACKAGE: Final = Path(__file__).parent
INSIDE: Final = ("__init__", "agent", "client", "pagecache", "plaincopy", "serving")
"""Modules that a machine's own Python runs; they import nothing else of ours."""
CODE: Final = "/run/architect-bench/code"
WORK: Final = "/var/lib/architect-bench"
"""On the machine's disk, as memory images are."""
START_SECONDS: Final = 60.0


def agent(machine: Machine, *, logs: Path) -> Remote:
    """Start the agent in a machine. Raises BenchError."""
    code = inside(machine, CODE)
    shutil.rmtree(code, ignore_errors=True)
    (code / "bench").mkdir(parents=True)
    for module in INSIDE:
        shutil.copyfile(PACKAGE / f"{module}.py", code / "bench" / f"{module}.py")
    log = logs / f"agent-{machine.name}.log"
    with log.open("wb") as errors:
        process = machine.popen(
            ["/usr/bin/python3", "-S", "-m", "bench.agent", WORK],
            env={"PYTHONPATH": CODE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        )
    return _ready(Remote(f"agent in {machine.name}", process, log=log))


def client(machine: Machine, *, logs: Path) -> Remote:
    """Start a client in a machine's network. Raises BenchError."""
    log = logs / f"client-{machine.name}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            machine.in_network(sys.executable, "-m", "bench.client"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            start_new_session=True,
        )
    return _ready(Remote(f"client in the network of {machine.name}", process, log=log))


def inside(machine: Machine, path: str | Path) -> Path:
    """Return a path of a machine as this process reaches it."""
    return Path(f"/proc/{machine.running_pid}/root{path}")


def forget(machine: Machine) -> None:
    """Remove the agent's code from a machine; its work it removes itself."""
    shutil.rmtree(inside(machine, CODE).parent, ignore_errors=True)


def _ready(remote: Remote) -> Remote:
    try:
        remote.call("ping", timeout_seconds=START_SECONDS)
    except BaseException:
        remote.close()
        raise
    return remote
