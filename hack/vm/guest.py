"""Inside the machine: do what the job asks, pass on what is said, and report the exit status.

Standard library only: it runs from the job disk with Debian's own interpreter.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = Path("/dev/virtio-ports/output")
STATUS = Path("/dev/virtio-ports/status")
FILES = Path("/dev/virtio-ports/files")

PARTS = Path("/dev/disk/by-id/virtio-parts")
"""The disk of :mod:`vm.parts`; where there is none, no cluster is asked for."""
LAB = Path("/lab")
CACHE = LAB / "cache"
STATE = LAB / "state"
LOGS = STATE / "failed-logs"
"""Where the lab gathers logs when something fails: sent out at the end."""


def main() -> int:
    job = json.loads((HERE / "job.json").read_text())
    with OUTPUT.open("wb", buffering=0) as output:
        output.write(f"{_machine()}\n".encode())
        subprocess.run(["udevadm", "settle"], stderr=output)
        if PARTS.exists():
            LAB.mkdir(exist_ok=True)
            mount = ["mount", "-o", "noatime", str(PARTS), str(LAB)]
            subprocess.run(mount, check=True, stderr=output)
        status = subprocess.run(
            job["argv"],
            cwd=HERE / "checkout",
            env={**os.environ, **job["env"]},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ).returncode
        if LOGS.exists():
            with FILES.open("wb", buffering=0) as files:
                words = ["tar", "--create", "--directory", str(LOGS), "."]
                subprocess.run(words, stdout=files, stderr=output)
    STATUS.write_text(f"{status}\n")
    return status


def _machine() -> str:
    """Return what makes this machine different from others."""
    mounts = Path("/proc/self/mountinfo").read_text()
    kinds = {line.split(" - ")[1].split()[0] for line in mounts.splitlines()}
    cgroups = ", ".join(sorted(kind for kind in kinds if kind.startswith("cgroup")))
    runc = subprocess.run(["runc", "--version"], capture_output=True, text=True).stdout
    first = runc.partition("\n")[0]
    return f"Linux {platform.release()}, {cgroups}, Python {platform.python_version()}, {first}"


if __name__ == "__main__":
    sys.exit(main())
