"""io_uring in a container's seccomp profile.

CRIU cannot dump a ring. Engines' default profiles deny io_uring already (containerd since 2.0,
moby since 25.0) and applications fall back by themselves; for profiles that allow it, and for
containers without a profile, the same denial is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

IO_URING: Final = ("io_uring_setup", "io_uring_enter", "io_uring_register")
ENOSYS: Final = 38
"""As on a kernel without io_uring: the answer that every user of it must expect."""

ALLOWING: Final = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG"})
_DENIAL: Final = {"names": list(IO_URING), "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}
_ARCHITECTURES: Final = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
"""Left out, libseccomp would kill whatever runs 32-bit code."""


def without_io_uring(profile: dict[str, Any] | None, *, machine: str) -> dict[str, Any] | None:
    """Return *profile* such that io_uring is denied and nothing else is changed.

    A container without a profile gets one that allows everything else. The input is not modified.
    """
    if profile is None:
        if machine not in _ARCHITECTURES:
            return None
        return {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": _ARCHITECTURES[machine],
            "syscalls": [_DENIAL],
        }
    rules = profile.get("syscalls") or []
    is_named = any(allows(rule) and set(rule.get("names", ())) & set(IO_URING) for rule in rules)
    is_denied = any(
        not allows(rule) and "io_uring_setup" in rule.get("names", ()) for rule in rules
    )
    is_default = profile.get("defaultAction") in ALLOWING
    if not is_named and (is_denied or not is_default):
        return profile
    kept = [_without_names(rule) if allows(rule) else rule for rule in rules]
    return {**profile, "syscalls": [*(rule for rule in kept if rule.get("names")), _DENIAL]}


def allows(rule: Mapping[str, Any]) -> bool:
    """Whether *rule* of a profile lets its calls through."""
    return rule.get("action") in ALLOWING


def _without_names(rule: dict[str, Any]) -> dict[str, Any]:
    return {**rule, "names": [name for name in rule.get("names", ()) if name not in IO_URING]}
