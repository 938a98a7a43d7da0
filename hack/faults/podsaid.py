"""What the API tells of a pod's losses and of its end, and what of that is wrong (pure)."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from architect.api import names

LOSSES: Final = frozenset({names.EVENT_RESTORE_FAILED, names.EVENT_SLEEP_FAILED})
"""Events by which Architect says that memory is lost."""
SLACK_SECONDS: Final = 3.0
"""The API tells times in whole seconds, and kubelet needs some to hear of a deletion."""

Object = Mapping[str, Any]


def losses(pod: Object, events: Iterable[Object]) -> list[str]:
    """Return what says aloud that a container of *pod* lost its memory.

    That is an event of ours, or how the container before this one ended, as under the lower
    runtime; a restart that nobody explains says nothing.
    """
    said = [
        f"event {event['reason']}: {event.get('message', '')}"
        for event in events
        if event.get("reason") in LOSSES
    ]
    for status in _statuses(pod):
        ended = (status.get("lastState") or {}).get("terminated")
        if status.get("restartCount") and ended and ended.get("exitCode"):
            said.append(f"{status['name']}: {ended.get('reason')}, status {ended['exitCode']}")
    return said


def has_ended(pod: Object) -> bool:
    """Whether kubelet has told of each container how it ended."""
    ends = list(_ends(pod))
    return bool(ends) and None not in ends


def wrong_with_end(pod: Object, *, status: int, used_seconds: float) -> list[str]:
    """Return what is wrong with the end of a *pod* that was deleted.

    Its application uses *used_seconds* of its grace period, and ends with *status* by itself.
    """
    found: list[str] = []
    metadata = pod["metadata"]
    # Kubelet shortens both when it has ended everything; their difference stays.
    asked = _time(metadata["deletionTimestamp"]) - datetime.timedelta(
        seconds=metadata["deletionGracePeriodSeconds"]
    )
    limit = asked + datetime.timedelta(seconds=pod["spec"]["terminationGracePeriodSeconds"])
    for end in _ends(pod):
        if end is None:
            found.append("nobody says how it ended")
            continue
        if end["exitCode"] != status:
            found.append(
                f"exit status {end['exitCode']} ({end.get('reason')}), not its own {status}"
            )
        finished = _time(end["finishedAt"])
        if (late := (finished - limit).total_seconds()) > SLACK_SECONDS:
            found.append(f"it ended {late:g} s after its grace period")
        if (took := (finished - asked).total_seconds()) < used_seconds - 1:
            found.append(f"it had {took:g} s of its grace period, and wanted {used_seconds:g}")
    return found


def _statuses(pod: Object) -> Iterator[Object]:
    yield from pod.get("status", {}).get("containerStatuses") or ()


def _ends(pod: Object) -> Iterator[Object | None]:
    for status in _statuses(pod):
        yield (status.get("state") or {}).get("terminated")


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
