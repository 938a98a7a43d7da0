"""Whether this node can run managed pods, and if not, why. Probes gather; the rest is pure."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.api import names
from architect.core.errors import NodeError
from architect.daemon.host import Host

LEAST_KERNEL: Final = (5, 10)
"""clone3 with a wanted pid (5.5), pidfds and time namespaces (5.6), process_madvise (5.10)."""

EARLIEST_CLOCK: Final = 1_735_689_600
"""2025-01-01: a clock before the software was written makes certificates and warm-ups wrong."""

DISK_MIN_BYTES: Final = 256 << 20
CRIU_TIMEOUT_SECONDS: Final = 30.0
PROBE_QUEUE: Final = 64_999
"""A queue number that nobody uses, in the daemon's own network namespace."""

TOLERATED_FAILURES: Final = 2
"""Checks in a row that must fail before a ready node is called not ready: a keeper may restart."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the probes found. An empty text means well."""

    install: str = ""
    """Why the bundle or the engine's configuration could not be put in place."""
    keeper: str = ""
    criu: str = ""
    packet_queue: str = ""
    kernel: str = ""
    """``uname -r``."""
    cgroup_version: int = 2
    state_file_system: str = ""
    free_bytes: int = 0
    clock_unix: float = 0.0
    uninstalling: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the facts mean."""

    is_ready: bool
    reason: str
    message: str


def assess(facts: Facts) -> Report:
    """Return the verdict: the first problem is the reason, all of them are the message."""
    problems: list[tuple[str, str]] = []
    if facts.uninstalling:
        problems.append(("Uninstalling", "Architect is being uninstalled"))
    if facts.install:
        problems.append(("InstallFailed", facts.install))
    if (version := kernel_version(facts.kernel)) < LEAST_KERNEL:
        least = ".".join(map(str, LEAST_KERNEL))
        found = ".".join(map(str, version))
        problems.append(("KernelTooOld", f"Linux {found} is older than {least}"))
    if facts.keeper:
        problems.append(("KeeperUnavailable", facts.keeper))
    if facts.criu:
        problems.append(("CriuUnavailable", facts.criu))
    if facts.packet_queue:
        problems.append(("NoPacketQueue", facts.packet_queue))
    if facts.state_file_system in ("tmpfs", "ramfs"):
        text = f"{names.STATE} is on {facts.state_file_system}: images would stay in memory"
        problems.append(("StateNotOnDisk", text))
    if facts.free_bytes < DISK_MIN_BYTES:
        text = f"{facts.free_bytes >> 20} MiB are free for images in {names.STATE}"
        problems.append(("DiskFull", text))
    if facts.clock_unix < EARLIEST_CLOCK:
        problems.append(("ClockWrong", f"the clock says {time.ctime(facts.clock_unix)}"))
    if problems:
        return Report(
            is_ready=False, reason=problems[0][0], message="; ".join(text for _, text in problems)
        )
    text = f"Linux {facts.kernel}, cgroup v{facts.cgroup_version}"
    return Report(is_ready=True, reason="Ready", message=text)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the node is called, given the checks so far."""

    report: Report | None = None
    """None: nothing is known yet."""
    failures: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether managed pods may be placed here."""
        return self.report is not None and self.report.is_ready


def settle(standing: Standing, report: Report) -> Standing:
    """Return the standing after another check: up at once, down only if it fails repeatedly."""
    if report.is_ready:
        return Standing(report=report)
    failures = standing.failures + 1
    if standing.is_ready and failures < TOLERATED_FAILURES and report.reason != "Uninstalling":
        return Standing(report=standing.report, failures=failures)
    return Standing(report=report, failures=failures)


def kernel_version(release: str) -> tuple[int, int]:
    """Return major and minor of ``uname -r``; (0, 0) if it is not one."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def file_system_of(path: Path, mounts: str) -> str:
    """Return the type of the file system that *path* lies on, by ``/proc/self/mountinfo``."""
    best, found = -1, ""
    for line in mounts.splitlines():
        fields, _, tail = line.partition(" - ")
        words = fields.split()
        if len(words) < 5 or not tail:
            continue
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), words[4])
        if path.is_relative_to(point) and len(point) >= best:
            best, found = len(point), tail.split()[0]
    return found


def gather(
    host: Host, *, keeper: str, criu: str, install: str, uninstalling: str, state: Path
) -> Facts:
    """Return the facts; what other parts found out is passed in."""
    try:
        at = os.statvfs(state)
        free = at.f_bavail * at.f_frsize
    except OSError:
        free = 0
    return Facts(
        install=install,
        keeper=keeper,
        criu=criu,
        packet_queue=probe_packet_queue(),
        kernel=os.uname().release,
        cgroup_version=2 if host.path(Path("/sys/fs/cgroup/cgroup.controllers")).exists() else 1,
        state_file_system=file_system_of(state, Path("/proc/self/mountinfo").read_text()),
        free_bytes=free,
        clock_unix=time.time(),
        uninstalling=uninstalling,
    )


def probe_criu(host: Host, *, current: Path) -> str:
    """Return why CRIU cannot work on this node, by its own check; empty if it can."""
    program = current / "bin" / "architect-criu"
    try:
        host.run([str(program), "check"], timeout_seconds=CRIU_TIMEOUT_SECONDS)
    except NodeError as error:
        return error.message
    return ""


_HEADER = struct.Struct("=IHHII")
_NFGEN = struct.Struct("!BBH")
_COMMAND = struct.Struct("=HH")
_NETLINK_NETFILTER: Final = 12
_QUEUE_CONFIG: Final = (3 << 8) | 2
"""NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG (linux/netfilter/nfnetlink_queue.h)."""
_REQUEST_ACK: Final = 5
_ERROR: Final = 2
_BIND: Final = 1


def probe_packet_queue() -> str:
    """Return why packets cannot be queued; empty if they can.

    Binding a queue makes the kernel load the module if it is one. The queue goes with the socket.
    """
    command = _COMMAND.pack(8, 1) + struct.pack("!BBH", _BIND, 0, socket.AF_INET)
    body = _NFGEN.pack(socket.AF_UNSPEC, 0, PROBE_QUEUE) + command
    message = _HEADER.pack(_HEADER.size + len(body), _QUEUE_CONFIG, _REQUEST_ACK, 1, 0) + body
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as probe:
            probe.settimeout(5.0)
            probe.bind((0, 0))
            probe.send(message)
            answer = probe.recv(4096)
    except OSError as error:
        return f"the kernel has no packet queue (nfnetlink_queue): {error.strerror or error}"
    kind, code = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if kind == _ERROR and code not in (0, -16):  # EBUSY: somebody else's queue of that number
        return f"the kernel refuses a packet queue: {os.strerror(-code)}"
    return ""


def node_labels(
    wanted: Mapping[str, bool], *, existing: Mapping[str, str], used: Collection[str]
) -> dict[str, str | None]:
    """Return the node labels that must change, of those that *wanted* has.

    A pod of ours has the label in its nodeSelector, from its runtime class. Kubelet checks that
    again when it restarts (and would fail the pod) and at every resize (and would not give a woken
    pod its requests back), so a label that is there stays while it is among the *used* ones.
    """
    changed: dict[str, str | None] = {}
    for label, is_wanted in wanted.items():
        value = "true" if is_wanted else None
        if existing.get(label) != value and not (value is None and label in used):
            changed[label] = value
    return changed
