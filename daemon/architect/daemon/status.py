"""What users see of a pod's state: labels, the pod condition, events. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

from architect.api import names
from architect.api.keeper import REASON_ARRIVED, Event, PodState
from architect.core import durations
from architect.daemon import resize
from architect.daemon.autoscalers import NOBODY, Counted
from architect.daemon.evacuation.course import Told
from architect.daemon.notices.board import Change, ChangeKind
from architect.daemon.notices.notice import Notice
from architect.daemon.observation import Finding, KeeperPod
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind, Reason, first
from architect.kube.conditions import Condition, Status
from architect.kube.events import EventType, Note

ASLEEP_STATES: Final = frozenset({PodState.ASLEEP, PodState.FAILED})
SETTLED_STATES: Final = ASLEEP_STATES | {PodState.AWAKE}
"""States that last; the others are told by the event that ends them."""

NO_SPACE: Final = "NoSpace"
"""The keeper's word for a disk that has no room for an image."""

FAILURES: Final = frozenset(
    {Kind.SLEEP_FAILED.value, Kind.CANNOT_SLEEP.value, names.EVENT_RESTORE_FAILED}
)
"""Reasons of the condition that do not wait: they are rare, and somebody has to act."""

REASON_SLEPT: Final = "Slept"
REASON_AWAKE: Final = "Awake"


def of_notice(change: Change) -> Note:
    """Return what is said, on the node, of a change of what is announced about its machine."""
    is_over = change.kind is ChangeKind.WITHDRAWN
    return Note(
        reason=_NOTICES[change.kind],
        text=str(change.notice),
        action="Announce",
        event_type=EventType.NORMAL if is_over else EventType.WARNING,
    )


def of_evacuation(notice: Notice, told: Told) -> Note:
    """Return what is said, on the node, of who is saved before its machine ends."""
    text = (
        f"{told.saved} of {told.pods} pods ({told.bytes / 2**20:.0f} MiB) are saved within "
        f"{told.seconds:.0f} s, before the {notice}"
    )
    if told.misfits:
        text += f"; there is no time for {', '.join(told.misfits)}"
    return Note(
        reason=names.EVENT_EVACUATING,
        text=text[:MAX_NOTE_CHARS],
        action="Evacuate",
        event_type=EventType.WARNING if told.misfits else EventType.NORMAL,
    )


def of_findings(found: Sequence[Finding]) -> Note:
    """Return what is said of a pod that could not be dumped, before that is tried."""
    text = "; ".join(f"{each.container}: {each.text}" for each in found)
    return Note(
        reason=names.EVENT_CANNOT_SLEEP,
        text=f"goes on running: {text}"[:MAX_NOTE_CHARS],
        action="Sleep",
        event_type=EventType.WARNING,
    )


MAX_NOTE_CHARS: Final = 1000
"""The API takes 1024 (``events.k8s.io``)."""

_NOTICES: Final = {
    ChangeKind.APPEARED: names.EVENT_NOTICE_APPEARED,
    ChangeKind.CHANGED: names.EVENT_NOTICE_CHANGED,
    ChangeKind.WITHDRAWN: names.EVENT_NOTICE_WITHDRAWN,
}


def labels(pod: ManagedPod, *, is_asleep: bool) -> dict[str, str | None]:
    """Return the status labels that differ from what *pod* has; None removes one."""
    value = names.STATUS_SCALED_DOWN if is_asleep else names.STATUS_RUNNING
    wanted = {names.STATUS_LABEL_PREFIX + name: value for name in pod.managed}
    changed: dict[str, str | None] = {
        key: item for key, item in wanted.items() if pod.labels.get(key) != item
    }
    changed |= {key: None for key in pod.labels if key not in wanted}
    return changed


def condition(keeper: KeeperPod | None, *, reasons: tuple[Reason, ...]) -> Condition:
    """Return the pod condition: asleep, or awake and why."""
    if keeper is not None and keeper.state is PodState.FAILED:
        refused = keeper.refused
        said = f"{refused.message or refused.reason}" if refused else keeper.reason
        return Condition(
            type=names.CONDITION_ASLEEP,
            status=Status.TRUE,
            reason=names.EVENT_RESTORE_FAILED,
            message=f"asleep, and its last restore failed: {said}; the image is kept",
        )
    if keeper is not None and keeper.state is PodState.ASLEEP:
        since = datetime.datetime.fromtimestamp(int(keeper.since_unix), tz=datetime.UTC)
        return Condition(
            type=names.CONDITION_ASLEEP,
            status=Status.TRUE,
            reason=REASON_SLEPT,
            message=f"asleep since {since:%Y-%m-%dT%H:%M:%SZ}, {_mib(keeper.image_bytes)} on disk",
        )
    top = first(reasons)
    if top is not None and top.kind is Kind.CANNOT_SLEEP:
        # Without the others: what it says is the same until something else is found.
        reasons = tuple(r for r in reasons if r.kind is Kind.CANNOT_SLEEP)
    return Condition(
        type=names.CONDITION_ASLEEP,
        status=Status.FALSE,
        reason=top.kind.value if top else REASON_AWAKE,
        message="; ".join(map(str, reasons[:8])) or "idle; it may sleep now",
    )


def is_condition_due(pod: ManagedPod, new: Condition, *, may_update_reason: bool) -> bool:
    """Whether *new* is worth a request.

    A changed status always is, and a failure; another reason once in a while; a changed text never,
    since its numbers change at every look (the keeper's ``why`` has them fresh). What keeps a pod
    from being dumped has none.
    """
    old = pod.conditions.get(new.type)
    if old is None or old.status != new.status.value:
        return True
    if old.reason == new.reason == Kind.CANNOT_SLEEP.value:
        return old.message != new.message
    return old.reason != new.reason and (may_update_reason or new.reason in FAILURES)


def note_of(
    event: Event,
    message: Mapping[str, Any],
    *,
    pod: ManagedPod | None,
    is_refused: bool,
    is_leaving: bool = False,
    counted: Counted = NOBODY,
) -> Note | None:
    """Return the Kubernetes event for one event of the keeper, or None if it is not worth one.

    *is_refused*: a failed sleep is not tried again. One that is tried again is no event: it would
    come every few seconds from a pod that is simply busy. A disk without space is one all the same:
    somebody has to do something about it. What is part of a move is told by the move, once:
    Captured (*is_leaving*) and Restored, but for a pod that has only come back on its own node.
    """
    took = durations.render(float(message.get("duration_seconds") or 0.0))
    reason = str(message.get("reason") or "")
    because = f" ({reason})" if reason else ""
    if is_leaving and event is Event.SLEPT:
        return None
    if event is Event.WOKE and reason == REASON_ARRIVED:
        return None
    if event is Event.SLEPT:
        text = f"asleep after {took}{because}, {_mib(int(message.get('image_bytes') or 0))} on disk"
        text += _kept_requests(pod, counted)
        return Note(reason=names.EVENT_SLEPT, text=text[:MAX_NOTE_CHARS], action="Sleep")
    if event is Event.WOKE:
        held = int(message.get("held_packets") or 0)
        text = f"awake after {took}{because}, {held} packets held meanwhile"
        return Note(reason=names.EVENT_WOKE, text=text, action="Wake")
    if event is Event.HOOK:
        return _hook_note(message, took=took)
    if event is Event.RESTORED and message.get("returned"):
        verb = "sleeps" if message.get("state") == PodState.ASLEEP.value else "goes"
        return Note(
            reason=names.EVENT_RESTORED,
            text=f"container {message.get('container')} {verb} on with the memory that it had "
            "before its node was rebooted",
            action="Restore",
        )
    said = _said(message)
    if event is Event.SLEEP_FAILED:
        is_worth = is_refused or message.get("lost") or message.get("reason") == NO_SPACE
        if not is_worth:
            return None
        text = f"goes on running: {said}"
        if lost := message.get("lost"):
            text = f"{said}; containers that could not be brought back: {', '.join(lost)}"
        return Note(
            reason=names.EVENT_SLEEP_FAILED,
            text=text,
            action="Sleep",
            event_type=EventType.WARNING,
        )
    if event is Event.WAKE_FAILED:
        policy = f"; on-restore-failure is {message['policy']}" if message.get("policy") else ""
        return Note(
            reason=names.EVENT_RESTORE_FAILED,
            text=f"cannot be restored, its image is kept: {said}{policy}",
            action="Wake",
            event_type=EventType.WARNING,
        )
    if event is Event.WAKE_BLOCKED:
        # Either the node's memory or somebody who could reach CRIU stands in the way.
        why = message.get("message") or (
            f"waking needs {_mib(int(message.get('needed_bytes') or 0))}, "
            f"the node has {_mib(int(message.get('available_bytes') or 0))} available"
        )
        text = f"its packets are held: {why}"
        return Note(
            reason=names.EVENT_WAKE_BLOCKED,
            text=text,
            action="Wake",
            event_type=EventType.WARNING,
        )
    return None


def hook_failure(message: Mapping[str, Any]) -> str:
    """Return the metric label for why a hook did not end well."""
    if "status" not in message:
        return str(message.get("reason") or "Unknown")
    return "Late" if message.get("is_late") else "Failed"


def _hook_note(message: Mapping[str, Any], *, took: str) -> Note:
    name, output = message.get("container"), str(message.get("message") or "")
    if message.get("status") == 0:
        text = f"{names.AFTER_RESTORE} of container {name} ended well after {took}"
        return Note(reason=names.EVENT_HOOK_RAN, text=text, action="Restore")
    if "status" not in message:
        why = f"did not run: {_said(message)}"
    elif message.get("is_late"):
        why = f"was killed after {took}, its limit: {output}"
    else:
        why = f"ended with status {message['status']} after {took}: {output}"
    return Note(
        reason=names.EVENT_HOOK_FAILED,
        text=f"{names.AFTER_RESTORE} of container {name} {why.rstrip(': ')}; "
        "the application goes on",
        action="Restore",
        event_type=EventType.WARNING,
    )


def wake_kind(reason: str) -> str:
    """Return the metric label for why a pod woke: a few fixed words, whatever the text says."""
    text = reason.lower()
    for word, kind in (
        ("exec", "exec"),
        ("signal", "signal"),
        ("sigterm", "signal"),
        ("packet", "packet"),
        ("syn", "packet"),
        ("udp", "packet"),
        ("tcp", "packet"),
        ("connection", "packet"),
        ("hook", "hook"),
        ("uninstall", "daemon"),
        ("daemon", "daemon"),
    ):
        if word in text:
            return kind
    return "command"


def of_returned_requests(pod: ManagedPod, counted: Counted) -> Note:
    """Return what is said of a pod whose requests are back though it sleeps on."""
    return Note(
        reason=names.EVENT_REQUESTS_KEPT,
        text=f"asleep{_kept_requests(pod, counted)}"[:MAX_NOTE_CHARS],
        action="Resize",
    )


def _kept_requests(pod: ManagedPod | None, counted: Counted) -> str:
    if pod is None:
        return ""
    texts = resize.lower(pod, bounds=resize.Bounds(), counted=counted).kept
    return f"; {'; '.join(texts)}" if texts else ""


def _said(message: Mapping[str, Any]) -> str:
    reason = str(message.get("reason") or "Unknown")
    text = str(message.get("message") or "")
    hint = str(message.get("hint") or "")
    return reason + (f": {text}" if text else "") + (f" (hint: {hint})" if hint else "")


def _mib(number: int) -> str:
    return f"{number / 2**20:.1f} MiB"
