"""Capabilities with which a container could reach CRIU while that works among its processes.

CRIU runs with all of the host's capabilities inside the container's pid and mount namespaces. What
keeps the container's own root away from it is that the kernel lets nobody look into a process that
may do more. These capabilities lift that: ``docs/security.md`` has the reasoning for each other
one too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

REFUSED: Final = {
    "CAP_SYS_ADMIN": "it could mount over /proc, from where CRIU takes its images and its facts",
    "CAP_SYS_PTRACE": "it could attach to CRIU, which is root on the node",
}
"""Capability to what its owner could do."""

_BITS: Final = {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21}
"""<linux/capability.h>"""


def refused(held: Iterable[str]) -> list[str]:
    """Return which of the capabilities *held* keep a container from being managed, sorted.

    Names are taken with and without ``CAP_`` and in any case, as the pod API's are; ``ALL`` is
    every capability.
    """
    full = set()
    for name in held:
        upper = name.upper()
        full.add(upper if upper.startswith("CAP_") or upper == "ALL" else f"CAP_{upper}")
    return sorted(REFUSED) if "ALL" in full else sorted(full & REFUSED.keys())


def refused_of_mask(mask: int) -> list[str]:
    """Return which capabilities of a mask of /proc/PID/status are refused, sorted."""
    return sorted(name for name, bit in _BITS.items() if mask >> bit & 1)


def explained(found: Iterable[str]) -> str:
    """Return what the capabilities *found*, all refused, would allow."""
    return "; ".join(f"{name}: {REFUSED[name]}" for name in found)
