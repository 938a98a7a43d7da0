"""What a restarted keeper does with a pod, from what it finds (pure).

The keeper may have been killed at any instruction. What was true is told by four facts that no
crash can fake: whether the container's init lives, whether the application's tree lives below it,
whether CRIU completed an image, and whether a CRIU is still at work. The phase on disk is only a
hint where those leave a choice.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architect.api.keeper import PodState
from architect.shim.keeper.failures import ACCIDENTS

KILLED_STATUS: Final = 128 + signal.SIGKILL
_CUT: Final = ACCIDENTS | {"Timeout"}
"""Reasons that mean that CRIU did not end by itself."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is found about one managed container."""

    is_init_alive: bool
    is_starting: bool
    """Its init has not begun the application yet."""
    is_hollow: bool = False
    """It begins nothing by itself: it was made to take what came for it, when it is told to."""
    is_tree_alive: bool
    """It runs: neither dying after its dump nor half restored."""
    is_image_complete: bool
    is_criu_working: bool


class Recovery(enum.Enum):
    """How a pod is picked up."""

    WAIT = "wait"
    """CRIU is at work, or a container starts beside sleeping ones: look again."""
    AWAKE = "awake"
    """Release what is held; nothing else to do."""
    ASLEEP = "asleep"
    """Hold packets and go on sleeping."""
    FINISH_SLEEP = "finish-sleep"
    """Some containers are dumped and others run: restore the dumped ones."""
    FINISH_WAKE = "finish-wake"
    """Some containers are restored and others not yet: restore the others."""
    LOST = "lost"
    """A tree is gone and has no image: end that container so that kubelet restarts it."""
    GONE = "gone"
    """No container is left, or there is none yet."""


def decide(
    phase: PodState | None, containers: Sequence[Facts], *, goes_on: bool = False
) -> Recovery:
    """Return how to pick up a pod whose last written phase is *phase* (None: never slept).

    *goes_on*: it sleeps for a copy alone, and who makes that is not connected to this keeper.
    """
    living = [c for c in containers if c.is_init_alive and not c.is_starting]
    if not living:
        return Recovery.GONE
    if any(c.is_criu_working for c in living):
        return Recovery.WAIT
    if all(c.is_tree_alive for c in living):
        return Recovery.AWAKE
    if any(c.is_starting and not c.is_hollow for c in containers):
        return Recovery.WAIT
    if any(not c.is_tree_alive and not c.is_image_complete for c in living):
        return Recovery.LOST
    if not any(c.is_tree_alive for c in living):
        # All dumped. A pod that was waking has asked for it, and goes on waking.
        is_to_wake = phase is PodState.WAKING or goes_on
        return Recovery.FINISH_WAKE if is_to_wake else Recovery.ASLEEP
    return Recovery.FINISH_SLEEP if phase is PodState.FALLING else Recovery.FINISH_WAKE


class AfterDump(enum.Enum):
    """What a dump left, whatever was reported about it."""

    ASLEEP = "asleep"
    RUNNING = "running"
    """It failed and the tree goes on."""
    LOST = "lost"


def after_dump(found: Facts) -> AfterDump:
    """Return what became of a container whose dump is over."""
    if found.is_tree_alive:
        return AfterDump.RUNNING
    return AfterDump.ASLEEP if found.is_image_complete else AfterDump.LOST


def has_ended_itself(status: int | None, *, reason: str) -> bool:
    """Whether an application that its dump left neither running nor asleep has ended by itself.

    Else it was lost. *status* is its exit status, None if init has not reaped it; *reason* is that
    of CRIU's failure. A CRIU that is killed while the application runs its code takes it along.
    """
    return status is not None and status != KILLED_STATUS and reason not in _CUT
