"""What the host must have: packages, which are installed, and a kernel, disk and memory.

Everything is looked at before anything is said, so that a reader learns of all that is wrong at
once. What the kernel can do is tried, in namespaces that end with the trial, and not concluded
from its version or configuration.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import cgroups, commands, errors, mirror, oci, packages
from lab.progress import Progress
from lab.settings import Settings

GIB = 1 << 30
BUILT_BYTES = 8 * GIB
"""Of the cache: artefacts 4 GB, and room for what the next versions of them take beside."""
GO_BYTES = 9 * GIB
"""Of Go's caches after a build of everything: 5.3 GB of objects, 3.1 GB of modules."""
STATE_BYTES = 6 * GIB
"""Of two nodes with the images of the demonstration and memory images of sleeping pods."""
SPARE_BYTES = 2 * GIB
"""What a run needs when everything is built."""
MEMORY_BYTES = 4 * GIB
"""Two linkers of Kubernetes at once, or a cluster of two nodes with the demonstration."""

MODULES = (
    *("overlay", "bridge", "veth", "br_netfilter", "loop"),
    *("nf_tables", "nft_compat", "nft_queue", "xt_NFQUEUE", "nfnetlink_queue"),
    *("inet_diag", "tcp_diag", "udp_diag", "unix_diag", "netlink_diag", "af_packet_diag"),
    *("sch_htb", "cls_u32"),
)
"""Loaded if they are modules: a namespace cannot always make the kernel load them."""

PROBE_SECONDS = 60.0

QUEUE = """\
import sys
from architect.shim.packets.netns import Netns
from architect.shim.packets.ruleset import Mechanism, detect
found = detect(Netns.own())
if found.mechanism is Mechanism.DROP:
    sys.exit("nf_tables has neither the queue expression nor xtables' NFQUEUE")
"""
"""The product's own test, in a network namespace that is empty."""


@dataclass(frozen=True)
class Problem:
    """Something that is not as it must be, and what to do."""

    what: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Something that the kernel must be able to do: a program that fails if it cannot."""

    what: str
    argv: tuple[str, ...]
    hint: str


def trials(directory: Path) -> tuple[Trial, ...]:
    """Return what is tried. *directory* is an empty one on the disk of the lab's state."""
    overlay = (
        f"cd {directory} && mkdir lower upper work root && mount -t overlay"
        " -o lowerdir=lower,upperdir=upper,workdir=work overlay root"
    )
    network = (
        "ip link add b0 type bridge && ip link add v0 type veth peer name v1"
        " && ip link set v0 master b0"
    )
    return (
        Trial(
            what="namespaces",
            argv=("unshare", "-m", "-u", "-i", "-n", "-p", "-C", "--fork", "true"),
            hint="the lab needs root with CAP_SYS_ADMIN; in a container, --privileged",
        ),
        Trial(
            what="overlay file systems",
            argv=("unshare", "--mount", "sh", "-c", overlay),
            hint=f"modprobe overlay; {directory.parent} must be on a disk: set ARCHITECT_LAB",
        ),
        Trial(
            what="bridges and veth links",
            argv=("unshare", "--net", "sh", "-c", network),
            hint="modprobe bridge veth",
        ),
        Trial(
            what="traffic of bridges in netfilter",
            argv=("unshare", "--net", "test", "-e", "/proc/sys/net/bridge/bridge-nf-call-iptables"),
            hint="modprobe br_netfilter",
        ),
        Trial(
            what="holding packets in nf_tables",
            argv=("unshare", "--net", sys.executable, "-c", QUEUE),
            hint="modprobe nf_tables nft_queue nfnetlink_queue, or nft_compat xt_NFQUEUE",
        ),
        Trial(
            what="checkpoint and restore",
            argv=("test", "-e", "/proc/sys/kernel/ns_last_pid"),
            hint="the kernel needs CONFIG_CHECKPOINT_RESTORE",
        ),
    )


def ensure(settings: Settings, *, progress: Progress, is_check: bool = False) -> None:
    """Install missing packages (with *is_check*: name them) and look at the host.

    Raises LabError with everything that is wrong.
    """
    problems = privilege(os.geteuid(), platform.machine())
    if not problems and not is_check:
        packages.provide(packages.HOST, progress=progress)
    lacking = packages.missing(packages.HOST, os.environ)
    if lacking:
        problems.append(
            Problem(
                f"missing: {packages.describe(lacking)}", "python -m lab prerequisites, as root"
            )
        )
    problems += memory(Path("/proc/meminfo").read_text())
    problems += disk(needs(settings, os.environ), free=_free)
    problems += cgroup_controllers()
    problems += _mirror()
    if os.geteuid() == 0:
        problems += _kernel(settings)
    _refuse(problems)
    if is_check:
        progress.say("this host has all that is needed")


def ensure_kernel(settings: Settings) -> None:
    """Load modules and try what the kernel offers: all there is to see to where all is built.

    Raises LabError with everything that is wrong.
    """
    _refuse([*cgroup_controllers(), *_kernel(settings)])


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise errors.LabError(
            "this host is not ready:"
            + "".join(f"\n  - {problem.what} (hint: {problem.hint})" for problem in problems)
        )


def privilege(uid: int, machine: str) -> list[Problem]:
    """Look at who runs this, and on what."""
    found = []
    if uid != 0:
        found.append(Problem("not root: namespaces, mounts and cgroups need it", "use sudo"))
    if machine not in oci.ARCHITECTURES:
        known = " and ".join(oci.ARCHITECTURES)
        found.append(Problem(f"architecture {machine}", f"it is built for {known}"))
    return found


def memory(meminfo: str) -> list[Problem]:
    """Look at the memory, from the text of ``/proc/meminfo``."""
    match = re.search(r"(?m)^MemTotal:\s+(\d+) kB", meminfo)
    total = int(match[1]) * 1024 if match else 0
    # A machine of 4 GiB has a little less than that.
    if total >= MEMORY_BYTES * 0.9:
        return []
    return [Problem(f"{total / GIB:.1f} GiB of memory", f"{MEMORY_BYTES / GIB:.0f} GiB are needed")]


def needs(settings: Settings, environ: Mapping[str, str]) -> dict[Path, int]:
    """Return how many bytes must be free where: less for what is built already."""
    is_built = any(settings.cache.glob("kubernetes-*")) and any(settings.cache.glob("node-root-*"))
    has_state = settings.machines.is_dir() and any(settings.machines.iterdir())
    home = Path(environ.get("HOME") or settings.cache)
    return {
        settings.cache: SPARE_BYTES if is_built else BUILT_BYTES,
        Path(environ.get("GOCACHE") or home / ".cache"): 0 if is_built else GO_BYTES,
        settings.state: SPARE_BYTES if has_state else STATE_BYTES,
    }


def disk(wanted: Mapping[Path, int], *, free: Callable[[Path], tuple[int, int]]) -> list[Problem]:
    """Compare what is *wanted* with what is *free*: a path's device, and its free bytes.

    Directories on one device share its space.
    """
    by_device: dict[int, list[Path]] = {}
    for path in wanted:
        by_device.setdefault(free(path)[0], []).append(path)
    found = []
    for paths in by_device.values():
        need = sum(wanted[path] for path in paths)
        there = free(paths[0])[1]
        if there < need:
            where = ", ".join(str(path) for path in paths)
            found.append(
                Problem(
                    f"{there / GIB:.1f} GiB free for {where}; {need / GIB:.0f} GiB are needed",
                    "python -m lab prune; ARCHITECT_CACHE, ARCHITECT_LAB and GOCACHE name others",
                )
            )
    return found


def cgroup_controllers(found: Sequence[cgroups.Hierarchy] | None = None) -> list[Problem]:
    """Look for the controllers that kubelet needs, whatever the version of cgroups is."""
    try:
        there = cgroups.hierarchies() if found is None else tuple(found)
    except errors.LabError as error:
        return [Problem(str(error), "mount cgroup2 on /sys/fs/cgroup")]
    first = [h for h in there if h.version == 1]
    if first:
        controllers = {name for h in first for name in h.options.split(",")}
    else:
        controllers = set((there[0].mount / "cgroup.controllers").read_text().split())
    lacking = cgroups.REQUIRED - controllers
    if not lacking:
        return []
    version = 1 if first else 2
    return [
        Problem(
            f"cgroup v{version} without {', '.join(sorted(lacking))}",
            "see cgroup_enable= and cgroup_disable= in /proc/cmdline",
        )
    ]


def _mirror() -> list[Problem]:
    try:
        mirror.host_mirror()
    except errors.LabError as error:
        return [Problem(str(error), "the nodes' root file system is made from Debian's archive")]
    return []


def _kernel(settings: Settings) -> list[Problem]:
    for module in MODULES:
        try:
            commands.run(["modprobe", "--quiet", module], timeout_seconds=PROBE_SECONDS)
        except errors.CommandFailed:
            continue  # it is built in, or it is not needed, or the trial will miss it
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = []
    with tempfile.TemporaryDirectory(dir=settings.state, prefix="trial-") as directory:
        for trial in trials(Path(directory)):
            try:
                commands.run(trial.argv, timeout_seconds=PROBE_SECONDS)
            except errors.LabError as error:
                said = str(error).rpartition("\n")[2]
                found.append(Problem(f"the kernel does not offer {trial.what}: {said}", trial.hint))
    return found


def _free(path: Path) -> tuple[int, int]:
    while not path.exists():
        path = path.parent
    return path.stat().st_dev, shutil.disk_usage(path).free
