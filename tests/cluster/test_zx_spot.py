"""A spot machine is taken back: what was saved inside the notice goes on when the machine is gone.

The end is a real one: no process and no disk is left of the node, and nobody is told. So this runs
behind all that needs the nodes of before (``zx``), and before what takes Architect away (``zz``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from architect.api import names
from architect.daemon.spot import planner
from architect.daemon.spot.inputs import RESERVE_SECONDS
from lab import store_faults
from lab.cluster import Cluster
from support import fleets, moves, parts, roles
from support.fleets import Fleet, Known, Outcome, Squad
from support.objectstore import in_store
from support.spotnodes import GONE_SECONDS, SpotNode, is_gone, spot_node
from support.storing import Gate, leave
from support.tiers import sized
from support.workloads import eventually, workload

pytestmark = pytest.mark.timeout(1200)

MIB: Final = 1 << 20
OF_TIME: Final = {planner.NO_TIME_LEFT, planner.TOO_LARGE, planner.NO_TIME}
"""Reasons why there is no time for a pod."""
TEACHER_MIB: Final = 32
"""Of a pod that moves before the notice: several objects, by which the node learns how fast the way
to the store is."""
SLOW: Final = 8 * MIB
"""Bytes a second, at which half a minute is enough for some of four small pods."""
CLOCK_SECONDS: Final = 2.0
"""Between what a service says in whole seconds and what a node writes in whole seconds."""
INCOMPRESSIBLE: Final = MIB * sum(
    squad.mebibytes * squad.replicas for squad in fleets.TWENTY if squad.fill == "random"
)
"""Bytes of the twenty that are sent as they are."""
MARK: Final = "ToBeDeletedByClusterAutoscaler"


@contextmanager
def told(
    cluster: Cluster, namespace: str, squads: Sequence[Squad], *, cloud: str = "aws"
) -> Iterator[tuple[SpotNode, Fleet, list[Known]]]:
    """Have *squads* run on a spot machine and be visited; give what each pod said of itself."""
    with (
        spot_node(cluster, cloud=cloud) as place,
        fleets.running(cluster, namespace, squads, node=place.name) as fleet,
        fleet.visited() as visits,
    ):
        yield place, fleet, fleet.known()
        eventually(visits.are_served, what="everybody is served again")
        visits.check()


def after_the_end(place: SpotNode, fleet: Fleet, before: Sequence[Known]) -> Outcome:
    """Return what became of the pods once others run in their place."""
    old = [known.pod for known in before]
    after = fleet.known(apart_from=old, seconds=GONE_SECONDS)
    assert place.name not in {known.pod["spec"]["nodeName"] for known in after}
    return fleets.compare(before, after)


def refused(fleet: Fleet) -> dict[str, str]:
    """Return why a pod could not be saved, by its uid."""
    return {
        uid: reason
        for uid, (status, reason) in fleet.conditions("Captured").items()
        if status == "False"
    }


def as_was_said(outcome: Outcome, fleet: Fleet) -> None:
    """Fail unless those and only those have begun anew of whom it was said, with the reason."""
    why = refused(fleet)
    assert {known.uid for known in outcome.lost} == set(why), (why, outcome)
    assert set(outcome.went_on).isdisjoint(why)
    assert len(outcome.fresh) == len(outcome.lost)
    found = fleet.checkpoints()
    for uid in why:
        message = condition(found[uid], "Captured")["message"]
        assert message, found[uid]


def condition(checkpoint: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition of a Checkpoint that has it."""
    (found,) = [c for c in checkpoint["status"]["conditions"] if c["type"] == kind]
    value: dict[str, Any] = found
    return value


def triggers(fleet: Fleet, before: Sequence[Known]) -> dict[str, str]:
    """Return why each pod was saved, by its name. Fails unless each has one Checkpoint of that."""
    items = fleet.any_app.get_json("checkpoints.architect.dev")["items"]
    wanted = {known.uid: known.name for known in before}
    moved = [c["spec"] for c in items if c["spec"]["trigger"] != "Sleep"]
    saved = [spec for spec in moved if spec["podRef"]["uid"] in wanted]
    assert sorted(spec["podRef"]["uid"] for spec in saved) == sorted(wanted)
    return {wanted[spec["podRef"]["uid"]]: str(spec["trigger"]) for spec in saved}


def moved_by_the_notice(fleet: Fleet, before: Sequence[Known]) -> None:
    """Fail unless each pod has one Checkpoint, made for the notice."""
    assert set(triggers(fleet, before).values()) == {"SpotInterruption"}


@pytest.mark.parametrize("end", sized(["they have left"], ["they have left", "they are stored"]))
def test_pods_go_on_elsewhere_after_their_machine_is_gone(
    architect: Cluster, namespace: str, end: str
) -> None:
    """It ends as soon as *end*, as a cloud may, too; and a test need not wait for two minutes."""
    with told(architect, namespace, fleets.FOUR) as (place, fleet, before):
        with place.countdown() as countdown:
            place.wait_until_marked()
            said = place.interruption()
            assert said is not None
            assert (said.kind, said.source) == ("interruption", "aws")
            assert said.ends is not None
            assert abs(said.ends.timestamp() - countdown.ends) <= CLOCK_SECONDS
            assert not place.is_schedulable()
            (appeared,) = eventually(
                lambda: place.events(names.EVENT_NOTICE_APPEARED), what="event NoticeAppeared"
            )
            assert appeared.startswith("interruption")
            fleet.wait_until_safe(before, seconds=countdown.left_seconds)
            if end == "they have left":
                uids = {known.uid for known in before}
                eventually(lambda: not uids & there(fleet), what="the pods of before have left")
            countdown.end_now()
            assert is_gone(countdown)
        outcome = after_the_end(place, fleet, before)
        assert (list(outcome.lost), list(outcome.fresh)) == ([], [])
        moved_by_the_notice(fleet, before)
        for old in before:
            app = fleet.app(next(s for s in fleet.squads if s.name == old.squad))
            assert moves.ended(app, old.pod)["Restored"] == ("True", "Restored")
            eventually(
                partial(moves.events, app, old.pod, names.EVENT_CAPTURED),
                what=f"event Captured of {old.name}",
            )
            new = outcome.went_on[old.uid]
            (restored,) = eventually(
                partial(moves.events, app, new.pod, names.EVENT_RESTORED),
                what=f"event Restored of {new.name}",
            )
            assert old.name in restored


# Of half a minute a slow machine may need all: it is not a test of speed that everybody runs.
@pytest.mark.long
def test_what_does_not_fit_into_a_notice_is_said_and_starts_anew(
    architect: Cluster, namespace: str
) -> None:
    with told(architect, namespace, fleets.FOUR, cloud="gcp") as (place, fleet, before):
        with store_faults.limited(place.node.machine, SLOW):
            teach(place, namespace)
            planned = misfits(place, before, seconds=30)
            with place.countdown() as countdown:
                place.wait_until_marked()
                why = eventually(lambda: refused(fleet), what="it is said who is not saved")
                assert set(why.values()) <= OF_TIME
                # Nobody moves the end. What becomes of it is seen from what is left.
                countdown.wait()
                assert is_gone(countdown)
        outcome = after_the_end(place, fleet, before)
        as_was_said(outcome, fleet)
        # As was seen before the notice; but there may have been time for more, in the end.
        assert {known.name for known in outcome.lost} <= planned
        assert outcome.lost, "the limit is so low that not all of them fit"
        assert outcome.went_on, "and some do"
        assert {known.squad for known in outcome.lost} >= {"large"}


def misfits(place: SpotNode, pods: Sequence[Known], *, seconds: float) -> set[str]:
    """Return the names of those for which the node would have no time in a notice of *seconds*."""
    said = place.plan(seconds)
    names_of = {f"{k.pod['metadata']['namespace']}/{k.name}": k.name for k in pods}
    return {name for full, name in names_of.items() if said[full]["verdict"] == "misfit"}


def teach(place: SpotNode, namespace: str) -> None:
    """Have the node learn how fast its way to the store is: a pod is sent there, and stays."""
    gate = Gate(cluster=place.cluster, name="teacher")
    selector = {"kubernetes.io/hostname": place.name, **gate.selector}
    gate.open()
    try:
        with workload(
            place.cluster,
            namespace,
            "teacher",
            mebibytes=TEACHER_MIB,
            spec={"nodeSelector": selector},
        ) as app:
            gate.close()
            leave(app)
    finally:
        gate.close()


@pytest.mark.long
def test_a_withdrawn_notice_gives_the_node_back_and_nobody_loses_anything(
    architect: Cluster, namespace: str
) -> None:
    with told(architect, namespace, fleets.FOUR) as (place, fleet, before):
        with place.countdown() as countdown:
            place.wait_until_marked()
            eventually(fleet.captured, what="the first pod is captured")
            place.service.withdraw()
            assert countdown.call_off()
        place.wait_until_unmarked()
        eventually(lambda: place.events(names.EVENT_NOTICE_WITHDRAWN), what="event NoticeWithdrawn")
        # Who has left goes on elsewhere, or here again; who had not stays.
        eventually(
            lambda: nobody_leaves(fleet), what="nobody leaves any more", seconds=GONE_SECONDS
        )
        outcome = fleets.compare(before, fleet.known(seconds=GONE_SECONDS))
        assert (list(outcome.lost), list(outcome.fresh)) == ([], [])


def there(fleet: Fleet) -> set[str]:
    """Return the uids of all pods, those that are being deleted as well."""
    return {str(p["metadata"]["uid"]) for p in fleet.any_app.get_json("pods")["items"]}


def nobody_leaves(fleet: Fleet) -> bool:
    """Whether each pod that is there stays.

    None is being deleted, or about to be since nothing of it runs any more, which it may look ready
    for a while; and of none it is still to be said whether it could be saved.
    """
    if fleet.checkpoints().keys() - fleet.conditions("Captured").keys():
        return False
    captured = fleet.captured()
    pods = [p["metadata"] for p in fleet.any_app.get_json("pods")["items"]]
    return not any("deletionTimestamp" in pod or pod["uid"] in captured for pod in pods)


@pytest.mark.long
def test_a_notice_that_changes_another_one_and_a_daemon_killed_meanwhile_change_nothing(
    architect: Cluster, namespace: str
) -> None:
    with (
        told(architect, namespace, fleets.FOUR) as (place, fleet, before),
        ExitStack() as stack,
    ):
        moves.never_killed(architect, place.node)
        # Something of a pod is on the disk, whole or in part.
        seen = f"ls {names.CHECKPOINTS} | grep -qE '{'|'.join(known.uid for known in before)}'"
        with moves.killed_when(place.node, seen, moves.pid_of_daemon(place.node)):
            with place.countdown() as countdown:
                place.wait_until_marked()
                place.service.notice(90)
                # Of somebody who does not say when, and drains it at their own pace.
                stack.enter_context(marked_by_another(place))
                old = [known.pod for known in before]
                after = fleet.known(apart_from=old, seconds=countdown.left_seconds)
                assert countdown.call_off()
            outcome = fleets.compare(before, after)
            assert (list(outcome.lost), list(outcome.fresh)) == ([], [])
            moved_by_the_notice(fleet, before)
        eventually(
            lambda: any(MARK in said for said in place.events(names.EVENT_NOTICE_APPEARED)),
            what="the second notice was heard",
        )
        assert place.is_marked()
        place.service.withdraw()
        place.wait_until_unmarked()


@contextmanager
def marked_by_another(place: SpotNode) -> Iterator[None]:
    """Have the node say for the ``with`` block that somebody else is about to remove it."""
    place.cluster.kubectl("taint", "node", place.name, f"{MARK}=1:PreferNoSchedule")
    try:
        yield
    finally:
        place.cluster.kubectl("taint", "node", place.name, f"{MARK}-")


@pytest.mark.long
def test_a_pod_that_is_drained_as_the_notice_comes_is_saved_once(
    architect: Cluster, namespace: str
) -> None:
    with told(architect, namespace, fleets.FOUR) as (place, fleet, before):
        drained = [known for known in before if known.squad == fleet.any_app.name]
        with moves.draining(fleet.any_app, place.name):
            eventually(
                lambda: {known.uid for known in drained} <= fleet.checkpoints().keys(),
                what="the drained pod is being saved",
            )
            with place.countdown() as countdown:
                fleet.wait_until_safe(before, seconds=countdown.left_seconds)
                uids = {known.uid for known in before}
                eventually(lambda: not uids & there(fleet), what="the pods of before have left")
                countdown.end_now()
        outcome = after_the_end(place, fleet, before)
        assert (list(outcome.lost), list(outcome.fresh)) == ([], [])
        assert triggers(fleet, before) == {
            known.name: "Eviction" if known in drained else "SpotInterruption" for known in before
        }


@pytest.mark.long
def test_a_pod_that_sleeps_is_sent_without_being_woken_and_sleeps_on(
    architect: Cluster, namespace: str
) -> None:
    squad = Squad(name="sleeper", mebibytes=32)
    with (
        spot_node(architect) as place,
        fleets.running(architect, namespace, [squad], node=place.name) as fleet,
    ):
        (before,) = fleet.known()
        app = fleet.app(squad)
        app.sleep()
        with place.countdown() as countdown:
            fleet.wait_until_safe([before], seconds=countdown.left_seconds)
            countdown.end_now()
        (new,) = moves.ready(app, apart_from=[before.pod], seconds=GONE_SECONDS)
        assert new["spec"]["nodeName"] != place.name
        assert app.state() == "asleep"
        assert moves.events(app, before.pod, names.EVENT_WOKE) == []
        outcome = after_the_end(place, fleet, [before])
        assert (list(outcome.lost), list(outcome.fresh)) == ([], [])
        moved_by_the_notice(fleet, [before])


# The whole proof: `make test-long`


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("cloud", "seconds", "rate"),
    [("aws", 120, None), ("aws", 120, 16 * MIB), ("gcp", 30, None), ("azure", 30, 16 * MIB)],
    ids=["full speed, 120 s", "limited, 120 s", "full speed, 30 s", "limited, 30 s"],
)
def test_of_twenty_pods_exactly_those_are_saved_of_which_it_was_said(
    architect: Cluster,
    namespace: str,
    cloud: str,
    seconds: float,
    rate: float | None,
) -> None:
    with told(architect, namespace, fleets.TWENTY, cloud=cloud) as (place, fleet, before):
        with ExitStack() as stack:
            if rate is not None:
                stack.enter_context(store_faults.limited(place.node.machine, rate))
                teach(place, namespace)
            planned = misfits(place, before, seconds=seconds)
            countdown = stack.enter_context(place.countdown(seconds))
            place.wait_until_marked()
            if rate is not None and seconds == 120:
                eventually(
                    lambda: some_go_on(fleet, before),
                    what="some go on elsewhere while others are still being sent",
                    seconds=countdown.left_seconds,
                )
            countdown.wait()
            assert is_gone(countdown)
        outcome = after_the_end(place, fleet, before)
        as_was_said(outcome, fleet)
        moved_by_the_notice(fleet, before)
        assert outcome.went_on
        assert set(refused(fleet).values()) <= OF_TIME
        # Whoever was to be saved before the notice is; in the end there may be time for more.
        assert {known.name for known in outcome.lost} <= planned
        if rate is not None:
            assert rate * seconds < INCOMPRESSIBLE, "not all of it can get through"
            assert outcome.lost
        elif seconds == 120:
            assert not outcome.lost


def some_go_on(fleet: Fleet, before: Sequence[Known]) -> bool:
    """Whether a pod has gone on elsewhere while another one is captured and not stored yet."""
    uids = {known.uid for known in before}
    restored = {uid for uid, said in fleet.conditions("Restored").items() if said[0] == "True"}
    return bool(uids & restored) and bool(uids & fleet.captured() - fleet.safe())


@pytest.mark.long
@pytest.mark.parametrize("fault", store_faults.FAULTS)
def test_an_object_store_that_fails_for_a_while_is_not_the_end(
    architect: Cluster, namespace: str, fault: str
) -> None:
    """Eighteen of the twenty: what has time for twenty seconds of nothing."""
    with told(architect, namespace, fleets.TWENTY[2:]) as (place, fleet, before):
        with place.countdown() as countdown:
            place.wait_until_marked()
            eventually(fleet.captured, what="the first pod is captured")
            with store_faults.failing(architect.plane, fault):
                time.sleep(20)
            fleet.wait_until_safe(before, seconds=countdown.left_seconds - RESERVE_SECONDS)
            countdown.wait()
        outcome = after_the_end(place, fleet, before)
        assert (list(outcome.lost), list(outcome.fresh)) == ([], [])


@pytest.mark.long
def test_with_the_api_server_away_the_pods_are_saved_and_found_again(
    architect: Cluster, namespace: str
) -> None:
    with told(architect, namespace, fleets.FOUR) as (place, fleet, before):
        wanted = {known.uid for known in before}
        architect.api_server.stop()
        try:
            with place.countdown() as countdown:
                eventually(
                    lambda: committed(architect, wanted) == wanted,
                    what="all manifests are in the store",
                    seconds=countdown.left_seconds,
                )
                countdown.end_now()
        finally:
            architect.api_server.start()
            eventually(architect.api.ready, what="the API server is back")
        outcome = after_the_end(place, fleet, before)
        assert (list(outcome.lost), list(outcome.fresh)) == ([], [])
    parts.wait_until_ready(architect)


@pytest.mark.long
@pytest.mark.parametrize("whose", ["the machine's", "the account's"])
def test_pods_are_saved_with_the_credentials_of_a_role(
    architect: Cluster, namespace: str, tmp_path: Path, whose: str
) -> None:
    """A Secret's are those of all other tests."""
    last = architect.nodes[-1].name
    with ExitStack() as stack:
        if whose == "the machine's":
            stack.enter_context(roles.of_machines(architect, apart_from=last))
        front = stack.enter_context(roles.used_by_all(architect))
        if whose == "the account's":
            asked = stack.enter_context(roles.by_web_identity(architect, tmp_path))
        place, fleet, before = stack.enter_context(told(architect, namespace, fleets.FOUR))
        if whose == "the machine's":
            roles.give(place.service)
        used = sum(front.used().values())
        with place.countdown() as countdown:
            fleet.wait_until_safe(before, seconds=countdown.left_seconds)
            countdown.end_now()
        outcome = after_the_end(place, fleet, before)
        assert (list(outcome.lost), list(outcome.fresh)) == ([], [])
        assert set(front.used()) == {roles.KEYS.access_key}
        assert sum(front.used().values()) > used
        if whose == "the account's":
            tokens = [json.loads(line) for line in asked.read_text().splitlines()]
            assert {a["RoleArn"] for a in tokens} == {roles.ROLE}
            assert all(a["WebIdentityToken"].count(".") == 2 for a in tokens), "kubelet's own"


def committed(cluster: Cluster, uids: set[str]) -> set[str]:
    """Return which pods have a manifest in the store."""
    return {
        uid for uid in uids if any(p.endswith("/manifest.json") for p in in_store(cluster, uid))
    }
