"""Nothing looks older than it is, however the wall clock is set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from architect.core.earliest import Earliest

DAY = 86400.0
STEPS = st.lists(
    st.tuples(st.floats(min_value=0, max_value=DAY), st.sampled_from([0.0, -DAY, DAY, 3600.0])),
    max_size=20,
)


class Machine:
    """Its two clocks."""

    def __init__(self) -> None:
        self.boot, self.ahead = 1000.0, 1.7e9
        self.earliest = Earliest(wall=self.wall, boot=lambda: self.boot)

    def wall(self) -> float:
        return self.boot + self.ahead


@given(STEPS)
def test_an_age_is_never_above_what_has_passed(steps: list[tuple[float, float]]) -> None:
    machine = Machine()
    written: list[tuple[float, float]] = []
    for seconds, jump in steps:
        written.append((machine.boot, machine.wall()))
        machine.boot += seconds
        machine.ahead += jump
        for at, wall in written:
            assert machine.earliest() - wall <= machine.boot - at + 1e-3


@given(st.lists(st.floats(min_value=0, max_value=DAY), max_size=20))
def test_without_a_jump_it_is_the_wall_clock(steps: list[float]) -> None:
    machine = Machine()
    for seconds in steps:
        machine.boot += seconds
        assert abs(machine.earliest() - machine.wall()) < 1e-3
