"""The wall clock is set by a day at one step: nobody notices.

``FAULTS`` (environment) chooses pairs as `make faults` does.
"""

from __future__ import annotations

import os

import pytest

from faults import matrix
from faults.matrix import MACHINE_FAULTS, Pair
from faults.stage import Stage

SAMPLE = ("clock-ahead@dump", "clock-back@asleep", "clock-ahead@restore", "clock-back@stop")
WANTED = os.environ.get("FAULTS", "").split() or SAMPLE


@pytest.mark.parametrize("pair", matrix.tried(WANTED, faults=MACHINE_FAULTS), ids=str)
def test_it_is_survived(stage: Stage, pair: Pair) -> None:
    result = stage.run(pair)
    print(result)
    assert result.has_survived, "\n".join(result.failures)
