"""The pod's states: what may follow what, and what a request means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api.keeper import PodState
from architect.core.errors import Rejected
from architect.shim.keeper.lifecycle import Answer, Step, after, sleep_request, wake_request


def test_a_sleep_and_a_wake_lead_back_to_awake() -> None:
    state = PodState.AWAKE
    for step in (Step.SLEEP, Step.DUMPED, Step.WAKE, Step.RESTORED):
        state = after(state, step)
    assert state is PodState.AWAKE


def test_a_failed_restore_can_be_tried_again() -> None:
    state = after(after(PodState.ASLEEP, Step.WAKE), Step.RESTORE_FAILED)
    assert state is PodState.FAILED
    assert wake_request(state) is Answer.START


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


@given(state=st.sampled_from(PodState))
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


@pytest.mark.parametrize("state", PodState)
def test_a_wake_is_never_refused(state: PodState) -> None:
    assert wake_request(state) in Answer
