"""What a node has of processes, descriptors, mounts, queues, rules, cgroups, sockets and files.

Taken before and after; what is there only after is a leak. Standard library only, and nothing else
of ours: a node's own Python runs it, with a scope on standard input.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

Snapshot = dict[str, dict[str, int]]
"""Kind → name → how many."""

OURS: Final = ("architect-keepe", "architect-warde", "architect-criu")
"""Processes of the product that last, as the kernel cuts their names."""
WATCHED: Final = (*OURS, "runc", "runc-architect", "architect-init", "architect-runti", "criu")
TABLES: Final = ("architect", "architect-try")
"""Of nft, in a pod's network namespace (``architect.shim.packets.ruleset``)."""
LOGS: Final = ("keeper.log", "keeper.log.1")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Where to look."""

    below: int | None = None
    """Processes below that one, all of them; None: in the whole pid namespace, those watched."""
    mounts_of: tuple[int, ...] = ()
    """Processes whose mount namespaces are looked at."""
    cgroups: str = "/sys/fs/cgroup"
    cgroup_names: str = ""
    """What the path of a cgroup has in it."""
    directories: tuple[str, ...] = ()
    """Directories of which all files are listed."""
    paths: tuple[str, ...] = ()
    """What the path of a mount has in it (any of them); empty: whatever."""
    socket_paths: tuple[str, ...] = ("/architect/",)
    """The same of a socket, which is of a process that is looked at or of *below* itself: other
    nodes in miniature have theirs at the same path, in the same network namespace."""


def snapshot(scope: Scope) -> Snapshot:
    """Return what there is now."""
    pids = _all_pids() if scope.below is None else below(scope.below)
    return {
        "processes": dict(_processes(pids, all_of_them=scope.below is not None)),
        "descriptors": dict(_descriptors(pids)),
        "mounts": dict(_mounts(scope)),
        "network": dict(_network(pids)),
        "rules": dict(_rules()),
        "cgroups": dict(_cgroups(scope)),
        "sockets": dict(_sockets(scope, pids)),
        "files": dict(_files(scope)),
    }


def leaked(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what is there only after, one line for each."""
    found = []
    for kind, names in sorted(after.items()):
        for name, count in sorted(names.items()):
            more = count - before.get(kind, {}).get(name, 0)
            if more > 0:
                found.append(f"{kind}: {name}" + (f" ({more} more)" if count > 1 else ""))
    return found


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def below(top: int) -> list[int]:
    """Return the pids of all descendants of *top*."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        with suppress(OSError):
            parent = int(
                Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            )
            children.setdefault(parent, []).append(pid)
    found, left = [], [top]
    while left:
        pid = left.pop()
        found += children.get(pid, [])
        left += children.get(pid, [])
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def _processes(pids: Iterable[int], *, all_of_them: bool) -> Counter[str]:
    names = (_name(pid) for pid in pids)
    return Counter(name for name in names if name and (all_of_them or name in WATCHED))


def _descriptors(pids: Iterable[int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for pid in pids:
        if (name := _name(pid)) not in OURS:
            continue
        for link in _links(pid):
            kind = link.partition(":[")[0] if ":[" in link else link
            found[f"{name}: {kind}"] += 1
    return found


def _links(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{number}")


def _mounts(scope: Scope) -> Counter[str]:
    found: Counter[str] = Counter()
    for pid in scope.mounts_of:
        for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines():
            point = line.split()[4]
            if not scope.paths or any(path in point for path in scope.paths):
                found[point] += 1
    return found


def _network(pids: Iterable[int]) -> Counter[str]:
    """Count network namespaces that somebody keeps, and packet queues that are bound in them."""
    found: Counter[str] = Counter()
    namespaces: dict[str, int] = {}
    kept: set[str] = set()
    for pid in (*pids, os.getpid()):
        with suppress(OSError):
            namespaces.setdefault(os.readlink(f"/proc/{pid}/ns/net"), pid)
        if _name(pid) in OURS:
            kept |= {link for link in _links(pid) if link.startswith("net:[")}
    found["network namespaces"] = len(namespaces.keys() | kept)
    for pid in namespaces.values():
        with suppress(OSError):
            queues = Path(f"/proc/{pid}/net/netfilter/nfnetlink_queue").read_text(errors="replace")
            found["packet queues"] += len(queues.splitlines())
    return found


def _rules() -> Counter[str]:
    """Count rules of ours in this network namespace, where none has a place."""
    found: Counter[str] = Counter()
    for command, ours in (
        (["nft", "list", "ruleset"], nft_rules),
        (["iptables-save"], iptables_rules),
        (["ip6tables-save"], iptables_rules),
    ):
        with suppress(OSError):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found.update(f"{command[0]}: {line}" for line in ours(done.stdout.splitlines()))
    return found


def nft_rules(lines: Iterable[str]) -> Iterator[str]:
    """Yield what of nft's *lines* is in tables of ours, each with its table.

    Others' rules may have our name in a comment, as kube-proxy's for a Service of ours.
    """
    table = ""
    for line in lines:
        words = line.split()
        if words[:1] == ["table"] and len(words) > 2:
            table = " ".join(words[1:3]) if words[2] in TABLES else ""
        if table and words and words != ["}"]:
            yield f"{table}: {line.strip()}"


def iptables_rules(lines: Iterable[str]) -> Iterator[str]:
    """Yield those of iptables-save's *lines* that only we would have: a chain of our name, a queue.

    The product makes none by iptables.
    """
    for line in lines:
        words = line.split()
        chains = [words[0][1:]] if line.startswith(":") else []
        chains += [word for flag, word in pairwise(words) if flag in ("-A", "-j", "-g")]
        if any(c == "NFQUEUE" or c.lower().startswith(TABLES[0]) for c in chains):
            yield line.strip()


def _cgroups(scope: Scope) -> Counter[str]:
    return Counter(
        root
        for root, _, _ in os.walk(scope.cgroups)
        if scope.cgroup_names in root and root != scope.cgroups
    )


def _sockets(scope: Scope, pids: Iterable[int]) -> Counter[str]:
    found: Counter[str] = Counter()
    theirs: set[str] | None = None
    if scope.below is not None:
        theirs = {link for pid in (scope.below, *pids) for link in _links(pid)}
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        words = line.split()
        if theirs is not None and f"socket:[{words[6]}]" not in theirs:
            continue
        if len(words) > 7 and any(path in words[7] for path in scope.socket_paths):
            # A keeper's pid is in it until the socket has its name.
            found[re.sub(r"\d+$", "N", words[7])] += 1
    return found


def _files(scope: Scope) -> Counter[str]:
    found: Counter[str] = Counter()
    for directory in scope.directories:
        for root, directories, files in os.walk(directory):
            for name in (*directories, *files):
                if name not in LOGS:
                    found[os.path.join(root, name).removeprefix(directory) + f" in {directory}"] = 1
    return found


def to_json(scope: Scope) -> str:
    """Return *scope* for a process elsewhere."""
    return json.dumps(asdict(scope))


def main() -> None:
    """Read a scope from standard input, and write what there is."""
    said: dict[str, Any] = json.load(sys.stdin)
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
    print(json.dumps(snapshot(Scope(**given))))


if __name__ == "__main__":
    main()
