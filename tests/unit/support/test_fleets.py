"""What a test may conclude from what pods say after a move."""

from __future__ import annotations

import pytest

from support import fleets
from support.fleets import Known


def known(name: str, *, identity: str, count: int = 1, digest: str = "d", squad: str = "s"):
    pod = {"metadata": {"name": name, "uid": f"uid-{name}"}}
    return Known(squad=squad, pod=pod, identity=identity, digest=digest, count=count)


def test_the_fleet_of_the_proof_is_twenty_pods_of_four_gibibytes() -> None:
    sizes = [squad.mebibytes for squad in fleets.TWENTY for _ in range(squad.replicas)]
    assert (len(sizes), sum(sizes), min(sizes), max(sizes)) == (20, 4096, 16, 2048)
    assert {squad.kind for squad in fleets.TWENTY} == {"Deployment", "StatefulSet"}
    assert {squad.fill for squad in fleets.TWENTY} == {"random", "digits"}


def test_who_has_the_memory_of_before_went_on_and_who_has_another_began_anew() -> None:
    before = [known("a", identity="1"), known("b", identity="2")]
    after = [known("c", identity="1", count=2), known("d", identity="9")]
    found = fleets.compare(before, after)
    assert {uid: new.name for uid, new in found.went_on.items()} == {"uid-a": "c"}
    assert [old.name for old in found.lost] == ["b"]
    assert [new.name for new in found.fresh] == ["d"]


@pytest.mark.parametrize(
    "after",
    [
        [known("c", identity="1", count=2, digest="other")],
        [known("c", identity="1", count=1)],
        [known("c", identity="1", count=2, squad="other")],
        [known("c", identity="1", count=2), known("d", identity="1", count=3)],
    ],
    ids=["other memory", "an earlier count", "another owner's", "twice"],
)
def test_half_of_a_memory_is_no_memory(after: list[Known]) -> None:
    with pytest.raises(AssertionError):
        fleets.compare([known("a", identity="1")], after)
