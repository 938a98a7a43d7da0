"""Clients that ask a workload without a pause while something happens to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.machine import Machine

PROGRAM = Path(__file__).parent / "apps" / "load.py"
END_SECONDS = 150.0
"""Until the last answer; the client gives up on one after 60 s."""


@dataclass
class Load:
    """One running client; *result* is there after the ``with`` block."""

    kind: str
    address: str
    origin: str
    process: subprocess.Popen[str]
    result: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} to {self.address} from {self.origin}: {self.result}"

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def check(self, *, identity: str) -> None:
        """Fail unless each request was answered, by the process that has *identity*."""
        assert self.result["errors"] == [], str(self)
        assert self.result["sent"] > 0, str(self)
        assert self.result["answered"] == self.result["sent"], str(self)
        assert self.result["identities"] == [identity], str(self)


@contextmanager
def load(
    kind: str, address: str, *, machine: Machine, rate: float, port: int = 8080
) -> Iterator[Load]:
    """Run a client of ``apps/load.py`` in the network of *machine* for the ``with`` block."""
    words = [kind, address, str(port), str(rate)]
    process = subprocess.Popen(
        machine.in_network(sys.executable, "-I", "-S", PROGRAM, *words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Load(kind=kind, address=address, origin=machine.name, process=process)
    try:
        yield running
    except BaseException:
        process.kill()
        process.communicate()
        raise
    said, complaints = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 0, complaints
    running.result = json.loads(said)
