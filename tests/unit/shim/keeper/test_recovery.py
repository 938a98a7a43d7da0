"""What a restarted keeper does, for every combination of facts."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from architect.api.keeper import PodState
from architect.shim.keeper.recovery import (
    KILLED_STATUS,
    AfterDump,
    Facts,
    Recovery,
    after_dump,
    decide,
    has_ended_itself,
)

facts = st.builds(
    Facts,
    is_init_alive=st.booleans(),
    is_starting=st.just(False),
    is_tree_alive=st.booleans(),
    is_image_complete=st.booleans(),
    is_criu_working=st.booleans(),
)
phases = st.none() | st.sampled_from(PodState)


def container(*, tree: bool, image: bool, working: bool = False, init: bool = True) -> Facts:
    return Facts(
        is_init_alive=init,
        is_starting=False,
        is_tree_alive=tree,
        is_image_complete=image,
        is_criu_working=working,
    )


STARTING = dataclasses.replace(container(tree=False, image=False), is_starting=True)


def test_a_running_pod_is_left_running_whatever_the_disk_says() -> None:
    for phase in (None, *PodState):
        assert decide(phase, [container(tree=True, image=False)]) is Recovery.AWAKE
        assert decide(phase, [container(tree=True, image=True)]) is Recovery.AWAKE


def test_a_dumped_pod_sleeps_on() -> None:
    assert decide(PodState.ASLEEP, [container(tree=False, image=True)]) is Recovery.ASLEEP
    assert decide(PodState.FALLING, [container(tree=False, image=True)]) is Recovery.ASLEEP


def test_who_sleeps_for_a_copy_that_nobody_makes_any_more_wakes() -> None:
    asleep = container(tree=False, image=True)
    assert decide(PodState.ASLEEP, [asleep], goes_on=True) is Recovery.FINISH_WAKE
    # What is not asleep is picked up as ever.
    for found in (container(tree=True, image=False), STARTING, container(tree=False, image=False)):
        assert decide(PodState.ASLEEP, [found], goes_on=True) is decide(PodState.ASLEEP, [found])


def test_a_wake_under_way_is_finished() -> None:
    pair = [container(tree=True, image=False), container(tree=False, image=True)]
    assert decide(PodState.WAKING, pair) is Recovery.FINISH_WAKE
    assert decide(PodState.WAKING, [container(tree=False, image=True)]) is Recovery.FINISH_WAKE


def test_what_waits_to_be_told_what_to_go_on_with_is_not_waited_for() -> None:
    asleep, hollow = (
        container(tree=False, image=True),
        dataclasses.replace(STARTING, is_hollow=True),
    )
    assert decide(PodState.ASLEEP, [asleep, hollow]) is Recovery.ASLEEP
    assert decide(PodState.ASLEEP, [asleep, STARTING]) is Recovery.WAIT


def test_a_half_sleep_is_undone() -> None:
    pair = [container(tree=True, image=False), container(tree=False, image=True)]
    assert decide(PodState.FALLING, pair) is Recovery.FINISH_SLEEP


def test_nothing_is_decided_while_criu_works() -> None:
    assert (
        decide(PodState.FALLING, [container(tree=True, image=False, working=True)]) is Recovery.WAIT
    )


def test_a_container_that_is_not_started_yet_is_not_lost() -> None:
    for phase in (None, *PodState):
        assert decide(phase, [STARTING]) is Recovery.GONE
        assert decide(phase, [STARTING, container(tree=True, image=False)]) is Recovery.AWAKE
        assert decide(phase, [STARTING, container(tree=False, image=True)]) is Recovery.WAIT


@given(phase=phases, found=st.lists(facts, max_size=4))
def test_memory_is_given_up_only_where_neither_processes_nor_an_image_are_left(
    phase: PodState | None, found: list[Facts]
) -> None:
    decision = decide(phase, found)
    living = [f for f in found if f.is_init_alive]
    if decision is Recovery.LOST:
        assert any(not f.is_tree_alive and not f.is_image_complete for f in living)
    if decision in (Recovery.ASLEEP, Recovery.FINISH_SLEEP, Recovery.FINISH_WAKE):
        assert all(f.is_tree_alive or f.is_image_complete for f in living)
    if decision is Recovery.GONE:
        assert not living


@given(found=facts)
def test_a_dump_is_judged_by_what_it_left(found: Facts) -> None:
    left = after_dump(found)
    assert (left is AfterDump.RUNNING) == found.is_tree_alive
    if left is AfterDump.LOST:
        assert not found.is_image_complete


def test_who_ended_by_itself_is_told_from_who_was_lost_in_its_dump() -> None:
    assert has_ended_itself(0, reason="Criu")
    assert has_ended_itself(0, reason="")
    assert not has_ended_itself(None, reason="Criu"), "nobody knows how it ended"
    assert not has_ended_itself(KILLED_STATUS, reason="Criu"), "as CRIU does it"
    for reason in ("CriuKilled", "CriuUnavailable", "Timeout"):
        assert not has_ended_itself(1, reason=reason), "it was cut in the application's code"
