"""Claims: what holds whatever there is to decide about."""

from __future__ import annotations

import copy
import dataclasses
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from architect.daemon import claims, offers
from architect.daemon.claims import Claim, Sibling, Wait
from architect.kube.checkpoints import Trigger
from support.newcomers import (
    BOUNDS,
    HASH,
    NODE,
    OWNER,
    SET,
    Json,
    checkpoint,
    decide,
    newcomer,
    sibling,
)


@st.composite
def states(draw: st.DrawFn) -> Json:
    kinds = ("Captured", "Available", "Claimed", "Restored", "Failed")
    return {
        k: draw(st.sampled_from(["True", "False", "Unknown"])) for k in kinds if draw(st.booleans())
    }


@st.composite
def any_checkpoints(draw: st.DrawFn, *, ordinals: tuple[int | None, ...]) -> list[Json]:
    found = []
    for name in draw(st.lists(st.sampled_from("abcdefgh"), max_size=5, unique=True)):
        found.append(
            checkpoint(
                name,
                namespace=draw(st.sampled_from(["shop", "shop", "shop", "other"])),
                owner=draw(st.sampled_from(["owner-1", "owner-1", "owner-1", "owner-2"])),
                ordinal=draw(st.sampled_from(ordinals)),
                template_hash=draw(st.sampled_from([HASH, HASH, HASH, "v1:b", "", "v2:a"])),
                trigger=draw(st.sampled_from([Trigger.EVICTION, Trigger.EVICTION, *Trigger])),
                created=draw(st.integers(-2000, 20)),
                captured=draw(st.none() | st.integers(0, 20)),
                claimed_by=draw(st.sampled_from(["", "", "", "new", "another"])),
                state=draw(st.none() | states()),
                requirements=draw(
                    st.none()
                    | st.fixed_dictionaries(
                        {
                            "architecture": st.sampled_from(["amd64", "arm64"]),
                            "cpuFeatures": st.sampled_from([["avx2"], ["avx512f"], []]),
                            "criu": st.sampled_from(["4.2.7", "4.1"]),
                        }
                    )
                ),
            )
        )
    return found


@st.composite
def any_siblings(draw: st.DrawFn, *, ordinals: tuple[int | None, ...]) -> tuple[Sibling, ...]:
    uids = draw(st.lists(st.sampled_from("abcdefghij"), max_size=3, unique=True))
    return tuple(
        sibling(
            uid,
            deleted=draw(st.integers(-100, 20)),
            ordinal=draw(st.sampled_from(ordinals)),
            template_hash=draw(st.sampled_from([HASH, "v1:b"])),
        )
        for uid in uids
    )


@st.composite
def cases(draw: st.DrawFn) -> Json:
    ordinal = draw(st.sampled_from([None, 0]))
    ordinals = (None, None, 0) if ordinal is None else (0, 0, 1, None)
    return {
        "who": newcomer(
            owner=OWNER if ordinal is None else SET,
            ordinal=ordinal,
            created=draw(st.integers(-10, 20)),
            has_started=draw(st.sampled_from([False, False, False, True])),
        ),
        "found": draw(any_checkpoints(ordinals=ordinals)),
        "siblings": draw(any_siblings(ordinals=ordinals)),
        "waited": draw(st.floats(0, 100)),
    }


def run(case: Json, **more: Any) -> claims.Decision:
    case = {**case, **more}
    return decide(case["who"], *case["found"], siblings=case["siblings"], waited=case["waited"])


@given(case=cases())
def test_only_what_is_the_pods_own_is_ever_claimed(case):
    decision = run(case)
    if not isinstance(decision, Claim):
        return
    value = next(v for v in case["found"] if v["metadata"]["name"] == decision.name)
    who, spec, status = case["who"], value["spec"], value["status"]
    shown = {c["type"]: c["status"] for c in status["conditions"]}
    assert value["metadata"]["namespace"] == who.namespace
    assert spec["owner"]["uid"] == who.identity.owner.uid
    assert spec["owner"].get("ordinal") == who.identity.ordinal
    assert spec["templateHash"] == who.identity.template_hash
    assert spec["trigger"] not in ("Sleep", "Request")
    assert spec["podRef"]["uid"] != who.uid
    assert status.get("claimedBy", {"uid": "new"})["uid"] == "new"
    assert shown.get("Restored") != "True"
    assert shown.get("Failed") != "True"
    if "claimedBy" not in status:
        assert shown.get("Available") == "True"
        assert status["requirements"]["architecture"] == "amd64"
        assert set(status["requirements"]["cpuFeatures"]) <= NODE.cpu_features
        assert not who.has_started


@given(case=cases(), source=st.randoms(use_true_random=False))
def test_the_order_of_lists_means_nothing_and_nothing_given_is_changed(
    case: Json, source: random.Random
):
    before = copy.deepcopy(case["found"])
    decision = run(case)
    assert run(case) == decision
    assert case["found"] == before
    found, siblings = list(case["found"]), list(case["siblings"])
    source.shuffle(found)
    source.shuffle(siblings)
    for value in found:
        source.shuffle(value["status"]["conditions"])
    assert run(case, found=found, siblings=tuple(siblings)) == decision


@given(case=cases())
def test_every_wait_is_bounded(case):
    longest = max(BOUNDS.capture_seconds, BOUNDS.sibling_seconds)
    decision = run(case)
    if isinstance(decision, Wait):
        assert 0 < decision.seconds <= longest - case["waited"]
        later = run(case, waited=case["waited"] + decision.seconds + 1e-6)
        assert not isinstance(later, Wait)
    assert not isinstance(run(case, waited=longest), Wait)


@given(case=cases())
def test_a_claimed_checkpoint_is_never_claimed_by_another(case):
    """Newcomers come one after the other, and each writes its claim."""
    found = case["found"]
    taken: dict[str, str] = {}
    for uid in ("n1", "n2", "n3", "n1", "n4"):
        who = dataclasses.replace(case["who"], uid=uid, name=f"web-{uid}", has_started=False)
        decision = run(case, who=who)
        if isinstance(decision, Claim):
            assert taken.setdefault(decision.name, uid) == uid
            value = next(v for v in found if v["metadata"]["name"] == decision.name)
            value["status"]["claimedBy"] = {"name": who.name, "uid": uid, "node": "n"}
            assert run(case, who=who) == decision
    assert len(set(taken.values())) == len(taken)


@given(count=st.integers(1, 8), newcomers=st.integers(1, 8))
def test_as_many_pods_are_restored_as_were_captured(count, newcomers):
    """Twenty pods drained at once: each new one gets another's memory, until there is none."""
    found = [checkpoint(f"c{n}", captured=n) for n in range(count)]
    got = []
    for n in range(newcomers):
        decision = decide(newcomer(uid=f"n{n}"), *found)
        if isinstance(decision, Claim):
            got.append(decision.name)
            value = next(v for v in found if v["metadata"]["name"] == decision.name)
            value["status"]["claimedBy"] = {"name": "x", "uid": f"n{n}", "node": "n"}
    assert got == [f"ckpt-c{n}" for n in reversed(range(count))][:newcomers]


@given(case=cases())
def test_an_ordinal_never_goes_back_behind_its_newest_checkpoint(case):
    decision = run(case)
    who = case["who"]
    if who.identity.ordinal is None or not isinstance(decision, Claim):
        return
    line = [
        v
        for v in case["found"]
        if v["metadata"]["namespace"] == "shop"
        and v["spec"]["owner"]["uid"] == "owner-1"
        and v["spec"]["owner"].get("ordinal") == 0
        and v["spec"]["trigger"] in offers.MIGRATIONS
    ]
    value = next(v for v in line if v["metadata"]["name"] == decision.name)
    if "claimedBy" not in value["status"]:
        created = [v["metadata"]["creationTimestamp"] for v in line]
        assert value["metadata"]["creationTimestamp"] == max(created)
