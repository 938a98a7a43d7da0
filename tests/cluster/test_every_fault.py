"""What only a cluster has is killed while a pod sleeps, wakes and so on; a sample of the matrix.

`make faults` tries all of it: see :mod:`faults`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults import matrix, soak
from faults.cluster import place as places
from faults.cluster import stage
from faults.cluster.place import Place
from faults.matrix import CLUSTER_FAULTS
from lab.cluster import Cluster
from support.tiers import sized

pytestmark = pytest.mark.long

SAMPLE = {
    "daemon": ["daemon@dump"],
    "containerd": ["containerd@restore"],
    "kubelet": ["kubelet@before-release"],
}
"""By fault."""
WHOLE = {fault.name: [fault.name] for fault in CLUSTER_FAULTS}


@pytest.fixture(scope="module")
def place(architect: Cluster) -> Iterator[Place]:
    with places.opened(architect, architect.nodes[-1]) as made:
        yield made


@pytest.mark.timeout(sized(900, 1800))
@pytest.mark.parametrize("fault", sized(sorted(SAMPLE), sorted(WHOLE)))
def test_it_is_survived(place: Place, fault: str) -> None:
    pairs = matrix.tried(sized(SAMPLE, WHOLE)[fault], faults=CLUSTER_FAULTS)
    results = list(stage.run(place, pairs, tell=print))
    assert [str(result) for result in results if not result.has_survived] == []


@pytest.mark.timeout(sized(900, 3600))
def test_pods_sleep_and_wake_under_clients_and_nothing_is_left(architect: Cluster) -> None:
    found = soak.soak(architect, cycles=sized(30, 1000), pods=sized(6, 20), is_attached=True)
    print(found)
    assert found.is_clean, str(found)
    assert found.cycles >= sized(30, 1000)
