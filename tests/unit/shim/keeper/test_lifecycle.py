"""The pod's states: what may follow what, and what a request means."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api.keeper import PodState
from architect.core.errors import Rejected
from architect.shim.keeper.lifecycle import (
    Answer,
    Patience,
    Step,
    after,
    capture_request,
    is_brief,
    sleep_request,
    stays_asleep,
    wake_request,
    while_busy,
)


def test_a_sleep_and_a_wake_lead_back_to_awake() -> None:
    state = PodState.AWAKE
    for step in (Step.SLEEP, Step.DUMPED, Step.WAKE, Step.RESTORED):
        state = after(state, step)
    assert state is PodState.AWAKE


def test_a_failed_restore_can_be_tried_again() -> None:
    state = after(after(PodState.ASLEEP, Step.WAKE), Step.RESTORE_FAILED)
    assert state is PodState.FAILED
    assert wake_request(state) is Answer.START


def test_what_cannot_be_restored_is_awake_once_it_is_given_up() -> None:
    state = after(after(PodState.ASLEEP, Step.WAKE), Step.RESTORE_FAILED)
    assert after(state, Step.GIVEN_UP) is PodState.AWAKE
    for other in set(PodState) - {PodState.FAILED}:
        with pytest.raises(ValueError, match="cannot take"):
            after(other, Step.GIVEN_UP)


@given(state=st.sampled_from(PodState), step=st.sampled_from(Step))
def test_no_step_starts_work_while_other_work_runs(state: PodState, step: Step) -> None:
    try:
        following = after(state, step)
    except ValueError:
        return
    if step is Step.SLEEP:
        assert state is PodState.AWAKE
        assert following is PodState.FALLING
    if step is Step.WAKE:
        assert state in (PodState.ASLEEP, PodState.FAILED)


LIVING = [state for state in PodState if state is not PodState.CAPTURED]


@given(state=st.sampled_from(LIVING))
def test_every_request_has_an_answer_that_never_starts_work_twice(state: PodState) -> None:
    answer = wake_request(state)
    assert (answer is Answer.START) == (state in (PodState.ASLEEP, PodState.FAILED))
    try:
        answer = sleep_request(state)
    except Rejected as error:
        assert state in (PodState.WAKING, PodState.FAILED)
        assert error.hint
    else:
        assert (answer is Answer.START) == (state is PodState.AWAKE)


def test_a_wake_waits_for_a_dump_under_way() -> None:
    assert wake_request(PodState.FALLING) is Answer.WAIT


@pytest.mark.parametrize("state", LIVING)
def test_a_wake_is_never_refused(state: PodState) -> None:
    assert wake_request(state) in Answer


@pytest.mark.parametrize("request_", [wake_request, sleep_request])
def test_what_left_for_its_successor_neither_wakes_nor_sleeps(
    request_: Callable[[PodState], Answer],
) -> None:
    with pytest.raises(Rejected, match="successor") as caught:
        request_(PodState.CAPTURED)
    assert caught.value.reason == "Captured"


def test_a_capture_needs_a_sleep_and_nothing_else() -> None:
    answers = {state: capture_request(state) for state in LIVING if state is not PodState.FAILED}
    assert answers == {
        PodState.AWAKE: Answer.START,
        PodState.FALLING: Answer.WAIT,
        PodState.ASLEEP: Answer.DONE,
        PodState.WAKING: Answer.WAIT,
    }
    assert capture_request(PodState.CAPTURED) is Answer.DONE
    with pytest.raises(Rejected, match="restore failed"):
        capture_request(PodState.FAILED)


def test_a_captured_pod_takes_no_step_and_a_hollow_one_begins_asleep() -> None:
    for step in Step:
        with pytest.raises(ValueError, match="cannot take"):
            after(PodState.CAPTURED, step)
    assert after(PodState.AWAKE, Step.ADOPT) is PodState.ASLEEP
    assert after(PodState.ASLEEP, Step.ADOPT) is PodState.ASLEEP
    assert after(PodState.ASLEEP, Step.CAPTURE) is PodState.CAPTURED


@given(
    state=st.sampled_from(PodState),
    has_slept=st.booleans(),
    may_move_asleep=st.booleans(),
    is_running=st.booleans(),
)
def test_who_comes_sleeps_on_where_nothing_speaks_against_it(
    state: PodState, has_slept: bool, may_move_asleep: bool, is_running: bool
) -> None:
    stays = stays_asleep(
        state, has_slept=has_slept, may_move_asleep=may_move_asleep, is_running=is_running
    )
    is_free = not is_running and state in (PodState.AWAKE, PodState.ASLEEP)
    assert stays is (has_slept and may_move_asleep and is_free)


ORDINARY, LEAVES, COPIED = (
    {"is_leaving": leaving, "is_for_copy": copied}
    for leaving, copied in ((False, False), (True, False), (False, True))
)


@pytest.mark.parametrize(
    ("kind", "waited_seconds", "follows"),
    [
        (ORDINARY, 1.9, Patience.WAIT),
        (ORDINARY, 2.0, Patience.GIVE_UP),
        (LEAVES, 1.9, Patience.WAIT),
        (LEAVES, 2.0, Patience.CUT),
        (LEAVES, 9.0, Patience.CUT),
        (COPIED, 2.0, Patience.WAIT),
        (COPIED, 3.9, Patience.WAIT),
        (COPIED, 4.0, Patience.GIVE_UP),
    ],
)
def test_who_is_busy_is_waited_for_as_its_future_allows(
    kind: dict[str, bool], waited_seconds: float, follows: Patience
) -> None:
    assert while_busy(waited_seconds, patience_seconds=2.0, **kind) is follows


@given(waited_seconds=st.floats(min_value=0, max_value=1e6))
def test_without_patience_only_the_first_look_counts(waited_seconds: float) -> None:
    for kind, follows in (
        (ORDINARY, Patience.GIVE_UP),
        (LEAVES, Patience.CUT),
        (COPIED, Patience.GIVE_UP),
    ):
        assert while_busy(waited_seconds, patience_seconds=0.0, **kind) is follows


def test_only_a_copy_freezes_a_conversation_that_goes_on_in_a_moment() -> None:
    for is_for_copy in (True, False):
        assert not is_brief(1.9, patience_seconds=2.0, is_for_copy=is_for_copy)
        assert is_brief(2.0, patience_seconds=2.0, is_for_copy=is_for_copy) is is_for_copy
