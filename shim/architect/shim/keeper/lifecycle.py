"""What a pod may do next: its states and transitions, without effects.

::

    AWAKE ──sleep──▶ FALLING ──dumped──▶ ASLEEP ──wake──▶ WAKING ──restored──▶ AWAKE
                        │                                   │
                        └──undone──▶ AWAKE                  └──failed──▶ FAILED ──wake──▶ WAKING

A request that the current state does not allow is refused or joined to the work under way; it
never starts a second dump or restore of the same pod.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
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


_TRANSITIONS: Final = {
    (PodState.AWAKE, Step.SLEEP): PodState.FALLING,
    (PodState.FALLING, Step.DUMPED): PodState.ASLEEP,
    (PodState.FALLING, Step.UNDONE): PodState.AWAKE,
    (PodState.ASLEEP, Step.WAKE): PodState.WAKING,
    (PodState.FAILED, Step.WAKE): PodState.WAKING,
    (PodState.WAKING, Step.RESTORED): PodState.AWAKE,
    (PodState.WAKING, Step.RESTORE_FAILED): PodState.FAILED,
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


def wake_request(state: PodState) -> Answer:
    """Return what a request to wake means in *state*."""
    match state:
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
        case _:
            raise Rejected(
                "the pod's last restore failed; it is asleep already",
                reason="RestoreFailed",
                hint="wake it, or delete the pod for a fresh start",
            )


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a pod is not put to sleep again until it or its policy changes."""

    reason: str
    message: str
    hint: str

    def as_dict(self) -> dict[str, str]:
        """Return plain JSON values."""
        return {"reason": self.reason, "message": self.message, "hint": self.hint}
