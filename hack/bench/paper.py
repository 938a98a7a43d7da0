"""How much a node can hold and still be saved inside a notice, on paper: ``python -m bench.paper``.

The table of ``docs/spot.md`` is its output, so that no figure is written by hand. Machines and
their links are assumed, all other rates are the planner's defaults, which were measured.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from architect.daemon.spot import inputs, planner, width
from architect.daemon.spot.inputs import Bounds, Pod, Rates, Request
from architect.daemon.spot.need import need

GB: Final = 10**9
MIB: Final = 1 << 20
NOTICES_SECONDS: Final = (120, 30)
SIZES_MIB: Final = (256, 2048)
MEMORY_BYTES: Final = 4 << 30
"""The daemon's limit (``daemon.resources.limits.memory``)."""
MOST_PODS: Final = 4096
"""Kubelet has 110 a node unless it is told otherwise; here the question is bytes."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node that is assumed."""

    gigabits: int
    cores: int
    disk_bytes_per_second: float

    @property
    def rates(self) -> Rates:
        return replace(
            Rates(),
            upload_bytes_per_second=self.gigabits * GB / 8,
            disk_bytes_per_second=self.disk_bytes_per_second,
        )

    @property
    def as_it_is(self) -> Bounds:
        """What the daemon does at a notice, unless the chart says otherwise."""
        objects = width.objects(self.rates, cores=self.cores, memory_bytes=MEMORY_BYTES)
        return Bounds(objects=objects)

    @property
    def much_at_once(self) -> Bounds:
        """The same with as many captures as there may be of use."""
        return replace(self.as_it_is, captures=16)

    def __str__(self) -> str:
        disk = f"{self.disk_bytes_per_second / GB:g} GB/s"
        return f"{self.gigabits} Gb/s, {self.cores} cores, disk {disk}"


MACHINES: Final = (
    Machine(gigabits=10, cores=16, disk_bytes_per_second=1 * GB),
    Machine(gigabits=25, cores=32, disk_bytes_per_second=2 * GB),
    Machine(gigabits=100, cores=96, disk_bytes_per_second=8 * GB),
)


def main() -> None:
    """Print the table."""
    print(table())


def table() -> str:
    """Return one row for each machine, notice and size of its pods."""
    head = ("node", "notice", "pods of", "as the daemon is", "limit", "16 captures", "limit")
    found = (row for machine in MACHINES for row in rows(machine))
    return "\n".join([_line(head), _line(["---"] * len(head)), *found])


def rows(machine: Machine) -> list[str]:
    """Return those of one machine."""
    found = []
    for notice, size in itertools.product(NOTICES_SECONDS, SIZES_MIB):
        cells = [str(machine), f"{notice} s", _size(size)]
        for bounds in (machine.as_it_is, machine.much_at_once):
            cells += _cells(machine, bounds, notice_seconds=notice, size_bytes=size * MIB)
        found.append(_line(cells))
    return found


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(
    machine: Machine, bounds: Bounds, *, notice_seconds: float, size_bytes: int
) -> tuple[str, str]:
    usable = inputs.usable_seconds(notice_seconds)

    def at_leisure(number: int) -> Request:
        return Request(
            deadline_seconds=math.inf,
            pods=tuple(Pod(name=f"{n:04}", image_bytes=size_bytes) for n in range(number)),
            cores=machine.cores,
            rates=machine.rates,
            bounds=bounds,
        )

    number = _most(lambda n: planner.plan(at_leisure(n)).seconds <= usable)
    limit = need(at_leisure(max(1, number))).limit
    size = _size(number * size_bytes // MIB) if number else "none"
    return f"{size} ({number})", limit.value if limit else "–"


def _most(is_possible: Callable[[int], bool]) -> int:
    """Return the largest number of pods that is possible; what is more than that is not."""
    low, high = 0, 1
    while high <= MOST_PODS and is_possible(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if is_possible(middle):
            low = middle
        else:
            high = middle
    return low


def _size(mebibytes: int) -> str:
    return f"{mebibytes / 1024:g} GiB" if mebibytes >= 1024 else f"{mebibytes} MiB"


if __name__ == "__main__":
    main()
