"""Whether this node can put pods to sleep, as far as the runtime alone can tell.

Each check is one read or trial and one sentence. The daemon's pre-flight adds what it knows of the
engine and of Kubernetes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.api import names
from architect.core.errors import ArchitectError
from architect.core.wire import Client
from architect.shim import installation

CRIU_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 10.0
FREE_FLOOR_BYTES: Final = 256 << 20
"""The keeper leaves that much free whatever an image needs."""
MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})

CAP_SYS_RESOURCE: Final = 24
CAP_SYS_ADMIN: Final = 21
"""<linux/capability.h>"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one check found."""

    name: str
    is_good: bool
    message: str
    is_blocking: bool = True
    """Whether no pod can sleep where it is not good."""


def run() -> Iterator[Check]:
    """Yield each check as it is done. The last one leaves the caller in a new network namespace."""
    for name, check, is_blocking in _CHECKS:
        try:
            is_good, message = check()
        except (ArchitectError, OSError) as error:
            is_good, message = False, str(error)
        yield Check(name=name, is_good=is_good, message=message, is_blocking=is_blocking)


def _runtime() -> tuple[bool, str]:
    return True, str(installation.lower_runtime())


def _init() -> tuple[bool, str]:
    sha, _ = installation.init()
    return True, sha[:12]


def _keeper() -> tuple[bool, str]:
    # Looking must not start anything: the first managed container does.
    if not names.KEEPER_SOCKET.exists():
        return True, "not started yet"
    with Client(names.KEEPER_SOCKET, timeout_seconds=ANSWER_SECONDS) as client:
        answer = client.call("version")
    return True, f"{answer['version']}, pid {answer['pid']}"


def _criu() -> tuple[bool, str]:
    program = installation.program("architect-criu")
    try:
        done = subprocess.run(
            [program, "check"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CRIU_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False, f"{program} check does not end in {CRIU_SECONDS:.0f} s"
    said = done.stdout if done.returncode == 0 else done.stderr
    lines = said.strip().splitlines() or [f"status {done.returncode}"]
    return done.returncode == 0, lines[-1]


def _capabilities() -> tuple[bool, str]:
    mask = _effective()
    if not mask >> CAP_SYS_ADMIN & 1:
        return False, "no CAP_SYS_ADMIN: run it as the node's root"
    if not mask >> CAP_SYS_RESOURCE & 1:
        return False, "no CAP_SYS_RESOURCE: applications of other users than root may not be saved"
    return True, "all that CRIU needs"


def _effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _cgroups() -> tuple[bool, str]:
    kinds = {line.partition(" - ")[2].split()[0] for line in _mounts()}
    if "cgroup" in kinds:
        options = {o for line in _mounts() for o in line.rpartition(" ")[2].split(",")}
        # By one of them the keeper knows who is in a container.
        is_good = bool(options & {"memory", "pids"})
        return is_good, "version 1" if is_good else "version 1 without memory and pids"
    return "cgroup2" in kinds, "version 2" if "cgroup2" in kinds else "none is mounted"


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _space() -> tuple[bool, str]:
    directory = names.STATE
    while not directory.exists():
        directory = directory.parent
    device = os.stat(directory).st_dev
    kind = ""
    for line in _mounts():
        before, _, after = line.partition(" - ")
        if before.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            kind = after.split()[0]
    if kind in MEMORY_FILE_SYSTEMS:
        return False, f"{names.STATE} is on {kind}: images would stay in memory"
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    text = f"{free >> 20} MiB are free below {directory}"
    return free >= FREE_FLOOR_BYTES, text


def _queue() -> tuple[bool, str]:
    import ctypes

    from architect.shim.packets import ruleset
    from architect.shim.packets.netns import CLONE_NEWNET, Netns
    from architect.shim.packets.nfqueue import NfQueue

    # A namespace of our own: the node's rules are nobody's to try things with.
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        return False, f"no network namespace: {os.strerror(ctypes.get_errno())}"
    with Netns.own() as space:
        support = ruleset.detect(space)
        NfQueue.bind(space).close()
    return True, f"by {support.mechanism.value}"


_CHECKS: Final[tuple[tuple[str, Callable[[], tuple[bool, str]], bool], ...]] = (
    ("runtime", _runtime, True),
    ("init", _init, True),
    ("keeper", _keeper, True),
    ("capabilities", _capabilities, False),
    ("criu", _criu, True),
    ("cgroups", _cgroups, True),
    ("space", _space, True),
    ("packet queue", _queue, True),
)
