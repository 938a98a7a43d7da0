"""Whether an image claims more than its new container's ``config.json`` gives (pure).

Refused is only what no process of the container could have come to. A process may have fewer
capabilities than its container, other users where it may change them or run set-uid programs, more
seccomp filters; a thread has credentials of its own.

Capabilities are those of <linux/capability.h>. What the kernel makes of a set at execve(2) is
described in capabilities(7).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from architect.core.errors import Rejected
from architect.shim import seccomp
from architect.shim.keeper import filters
from architect.shim.keeper.claims import FILTER, THREAD_SYNC, Claims, Credentials, File, Thread

REASON: Final = "PrivilegesDiffer"
MOST_TOLD: Final = 4
"""Differences in a message; the rest are counted."""

CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
"""By number."""
_NUMBERS: Final = {f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)}
_LATER: Final = ((1 << 64) - 1) & ~((1 << len(CAPABILITIES)) - 1)
"""What kernels may have that are newer than this list."""

_FREE_SECUREBITS: Final = 1 << 4 | 0xF00
"""SECBIT_KEEP_CAPS and, since Linux 6.14, the bits about execveat(2): anybody may set these."""

MOST_CHAINED: Final = 256
"""Filters of one thread: each fork of an application may add one, and pays for it at each call."""

_LINKS: Final = frozenset({"cwd", "exe", "root"})
_FULL_OF_LINKS: Final = frozenset({"fd", "map_files", "ns"})
"""In ``/proc/PID``: links that the kernel follows to wherever the process has a file."""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What processes of a container can have at most."""

    bounding: int = 0
    held: int = 0
    """In all other sets: be it by a set-uid program only, if those have an effect."""
    inheritable: int = 0
    no_new_privileges: bool = False
    users: frozenset[int] | None = None
    """None: any."""
    groups: frozenset[int] | None = None
    supplementary: frozenset[int] = field(default_factory=frozenset)
    is_filtered: bool = False
    """Its seccomp profile denies something that the nodes do not deny differently."""
    denied: frozenset[str] = frozenset()
    """Calls that its profile denies in every case, of those that :mod:`.filters` looks for."""
    machine: str = ""
    profile: str = ""
    """AppArmor's; empty: it may be unconfined."""
    has_own_ipc: bool = True

    def has(self, capability: str) -> bool:
        """Whether a process of it can have *capability*."""
        return bool(self.held >> _NUMBERS[capability] & 1)


def allowance(spec: Mapping[str, Any], *, machine: str) -> Allowance:
    """Return what the container of *spec* (``config.json``) allows on *machine* (``uname -m``)."""
    process = spec.get("process") or {}
    linux = spec.get("linux") or {}
    sets = {name: _mask(names or ()) for name, names in (process.get("capabilities") or {}).items()}
    everything = 0
    for mask in sets.values():
        everything |= mask
    user = process.get("user") or {}
    uid, gid = int(user.get("uid") or 0), int(user.get("gid") or 0)
    no_new_privileges = bool(process.get("noNewPrivileges"))
    # Who is not root, and gains nothing at execve(2), keeps the ambient set of its first program.
    is_fixed = no_new_privileges and uid != 0
    held = sets.get("ambient", 0) if is_fixed else everything
    found = Allowance(
        bounding=sets.get("bounding", 0),
        held=held,
        inheritable=everything,
        no_new_privileges=no_new_privileges,
        is_filtered=_is_filtered(linux.get("seccomp")),
        denied=filters.denied(linux.get("seccomp") or {}),
        machine=machine,
        profile=_profile(process.get("apparmorProfile")),
        has_own_ipc=any(n.get("type") == "ipc" for n in linux.get("namespaces") or ()),
    )
    if not is_fixed:
        return found
    return replace(
        found,
        users=None if found.has("CAP_SETUID") else frozenset({uid}),
        groups=None if found.has("CAP_SETGID") else frozenset({gid}),
        supplementary=frozenset({gid, *map(int, user.get("additionalGids") or ())}),
    )


def check(claims: Claims, allowed: Allowance) -> None:
    """Raise Rejected with :data:`REASON` if *claims* go beyond what is *allowed*."""
    found = []
    count = 0
    for difference in differences(claims, allowed):
        count += 1
        if count <= MOST_TOLD:
            found.append(difference)
    if not count:
        return
    more = f"; and {count - MOST_TOLD} more" if count > MOST_TOLD else ""
    raise Rejected(
        f"the image claims what its container does not allow: {'; '.join(found)}{more}",
        reason=REASON,
        hint="was it saved under another configuration, or changed on its way?",
    )


def differences(claims: Claims, allowed: Allowance) -> Iterator[str]:
    """Yield, in words, what of *claims* goes beyond *allowed*."""
    judge = filters.Judge(allowed.denied, allowed.machine)
    yield from _of_namespaces(claims, allowed)
    for task in claims.tasks:
        for thread in task.threads:
            who = f"process {thread.pid} ({thread.name!r:.40})"
            if thread.credentials is None:
                yield f"{who} has no credentials, and would keep CRIU's"
                continue
            for what in _of_credentials(thread.credentials, allowed):
                yield f"{who} {what}"
            if allowed.is_filtered:
                for what in _of_filters(thread, task.threads[0], claims, judge):
                    yield f"{who} {what}"
        if not allowed.is_filtered:
            for thread in task.threads:
                if thread.seccomp_mode == FILTER and _chain(thread, claims) is None:
                    yield f"process {thread.pid} has a seccomp filter without an end"
    if claims.raw_sockets and not allowed.has("CAP_NET_RAW"):
        yield f"{claims.raw_sockets} raw or packet sockets without CAP_NET_RAW"
    if claims.has_profiles:
        yield "it brings AppArmor policy for the kernel"
    pids = {thread.pid for task in claims.tasks for thread in task.threads}
    for file in claims.files:
        if what := _leads_out(file, pids):
            yield f"{file.path!r:.200} {what}"


def _mask(names: Iterable[Any]) -> int:
    """Return the capabilities *names*; one that is not known stands for all that came later."""
    mask = 0
    for name in names:
        number = _NUMBERS.get(str(name).upper())
        mask |= _LATER if number is None else 1 << number
    return mask


def _named(mask: int) -> str:
    return ", ".join(
        f"CAP_{CAPABILITIES[bit]}" if bit < len(CAPABILITIES) else f"capability {bit}"
        for bit in range(mask.bit_length())
        if mask >> bit & 1
    )


def _is_filtered(profile: Mapping[str, Any] | None) -> bool:
    """Whether *profile* denies more than io_uring, which is denied per node."""
    if not profile:
        return False
    rules = [rule for rule in profile.get("syscalls") or () if not seccomp.allows(rule)]
    default = profile.get("defaultAction")
    if default and default not in seccomp.ALLOWING:
        return True
    return any(set(rule.get("names") or ()) - set(seccomp.IO_URING) for rule in rules)


def _profile(name: Any) -> str:
    text = str(name or "").removeprefix("localhost/")
    return "" if text == "unconfined" else text


def _of_credentials(found: Credentials, allowed: Allowance) -> Iterator[str]:
    for name, mask, limit in (
        ("bounding", found.bounding, allowed.bounding),
        ("permitted", found.permitted, allowed.held),
        ("effective", found.effective, allowed.held),
        ("ambient", found.ambient, allowed.held),
        ("inheritable", found.inheritable, allowed.inheritable),
    ):
        if beyond := mask & ~limit:
            yield f"has {_named(beyond)} in its {name} set"
    if allowed.no_new_privileges and not found.no_new_privileges:
        yield "has no no_new_privs"
    if not allowed.has("CAP_SETPCAP") and (bits := found.securebits & ~_FREE_SECUREBITS):
        yield f"has securebits {bits:#x} without CAP_SETPCAP"
    if allowed.users is not None and (users := set(found.users) - allowed.users):
        yield f"runs as user {_numbers(users)}"
    if allowed.groups is not None:
        own = {*found.groups, *found.supplementary} - allowed.groups - allowed.supplementary
        own |= set(found.groups) - allowed.groups
        if own:
            yield f"runs in group {_numbers(own)}"
    if allowed.profile and not _is_below(found.profile, allowed.profile):
        own_profile = found.profile or "unconfined"
        yield f"has the profile {own_profile!r:.100}, not {allowed.profile!r:.100}"


def _numbers(found: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(found)[:8]))


def _is_below(profile: str, top: str) -> bool:
    """Whether *profile* is *top* or one of its own (hats, children; apparmor.d(5))."""
    return profile == top or profile.startswith(f"{top}//")


def _of_filters(
    thread: Thread, leader: Thread, claims: Claims, judge: filters.Judge
) -> Iterator[str]:
    if thread.seccomp_mode not in (0, FILTER):
        return  # strict: it may read, write and end
    # Where all threads have the leader's filters, only the leader's are written.
    is_led = not thread.seccomp_mode and thread is not leader
    chain = _chain(leader if is_led else thread, claims)
    if is_led and chain and not all(claims.filters[at].flags & THREAD_SYNC for at in chain):
        chain = None
    if not chain:
        yield "has no seccomp filter"
        return
    programs = tuple(claims.filters[at].program for at in chain)
    if passing := judge.passing(programs):
        yield f"has seccomp filters that let through what is denied: {', '.join(passing[:8])}"


def _chain(thread: Thread, claims: Claims) -> list[int] | None:
    """Return the filters of *thread*, the newest first; None if they are not there or go round."""
    found: list[int] = []
    at = thread.filter
    if thread.seccomp_mode != FILTER or at is None:
        return None
    # CRIU writes each behind its previous one.
    while at is not None:
        if at >= len(claims.filters) or (found and at >= found[-1]) or len(found) == MOST_CHAINED:
            return None
        found.append(at)
        at = claims.filters[at].previous
    return found


def _of_namespaces(claims: Claims, allowed: Allowance) -> Iterator[str]:
    root = claims.tasks[0].namespaces if claims.tasks else None
    told = set()
    for task in claims.tasks:
        for name, number in (task.namespaces or {}).items():
            is_same = number == claims.outside.get(name, 0)
            if name == "ipc" and allowed.has_own_ipc and root is not None:
                # The tree is dumped from outside of its IPC namespace, and joins the new one.
                is_same = number == root.get(name)
            if not is_same and name not in told:
                told.add(name)
                yield f"it has a namespace of its own: {name}"


def _leads_out(file: File, pids: set[int]) -> str:
    """Return why *file* may be something outside of the container; empty: it cannot.

    The kernel says of a file by which names it is reached, without links: there is no ``..`` in
    them. Sockets have the name that they were given. Links that lie in the container's files are
    not looked at.
    """
    parts = [part for part in file.path.split("/") if part not in ("", ".")]
    if not file.is_socket and (not file.path.startswith("/") or ".." in parts):
        return "is no path that the kernel writes"
    ways = [parts]
    if ".." in parts:
        ways = [parts[at:] for at in range(len(parts))]
        ways.append(posixpath.normpath(f"/{file.path}").split("/")[1:])
    if any(_is_through_proc(way, file) for way in ways):
        return "leads through a link of /proc"
    if not file.is_socket and _is_memory_of_others(parts, pids):
        return "is the memory of a process that is not in the image"
    return ""


def _is_through_proc(parts: list[str], file: File) -> bool:
    if len(parts) < 3 or parts[0] != "proc":
        return False
    if parts[1] in ("self", "thread-self"):
        return not file.is_socket or _has_link(parts[2:], file)
    return _has_link(parts[2:], file)


def _has_link(rest: list[str], file: File) -> bool:
    if rest[0] == "task":
        rest = rest[2:]
    if not rest:
        return False
    links = 1 if rest[0] in _LINKS else 2 if rest[0] in _FULL_OF_LINKS else 0
    if not links or len(rest) < links:
        return False
    return len(rest) > links or not file.is_link_itself


def _is_memory_of_others(parts: list[str], pids: set[int]) -> bool:
    if len(parts) < 3 or parts[0] != "proc" or parts[-1] != "mem":
        return False
    return any(number.isdecimal() and int(number) not in pids for number in parts[1:-1])
