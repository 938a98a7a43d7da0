from __future__ import annotations

import pytest

from architect.core.errors import Unavailable
from architect.operator.leader import Elector, Move, Seen, decide


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def elector(api, clock, identity):
    return Elector(
        api, namespace="ns", name="lease", identity=identity, lease_seconds=15, clock=clock
    )


def lease(holder, renewed="t0", seconds=15):
    return {
        "spec": {
            "holderIdentity": holder,
            "renewTime": renewed,
            "leaseDurationSeconds": seconds,
        }
    }


@pytest.mark.parametrize(
    ("value", "seen_at", "now", "move"),
    [
        (None, None, 0, Move.CREATE),
        (lease("me"), None, 0, Move.RENEW),
        (lease(""), None, 0, Move.TAKE),
        (lease("other"), None, 1000, Move.WAIT),  # seen for the first time: no clock is compared
        (lease("other"), 0, 14.9, Move.WAIT),
        (lease("other"), 0, 15, Move.TAKE),
    ],
)
def test_a_lease_is_taken_when_it_was_seen_unchanged_for_its_time(value, seen_at, now, move):
    seen = None if seen_at is None else Seen(mark=("other", "t0"), at=seen_at)
    assert decide(value, identity="me", seen=seen, now=now)[0] is move


def test_a_renewal_by_another_starts_the_wait_anew():
    first = Seen(mark=("other", "t0"), at=0)
    move, seen = decide(lease("other", "t1"), identity="me", seen=first, now=20)
    assert move is Move.WAIT
    assert seen is not None
    assert seen.at == 20


def test_one_of_two_leads_and_the_other_takes_over_when_it_vanishes(api, clock):
    first, second = elector(api, clock, "a"), elector(api, clock, "b")
    assert first.step()
    assert not second.step()
    for _ in range(3):
        clock.now += 5
        assert first.step()
        assert not second.step()
    clock.now += 14
    assert not second.step()
    clock.now += 2
    assert second.step()
    assert not first.step()


def test_a_released_lease_is_taken_at_once(api, clock, server):
    first, second = elector(api, clock, "a"), elector(api, clock, "b")
    assert first.step()
    second.step()
    first.release()
    assert not first.is_leader
    assert second.step()
    stored = next(iter(server.objects.values()))
    assert stored["spec"]["leaseTransitions"] == 1


def test_the_release_of_one_that_does_not_lead_touches_nothing(api, clock, server):
    first, second = elector(api, clock, "a"), elector(api, clock, "b")
    first.step()
    second.step()
    second.release()
    assert first.step()


def test_a_leader_that_cannot_renew_gives_up_before_another_may_start(api, clock, server):
    first = elector(api, clock, "a")
    assert first.step()
    server.fail = lambda _: Unavailable("away")
    clock.now += 9.9
    assert first.step()
    clock.now += 0.2
    assert not first.step()


def test_two_that_write_at_once_do_not_both_lead(api, clock, server):
    first, second = elector(api, clock, "a"), elector(api, clock, "b")
    first.step()
    second.step()
    first.release()

    def intervene(request):
        if request.method == "PATCH" and request.body["spec"].get("holderIdentity") == "b":
            path = next(iter(server.objects))
            server.put(path, {**server.objects[path], "spec": lease("c", "t9")["spec"]})
        return

    server.fail = intervene
    assert not second.step()
