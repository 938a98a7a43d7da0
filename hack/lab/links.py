"""Links that carry less than they could, for some of what a machine sends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lab import errors
from lab.machine import Machine

TCP = "match ip protocol 6 0xff"


def to(address: str, port: int | None = None) -> str:
    """Return the match of what goes by TCP to *address*, at *port* or any."""
    found = f"match ip dst {address}/32 {TCP}"
    return found if port is None else f"{found} match ip dport {port} 0xffff"


def from_port(port: int) -> str:
    """Return the match of what goes by TCP from *port*, to anybody: a server's answers."""
    return f"{TCP} match ip sport {port} 0xffff"


@contextmanager
def limited(machine: Machine, bytes_per_second: float, match: str) -> Iterator[None]:
    """Let no more go from *machine* of what *match* tells, all connections together.

    Everything else that it sends, and all that it receives, is as fast as ever.
    """
    rate = f"{bytes_per_second * 8:.0f}bit"
    for words in (
        "qdisc replace dev eth0 root handle 1: htb",
        # Some large packets at once, and no more: what is sent must be there at its time.
        f"class add dev eth0 parent 1: classid 1:1 htb rate {rate} ceil {rate} burst 256k",
        f"filter add dev eth0 parent 1: protocol ip prio 1 u32 {match} flowid 1:1",
    ):
        machine.run_in_network("tc", *words.split())
    try:
        yield
    finally:
        with suppress(errors.LabError):  # the machine has ended
            machine.run_in_network("tc", "qdisc", "del", "dev", "eth0", "root")
