"""One thing at a time is killed or broken at one step, with clients; a sample of the matrix.

`make faults` tries all of it: see :mod:`faults`.
"""

from __future__ import annotations

import pytest

from faults import matrix
from faults.matrix import Pair
from faults.stage import Stage
from support.tiers import sized

pytestmark = pytest.mark.timeout(300)

SAMPLE = (
    "keeper@before-hold",
    "keeper@dump",
    "keeper@after-dump",
    "keeper@before-restore",
    "keeper@restore",
    "keeper@before-release",
    "keeper@stop",
    "keeper+warden@asleep",
    "keeper+warden@restore",
    "warden@after-dump",
    "init@asleep",
    "init@restore",
    "inner-init@freezing",
    "runc@create",
    "runc@delete",
    "criu@dump",
    "criu@restore",
    "disk-full@dump",
    "disk-full@before-restore",
    "disk-read-only@asleep",
    "disk-stalled@before-restore",
    "image-cut@asleep",
    "image-damaged@before-restore",
    "no-memory@before-restore",
    "no-pids@asleep",
    "twice@freezing",
    "flood@restore",
)


@pytest.mark.parametrize("pair", sized(matrix.tried(SAMPLE), matrix.tried()), ids=str)
def test_it_is_survived(stage: Stage, pair: Pair) -> None:
    result = stage.run(pair)
    print(result)
    assert result.has_survived, "\n".join(result.failures)
