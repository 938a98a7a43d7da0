"""Which idle pods go to sleep now, and which have to wait, with the reason.

Pure: the loop gives what it knows, and starts what it is told to start. A pod whose sleep *failed*
is not tried again until the pod or its policy changes. One whose sleep was *given up* (a
conversation did not drain) is tried again after a time that doubles. One that wakes soon after it
fell asleep, again and again, waits longer each time: a node that dumps the same memory every
minute is worse than a pod awake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from architect.core import durations
from architect.daemon.activity import Verdict
from architect.daemon.observation import KeeperPod, Refusal
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind, Reason

GIVEN_UP_SECONDS: Final = 5.0
"""First wait after a sleep that was given up; doubles."""

WORTHWHILE_RATIO: Final = 20.0
"""A sleep that lasted less than this many times what falling asleep and waking took was not worth
it: more than 5 % of the time went into moving memory."""

WAIT_MAX_SECONDS: Final = 600.0

IMAGE_OVERHEAD_BYTES: Final = 4 << 20
"""What an image needs beyond the pod's memory: CRIU's tables and log (1–3 MiB measured)."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What happened to a pod's earlier sleeps."""

    fingerprint: str = ""
    refusal: Refusal | None = None
    """The last failure, of the pod as *fingerprint* says."""
    waits: int = 0
    """Sleeps in a row that were given up or that ended at once."""
    not_before: float = 0.0
    """Monotonic; no sleep before it."""
    why_wait: str = ""
    slept_at: float | None = None
    sleep_cost_seconds: float = 0.0
    """What falling asleep at *slept_at* took."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A pod that its activity would let sleep."""

    pod: ManagedPod
    verdict: Verdict
    memory_bytes: int
    """The managed containers' memory: what the image will need."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The images' disk."""

    free_bytes: int
    used_by_images_bytes: int
    floor_bytes: int
    quota_bytes: int
    """0: none."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What :func:`plan` decided."""

    sleep: tuple[str, ...]
    """Uids, in the order in which they start."""
    waiting: Mapping[str, Reason]
    """Uid to why it does not start now."""


def fingerprint(pod: ManagedPod, *, keeper: KeeperPod | None) -> str:
    """Return what must change before a failed sleep is tried again: policy or containers."""
    containers = sorted(keeper.container_ids.items()) if keeper else []
    text = "\0".join([pod.uid, pod.policy.to_json(), *(f"{n}={i}" for n, i in containers)])
    return hashlib.sha256(text.encode()).hexdigest()


def failed(history: History, refusal: Refusal, *, fingerprint: str) -> History:
    """Return *history* after a sleep that failed."""
    return replace(history, fingerprint=fingerprint, refusal=refusal, slept_at=None)


def given_up(history: History, why: str, *, now: float, jitter: float) -> History:
    """Return *history* after a sleep that was given up with nothing changed.

    *jitter* (0 to 1) spreads pods that were refused together.
    """
    wait = _wait(GIVEN_UP_SECONDS, history.waits, jitter)
    return replace(
        history, waits=history.waits + 1, not_before=now + wait, why_wait=why, slept_at=None
    )


def slept(history: History, *, now: float, took_seconds: float) -> History:
    """Return *history* after a sleep that worked."""
    return replace(
        history, refusal=None, fingerprint="", slept_at=now, sleep_cost_seconds=took_seconds
    )


def woke(
    history: History, *, now: float, took_seconds: float, idle_seconds: float, jitter: float
) -> History:
    """Return *history* after a wake: a short sleep lengthens the wait, a long one forgets it."""
    if history.slept_at is None:
        return history
    lasted = now - history.slept_at
    if lasted >= WORTHWHILE_RATIO * (history.sleep_cost_seconds + took_seconds):
        return replace(history, waits=0, not_before=0.0, why_wait="", slept_at=None)
    wait = idle_seconds + _wait(GIVEN_UP_SECONDS, history.waits, jitter)
    return replace(
        history,
        waits=history.waits + 1,
        not_before=now + wait,
        why_wait=f"its last sleep lasted {durations.render(lasted)}",
        slept_at=None,
    )


def history_reasons(history: History, *, fingerprint: str, now: float) -> list[Reason]:
    """Return what a pod's earlier sleeps say against another one now."""
    reasons: list[Reason] = []
    if history.refusal is not None and history.fingerprint == fingerprint:
        said = history.refusal.message or history.refusal.reason
        text = (
            f"last sleep failed: {history.refusal.reason}"
            + (f": {said:.200}" if said != history.refusal.reason else "")
            + "; not tried again until the pod or its policy changes"
        )
        reasons.append(Reason(kind=Kind.SLEEP_FAILED, text=text))
    left = history.not_before - now
    if left > 0:
        text = f"{history.why_wait}; next try in {durations.render(left)}"
        reasons.append(Reason(kind=Kind.BACK_OFF, text=text, left_seconds=left))
    return reasons


def plan(candidates: Iterable[Candidate], *, disk: Disk, under_way: int, most_at_once: int) -> Plan:
    """Return which of *candidates* go to sleep now: the longest idle ones first.

    Space is reserved for each pod that is let through, so that two dumps at once cannot together
    fill the disk. A pod that does not fit does not keep a smaller one from sleeping.
    """
    sleep: list[str] = []
    waiting: dict[str, Reason] = {}
    reserved = 0
    ordered = sorted(candidates, key=lambda c: (c.verdict.idle_since, c.pod.uid))
    for candidate in (c for c in ordered if c.verdict.is_idle):
        uid = candidate.pod.uid
        if under_way + len(sleep) >= most_at_once:
            text = f"idle; {under_way + len(sleep)} other pods of the node are falling asleep"
            waiting[uid] = Reason(kind=Kind.QUEUED, text=text, left_seconds=0.0)
            continue
        needed = candidate.memory_bytes + IMAGE_OVERHEAD_BYTES
        refusal = _space(needed, reserved, disk)
        if refusal is not None:
            waiting[uid] = refusal
            continue
        reserved += needed
        sleep.append(uid)
    return Plan(sleep=tuple(sleep), waiting=waiting)


def _space(needed: int, reserved: int, disk: Disk) -> Reason | None:
    free = disk.free_bytes - reserved - disk.floor_bytes
    if needed > free:
        text = f"idle; its image needs {_mib(needed)}, {_mib(max(0, free))} are free for images"
        return Reason(kind=Kind.DISK, text=text)
    if disk.quota_bytes and disk.used_by_images_bytes + reserved + needed > disk.quota_bytes:
        text = (
            f"idle; its image needs {_mib(needed)}, images use {_mib(disk.used_by_images_bytes)} "
            f"of the quota of {_mib(disk.quota_bytes)}"
        )
        return Reason(kind=Kind.DISK, text=text)
    return None


def _wait(first: float, count: int, jitter: float) -> float:
    # 2**count is taken of a bounded count: a pod may be refused for weeks.
    longest = min(first * 2.0 ** min(count, 16), WAIT_MAX_SECONDS)
    return longest * (0.75 + 0.25 * jitter)


def _mib(number: int) -> str:
    return f"{number / 2**20:.0f} MiB"
