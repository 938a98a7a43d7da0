"""The matrix is whole: each pair is tried, or it is said why not."""

from __future__ import annotations

import pytest

from faults import matrix
from faults.breaking import BREAKERS
from faults.matrix import FAULTS, MACHINE_FAULTS, STEPS, Bound, Meaningless, Pair, Step, Tried


def test_every_pair_is_tried_or_has_a_reason() -> None:
    pairs = list(matrix.pairs())
    assert len(pairs) == len(FAULTS) * len(STEPS) == len({str(pair) for pair in pairs})
    for pair in pairs:
        if isinstance(pair.plan, Meaningless):
            assert pair.plan.why, pair
        elif pair.plan.bound is not Bound.GOES_ON:
            assert pair.plan.why, f"{pair}: why may it cost the memory?"


def test_every_fault_that_is_tried_can_be_made() -> None:
    made = {pair.fault.name for pair in matrix.tried(faults=[*FAULTS, *MACHINE_FAULTS])}
    assert made == set(BREAKERS)


def test_most_pairs_may_cost_nothing() -> None:
    bounds = [pair.plan.bound for pair in matrix.tried() if isinstance(pair.plan, Tried)]
    assert bounds.count(Bound.GOES_ON) > len(bounds) / 2


def test_pairs_are_chosen_by_fault_by_step_and_by_both() -> None:
    assert {pair.fault.name for pair in matrix.tried(["keeper"])} == {"keeper"}
    assert {pair.step for pair in matrix.tried(["@dump"])} == {Step.DUMP}
    (one,) = matrix.tried(["keeper@dump", "keeper@dump"])
    assert str(one) == "keeper@dump"
    with pytest.raises(ValueError, match="runc@dump"):
        matrix.tried(["runc@dump"])


def test_a_pair_is_named_by_both() -> None:
    fault = next(fault for fault in FAULTS if fault.name == "keeper")
    assert str(Pair(fault=fault, step=Step.BEFORE_HOLD)) == "keeper@before-hold"
