"""What a copy in the store would be worth inside a notice: ``python -m bench.paperahead``.

The table of ``docs/spot.md`` is its output. The planner is told of one pod, of which the store has
a share already that is not sent again; the pod is dumped and hashed as a whole all the same. The
shares are about those that ``python -m bench.ahead`` found.
"""

from __future__ import annotations

import math
from typing import Final

from architect.daemon.spot import inputs, planner
from architect.daemon.spot.inputs import Pod, Request
from bench.paper import GB, MACHINES, MIB, Machine

NOTICE_SECONDS: Final = 120.0
SHARES: Final = (0.0, 0.25, 0.7, 0.85, 0.98)
"""Of a pod, in the store."""
STEP_MIB: Final = 256
MOST_STEPS: Final = 1024
CHOSEN: Final = (Machine(gigabits=1, cores=4, disk_bytes_per_second=0.5 * GB), *MACHINES[:2])


def main() -> None:
    """Print the table."""
    print(table())


def table() -> str:
    """Return one row for each machine."""
    head = ("node", "nothing", *(f"{100 * share:.0f} %" for share in SHARES[1:]))
    return "\n".join([_line(head), _line(("---",) * len(head)), *map(row, CHOSEN)])


def row(machine: Machine) -> str:
    """Return the largest pod of one machine for each share."""
    sizes = (largest_mib(machine, share) for share in SHARES)
    name = f"{machine.gigabits} Gb/s, {machine.cores} cores"
    return _line((name, *(f"{size / 1024:g} GiB" for size in sizes)))


def largest_mib(machine: Machine, share: float) -> int:
    """Return the size of the largest pod that is saved if it is the only one."""
    usable = inputs.usable_seconds(NOTICE_SECONDS)

    def is_saved(steps: int) -> bool:
        size = steps * STEP_MIB * MIB
        request = Request(
            deadline_seconds=math.inf,
            pods=(Pod(name="shop/large", image_bytes=size, stored_bytes=int(share * size)),),
            cores=machine.cores,
            rates=machine.rates,
            bounds=machine.as_it_is,
        )
        return planner.plan(request).seconds <= usable

    low, high = 0, MOST_STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_saved(middle) else (low, middle)
    return low * STEP_MIB


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
