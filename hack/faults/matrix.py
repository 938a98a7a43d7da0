"""What is broken, at which step, and what may come of it: the matrix as data (pure).

Each pair of a fault and a step is tried, or it is said why it has no meaning.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final


class Step(enum.StrEnum):
    """Where in its life a container is stopped when something is broken."""

    CREATE = "create"
    """The lower runtime creates it."""
    START = "start"
    """The lower runtime is about to begin its application."""
    AWAKE = "awake"
    BEFORE_HOLD = "before-hold"
    """The keeper was asked for a sleep; packets do not wait yet."""
    FREEZING = "freezing"
    """CRIU has its code in the application and begins to write its memory."""
    DUMP = "dump"
    """The application's memory is written, and it still exists."""
    AFTER_DUMP = "after-dump"
    """The application is gone; the keeper does not know yet."""
    ASLEEP = "asleep"
    BEFORE_RESTORE = "before-restore"
    """A packet has come; CRIU was not asked yet."""
    RESTORE = "restore"
    """Half of the tree is there."""
    BEFORE_RELEASE = "before-release"
    """The application runs again; what was held still waits."""
    STOP = "stop"
    """The application has got SIGTERM and uses its grace period."""
    DELETE = "delete"
    """The container has ended; the lower runtime deletes it."""


FALLING: Final = (Step.BEFORE_HOLD, Step.FREEZING, Step.DUMP, Step.AFTER_DUMP)
WAKING: Final = (Step.BEFORE_RESTORE, Step.RESTORE, Step.BEFORE_RELEASE)
WITH_CRIU: Final = (Step.FREEZING, Step.DUMP, Step.RESTORE)
WITH_IMAGE: Final = (Step.AFTER_DUMP, Step.ASLEEP, Step.BEFORE_RESTORE)
"""The application is its image alone."""
STEPS: Final = tuple(Step)


class Bound(enum.Enum):
    """The worst that may come of it."""

    GOES_ON = "goes on"
    """The application has its memory, and no client saw anything. In creation and deletion: the
    call succeeds, or its repetition does."""
    RESTARTS = "restarts"
    """The container ends, is started anew, and the loss is said. It must: what was destroyed cannot
    be there any more."""
    MAY_RESTART = "may restart"
    """Either."""
    RETURNS = "returns"
    """Its node was without power: it sleeps on in its next container, with its memory, and that it
    came back is said. Its connections have ended."""
    MAY_RETURN = "may return"
    """That, or it is started anew."""
    WAITS = "waits"
    """It sleeps on, says why, and nothing of it is thrown away: its memory is out of reach."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A pair that is tried."""

    bound: Bound
    why: str = ""
    """Why more than :attr:`Bound.GOES_ON` is allowed."""


@dataclass(frozen=True, kw_only=True)
class Meaningless:
    """A pair that is not tried."""

    why: str


Plan = Tried | Meaningless

GOES_ON: Final = Tried(bound=Bound.GOES_ON)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is broken once."""

    name: str
    what: str
    plans: Mapping[Step, Plan]
    """Those that are not ``otherwise``."""
    otherwise: Plan = GOES_ON
    loses_datagrams: bool = False
    """Whether packets that wait are lost with it; TCP sends them again."""
    ends_host: bool = False
    """Whether the next one needs a node of its own."""

    def plan(self, step: Step) -> Plan:
        """Return what is done at *step*."""
        return self.plans.get(step, self.otherwise)


def _at(steps: Sequence[Step], plan: Plan) -> dict[Step, Plan]:
    return dict.fromkeys(steps, plan)


def _only_at(steps: Sequence[Step], why: str) -> dict[Step, Plan]:
    return {step: Meaningless(why=why) for step in STEPS if step not in steps}


def _restarts(why: str) -> Tried:
    return Tried(bound=Bound.RESTARTS, why=why)


def _may_restart(why: str) -> Tried:
    return Tried(bound=Bound.MAY_RESTART, why=why)


_NO_CRIU: Final = "no CRIU works then"
_NO_IMAGE: Final = "there is no image that will be read"
_NOT_THERE: Final = "there is none then"

FAULTS: Final = (
    Fault(
        name="keeper",
        what="SIGKILL to the keeper; its warden starts another",
        plans={},
    ),
    Fault(
        name="warden",
        what="SIGKILL to the keeper's parent; the keeper stays",
        plans={},
    ),
    Fault(
        name="keeper+warden",
        what="SIGKILL to both; the next call of the runtime, or the daemon, starts them",
        plans={},
        loses_datagrams=True,
    ),
    Fault(
        name="init",
        what="SIGKILL to the container's PID 1",
        plans={
            **_at([Step.DELETE], Meaningless(why="it has ended already")),
            **_at([Step.CREATE, Step.START], GOES_ON),
        },
        otherwise=_restarts("the kernel ends a container with its PID 1"),
    ),
    Fault(
        name="inner-init",
        what="SIGKILL to the root of the application's tree",
        plans={
            **_at(
                [Step.CREATE, Step.START, Step.DELETE, *WITH_IMAGE],
                Meaningless(why=_NOT_THERE),
            ),
            # Dumped already: it has an image, and is about to be removed anyway.
            Step.DUMP: _may_restart("its application ended, unless its image was complete"),
            Step.RESTORE: _may_restart("its application ended, unless it was restored once more"),
        },
        otherwise=_restarts("its application ended"),
    ),
    Fault(
        name="runc",
        what="SIGKILL to the lower runtime's process; the engine deletes and creates anew",
        plans={
            **_only_at(
                [Step.CREATE, Step.START, Step.DELETE],
                "no process of it runs then: `kill` and `exec` are over in a moment",
            )
        },
    ),
    Fault(
        name="criu",
        what="SIGKILL to CRIU",
        plans={
            **_only_at(WITH_CRIU, _NO_CRIU),
            Step.FREEZING: _may_restart("the application runs CRIU's code, and may end with it"),
        },
    ),
    Fault(
        name="criu-server",
        what="SIGKILL to the fork server of CRIU",
        plans={},
        # There is another one with the next sleep or wake, and not yet when the next pair begins.
        ends_host=True,
    ),
    Fault(
        name="criu-server+supervisor",
        what="SIGKILL to the fork server and to the parent of CRIU",
        plans={**_only_at(WITH_CRIU, _NO_CRIU)},
    ),
    Fault(
        name="disk-full",
        what="no byte is left on the disk of the images, for 2 s",
        plans={},
    ),
    Fault(
        name="disk-read-only",
        what="the disk of the images takes no changes, for 2 s",
        plans={
            **_at(
                [Step.BEFORE_HOLD, Step.FREEZING, Step.DUMP, Step.RESTORE],
                Meaningless(why="the kernel makes no file system read-only that is written to"),
            ),
        },
    ),
    Fault(
        name="disk-broken",
        what="the disk of the images fails and takes no changes any more (errors=remount-ro)",
        plans={
            **_at(
                [*WITH_IMAGE, Step.RESTORE],
                Tried(bound=Bound.WAITS, why="its memory is on that disk"),
            ),
        },
        ends_host=True,
    ),
    Fault(
        name="disk-stalled",
        what="each write to the disk of the images takes 2 s longer",
        plans={},
    ),
    Fault(
        name="image-cut",
        what="the last half of the memory in the image is gone",
        plans={**_only_at(WITH_IMAGE, _NO_IMAGE)},
        otherwise=_restarts("its memory is gone"),
    ),
    Fault(
        name="image-damaged",
        what="a page of what describes the processes in the image is overwritten",
        plans={**_only_at(WITH_IMAGE, _NO_IMAGE)},
        otherwise=_restarts("its memory cannot be read"),
    ),
    Fault(
        name="image-missing",
        what="the image's directory is gone",
        plans={**_only_at(WITH_IMAGE, _NO_IMAGE)},
        otherwise=_restarts("its memory is gone"),
    ),
    Fault(
        name="image-changed",
        what="bytes of the application's memory are others in the image",
        plans={},
        otherwise=Meaningless(
            why="nobody notices but the application: a node trusts its disk, and an image that "
            "stays there has no checksum of its own (decision 23; a checkpoint that travels has)"
        ),
    ),
    Fault(
        name="no-memory",
        what="the container's memory limit is 8 MiB, for 2 s",
        plans={
            **_at(
                [Step.CREATE, Step.DELETE],
                Meaningless(why="nothing of it takes memory then"),
            ),
        },
        otherwise=_may_restart("the kernel ends what does not fit, as under runc"),
    ),
    Fault(
        name="no-pids",
        what="the container may have no more processes than it has, for 2 s",
        plans={
            **_at([Step.CREATE, Step.DELETE], Meaningless(why="nothing in it is forked then")),
        },
    ),
    Fault(
        name="twice",
        what="four sleeps and four wakes are asked for at the same time",
        plans={},
    ),
    Fault(
        name="flood",
        what="3,000 datagrams and 300 connections at once",
        plans={
            **_at(
                [Step.CREATE, Step.START, Step.DELETE],
                Meaningless(why="nobody listens: the kernel refuses them, as without Architect"),
            ),
        },
    ),
    Fault(
        name="power",
        what="every process of the node is gone, and what was not written to its disk",
        plans={
            **_at([Step.CREATE, Step.START], GOES_ON),
            Step.AFTER_DUMP: _restarts("it fell asleep: that it sleeps was not written yet"),
            Step.ASLEEP: Tried(
                bound=Bound.RETURNS, why="its memory is on the disk a moment after it fell asleep"
            ),
            # As soon as it may be answered, that it woke is on the disk: test_power.py.
            **_at(
                WAKING,
                Tried(
                    bound=Bound.MAY_RETURN,
                    why="it woke: from then on its image is not its memory for sure",
                ),
            ),
            Step.DELETE: Meaningless(why="nothing of it is left to come back"),
        },
        otherwise=_restarts("its memory was not on the disk"),
        ends_host=True,
    ),
)

MACHINE_FAULTS: Final = (
    Fault(
        name="clock-ahead",
        what="the wall clock is set forward by a day, and back after 2 s",
        plans={},
    ),
    Fault(
        name="clock-back",
        what="the wall clock is set back by a day, and forward after 2 s",
        plans={},
    ),
)
"""What needs a machine of its own: CLOCK_REALTIME belongs to no namespace (time_namespaces(7))."""

CLUSTER_FAULTS: Final = (
    Fault(
        name="daemon",
        what="SIGKILL to the daemon of the node; its pod is replaced afterwards",
        plans={},
    ),
    Fault(
        name="operator",
        what="SIGKILL to all operators; their pods are replaced afterwards",
        plans={},
    ),
    Fault(
        name="containerd",
        what="SIGKILL to containerd; it is started a second later",
        plans={},
    ),
    Fault(
        name="shim",
        what="SIGKILL to containerd's shim of the pod",
        plans={
            **_at([Step.CREATE, Step.START], GOES_ON),
        },
        otherwise=_may_restart("containerd ends what has no shim, as under runc"),
    ),
    Fault(
        name="kubelet",
        what="SIGKILL to kubelet; it is started a second later",
        plans={},
    ),
    Fault(
        name="api-server",
        what="the API server is away for some seconds",
        plans={},
    ),
)
"""What only a cluster has. Creation and deletion are done once more by kubelet where they fail."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case."""

    fault: Fault
    step: Step

    def __str__(self) -> str:
        return f"{self.fault.name}@{self.step}"

    @property
    def plan(self) -> Plan:
        """What is done."""
        return self.fault.plan(self.step)


def pairs(faults: Sequence[Fault] = FAULTS) -> Iterator[Pair]:
    """Yield every pair, by fault."""
    for fault in faults:
        for step in STEPS:
            yield Pair(fault=fault, step=step)


def tried(wanted: Sequence[str] = (), *, faults: Sequence[Fault] = FAULTS) -> list[Pair]:
    """Return the pairs that are tried; of those, the ones that are *wanted*, if any.

    ``keeper`` is all of a fault, ``@dump`` all of a step, ``keeper@dump`` one. Raises ValueError
    for a name that means nothing.
    """
    every = [pair for pair in pairs(faults) if isinstance(pair.plan, Tried)]
    if not wanted:
        return every
    chosen: list[Pair] = []
    for text in wanted:
        found = [pair for pair in every if _is_meant(pair, text)]
        if not found:
            raise ValueError(f"{text!r} is no fault, step or pair that is tried")
        chosen += [pair for pair in found if pair not in chosen]
    return chosen


def _is_meant(pair: Pair, text: str) -> bool:
    fault, at, step = text.partition("@")
    return (not fault or pair.fault.name == fault) and (not at or pair.step == step)
