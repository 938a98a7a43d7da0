"""What a pod may do next: its states and transitions, without effects.

::

    AWAKE ──sleep──▶ FALLING ──dumped──▶ ASLEEP ──wake──▶ WAKING ──restored──▶ AWAKE
                        │                                   │
                        └──undone──▶ AWAKE                  └──failed──▶ FAILED ──wake──▶ WAKING
                                                                            │
                                                                            └──given up──▶ AWAKE

    ASLEEP ──capture──▶ CAPTURED          AWAKE (hollow, in a successor) ──adopt──▶ ASLEEP

A container that is adopted beside sleeping ones, or in a pod that is FAILED, changes no state.

A request that the current state does not allow is refused or joined to the work under way; it
never starts a second dump or restore of the same pod.
"""

from __future__ import annotations

import enum
from typing import Final

from architect.api.keeper import PodState
from architect.core.errors import Rejected


class Step(enum.Enum):
    """What can happen to a pod."""

    SLEEP = "sleep"
    DUMPED = "dumped"
    UNDONE = "undone"
    WAKE = "wake"
    RESTORED = "restored"
    RESTORE_FAILED = "restore-failed"
    GIVEN_UP = "given-up"
    """What cannot be restored goes on without its memory."""
    CAPTURE = "capture"
    """Its image is a successor's now."""
    ADOPT = "adopt"
    """A predecessor's image is its own now."""


_TRANSITIONS: Final = {
    (PodState.AWAKE, Step.SLEEP): PodState.FALLING,
    (PodState.FALLING, Step.DUMPED): PodState.ASLEEP,
    (PodState.FALLING, Step.UNDONE): PodState.AWAKE,
    (PodState.ASLEEP, Step.WAKE): PodState.WAKING,
    (PodState.FAILED, Step.WAKE): PodState.WAKING,
    (PodState.WAKING, Step.RESTORED): PodState.AWAKE,
    (PodState.WAKING, Step.RESTORE_FAILED): PodState.FAILED,
    (PodState.FAILED, Step.GIVEN_UP): PodState.AWAKE,
    (PodState.ASLEEP, Step.CAPTURE): PodState.CAPTURED,
    (PodState.AWAKE, Step.ADOPT): PodState.ASLEEP,
    (PodState.ASLEEP, Step.ADOPT): PodState.ASLEEP,
    (PodState.FAILED, Step.ADOPT): PodState.FAILED,
}


def after(state: PodState, step: Step) -> PodState:
    """Return the state that follows. Raises ValueError for a step that cannot happen there."""
    try:
        return _TRANSITIONS[state, step]
    except KeyError:
        raise ValueError(f"a pod that is {state.value} cannot take the step {step.value}") from None


class Answer(enum.Enum):
    """What to do with a request."""

    START = "start"
    """Begin the work."""
    JOIN = "join"
    """The same work is under way: answer when it ends."""
    WAIT = "wait"
    """The opposite work is under way: decide again when it ends."""
    DONE = "done"
    """The pod is already where it should be."""


def left() -> Rejected:
    """Return the refusal of whatever is asked of a pod that goes on elsewhere."""
    return Rejected(
        "the pod was saved for its successor and never runs again",
        reason="Captured",
        hint="its successor is the pod that its owner has created since",
    )


def wake_request(state: PodState) -> Answer:
    """Return what a request to wake means in *state*. Raises Rejected where it makes no sense."""
    match state:
        case PodState.CAPTURED:
            raise left()
        case PodState.AWAKE:
            return Answer.DONE
        case PodState.FALLING:
            return Answer.WAIT
        case PodState.WAKING:
            return Answer.JOIN
        case _:
            return Answer.START


def sleep_request(state: PodState) -> Answer:
    """Return what a request to sleep means in *state*. Raises Rejected where it makes no sense."""
    match state:
        case PodState.AWAKE:
            return Answer.START
        case PodState.FALLING:
            return Answer.JOIN
        case PodState.ASLEEP:
            return Answer.DONE
        case PodState.WAKING:
            raise Rejected("the pod is waking", reason="Waking", hint="ask again when it is awake")
        case PodState.CAPTURED:
            raise left()
        case _:
            raise Rejected(
                "the pod's last restore failed; it is asleep already",
                reason="RestoreFailed",
                hint="wake it, or delete the pod for a fresh start",
            )


def capture_request(state: PodState) -> Answer:
    """Return what a request to save the pod for its successor means in *state*.

    Asleep is all that it takes. Raises Rejected.
    """
    match state:
        case PodState.AWAKE:
            return Answer.START
        case PodState.FALLING | PodState.WAKING:
            return Answer.WAIT
        case PodState.ASLEEP | PodState.CAPTURED:
            return Answer.DONE
        case _:
            raise Rejected(
                "the pod's last restore failed; its image is not worth moving",
                reason="RestoreFailed",
                hint="its successor starts fresh; the image is kept on this node",
            )


def stays_asleep(
    state: PodState, *, has_slept: bool, may_move_asleep: bool, is_running: bool
) -> bool:
    """Return whether a container sleeps on after it was adopted; else its pod is woken at once.

    *has_slept*: its predecessor did, by itself; *is_running*: another container of its pod does,
    and a pod sleeps and wakes as one.
    """
    is_calm = state in (PodState.AWAKE, PodState.ASLEEP)
    return has_slept and may_move_asleep and is_calm and not is_running


class Patience(enum.Enum):
    """What to do with a pod that falls asleep while something is under way in it."""

    WAIT = "wait"
    CUT = "cut"
    """Freeze it in the middle: it has no later."""
    GIVE_UP = "give-up"


def is_brief(waited_seconds: float, *, patience_seconds: float, is_for_copy: bool) -> bool:
    """Whether it may be frozen in the middle of a conversation, since that goes on in a moment.

    *is_for_copy*: it sleeps for a copy alone. Who is woken at once may have a request in its hands,
    which nobody notices then.
    """
    return is_for_copy and waited_seconds >= patience_seconds


def while_busy(
    waited_seconds: float, *, patience_seconds: float, is_leaving: bool, is_for_copy: bool
) -> Patience:
    """Return what follows for a pod that is busy still, *waited_seconds* after it began to sleep.

    One that sleeps for a copy has as long once more, for what is not even then to be frozen
    (:func:`is_brief`).
    """
    if waited_seconds < patience_seconds:
        return Patience.WAIT
    if is_leaving:
        return Patience.CUT
    if is_for_copy and waited_seconds < 2 * patience_seconds:
        return Patience.WAIT
    return Patience.GIVE_UP
