"""Of pods that come at once to one node, each reaches for another checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from architect.core.errors import Unavailable
from architect.daemon.claims import Claim, Decision, Fresh
from architect.daemon.moves.reaching import Reaching
from architect.kube.errors import Conflict

FRESH = Fresh(reason="Taken", message="")


def checkpoint(name: str, *, version: str = "1", claimed_by: str = "") -> dict[str, Any]:
    status = {"claimedBy": {"uid": claimed_by}} if claimed_by else {}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version},
        "status": status,
    }


def oldest(seen: Sequence[dict[str, Any]]) -> Decision:
    for value in seen:
        if not value["status"].get("claimedBy"):
            metadata = value["metadata"]
            return Claim(
                name=metadata["name"],
                uid=metadata["uid"],
                resource_version=metadata["resourceVersion"],
            )
    return FRESH


@pytest.fixture
def reaching() -> Reaching:
    return Reaching()


def ask(reaching: Reaching, who: str, *found: dict[str, Any]) -> Decision:
    return reaching.decide(f"uid-{who}", who, found, oldest)


def claimed(decision: Decision) -> Claim:
    assert isinstance(decision, Claim)
    return decision


def test_the_next_one_gets_the_next(reaching: Reaching) -> None:
    found = [checkpoint("a"), checkpoint("b")]
    assert claimed(ask(reaching, "one", *found)).name == "a"
    assert claimed(ask(reaching, "two", *found)).name == "b"
    assert found == [checkpoint("a"), checkpoint("b")]


def test_who_asks_again_gets_the_same(reaching: Reaching) -> None:
    for _ in range(2):
        assert claimed(ask(reaching, "one", checkpoint("a"), checkpoint("b"))).name == "a"


def test_nobody_starts_fresh_for_what_another_may_not_get(reaching: Reaching) -> None:
    decision = claimed(ask(reaching, "one", checkpoint("a")))
    waits: Any = ask(reaching, "two", checkpoint("a"))
    assert waits.for_what == "the claim of pod one"
    with reaching.claiming(decision, superseded=Conflict):
        pass
    assert ask(reaching, "two", checkpoint("a")) == FRESH


def test_one_that_could_not_be_written_is_the_others_again(reaching: Reaching) -> None:
    decision = claimed(ask(reaching, "one", checkpoint("a")))
    with pytest.raises(Unavailable), reaching.claiming(decision, superseded=Conflict):
        raise Unavailable("503")
    assert claimed(ask(reaching, "two", checkpoint("a"))).name == "a"


def test_a_version_that_is_not_there_any_more_is_nobodys(reaching: Reaching) -> None:
    decision = claimed(ask(reaching, "one", checkpoint("a")))
    with pytest.raises(Conflict), reaching.claiming(decision, superseded=Conflict):
        raise Conflict("409")
    waits: Any = ask(reaching, "two", checkpoint("a"))
    assert waits.for_what == "the claim of pod one"
    assert claimed(ask(reaching, "two", checkpoint("a", version="2"))).resource_version == "2"
    assert ask(reaching, "three", checkpoint("a", version="3", claimed_by="uid-two")) == FRESH
