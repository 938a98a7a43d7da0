"""Azure: scheduled events of the instance metadata service.

"Scheduled Events for Linux VMs" in Azure's documentation. Requests must have the header ``Metadata:
true`` and go through no proxy. Asking has an effect: it enables scheduled events for the machine,
for a day, so that a restart that its user asked for waits until it is acknowledged, or for 15
minutes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from architect.core.errors import ArchitectError, FormatError, Rejected
from architect.daemon.notices import providers
from architect.daemon.notices.clock import from_http_date, from_iso, to_iso
from architect.daemon.notices.metadata import Absent, Answer, Service
from architect.daemon.notices.notice import Announcement, Kind, line
from architect.daemon.notices.providers import Look, Machine, Part

NAME: Final = "azure"
URLS: Final = ("http://169.254.169.254",)
"""There is none of IPv6."""

COMPUTE: Final = "/metadata/instance/compute?api-version=2021-02-01&format=json"
EVENTS: Final = "/metadata/scheduledevents?api-version=2020-07-01"
HEADERS: Final = {"Metadata": "true"}

SPOT_SECONDS: Final = 1.0
"""As Azure recommends: a machine of Spot has 30 s."""
REGULAR_SECONDS: Final = 15.0
"""Another one has at least 5 minutes."""
FIRST_SECONDS: Final = 150.0
"""For the first answer, which enables the service: "a delayed response in your first call of up to
two minutes"."""
NEXT_SECONDS: Final = 5.0

NOTICE_SECONDS: Final = 30.0
"""Azure: a machine of Spot is evicted "with a minimum of 30 seconds" of notice."""

KINDS: Final[Mapping[str, Kind | None]] = MappingProxyType(
    {
        "Preempt": Kind.INTERRUPTION,
        # The machine is deleted: by its scale set, or by somebody.
        "Terminate": Kind.INTERRUPTION,
        # It loses its memory, and with Redeploy its local disks.
        "Reboot": Kind.MAINTENANCE,
        "Redeploy": Kind.MAINTENANCE,
        "SpotRebalanceRecommendation": Kind.REBALANCE,
        # It stands still for seconds and loses nothing.
        "Freeze": None,
    }
)
"""``EventType`` to what it means. The recommendation is known from what AKS puts on nodes."""

ADVISORY: Final = "Advisory"
"""``EventStatus`` of what is recommended and not announced, whatever its type."""

_EVENT_ID = re.compile(r"[A-Za-z0-9-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event that concerns this machine."""

    id: str
    status: str
    """``Scheduled`` or ``Started``."""
    is_ours_alone: bool
    """Whether no other machine is in it."""


class Azure:
    """One machine's service; see :class:`providers.Provider`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._machine = Machine(name="", about="", is_spot=True, notice_seconds=NOTICE_SECONDS)
        self._seconds = FIRST_SECONDS
        self._events: dict[str, Event] = {}

    def identify(self) -> Machine:
        """See :class:`providers.Provider`."""
        answer = self._service.ask(COMPUTE, headers=HEADERS)
        if not answer.is_success:
            raise Absent(f"{answer.url} gave {answer.status}: not Azure's")
        self._machine = parse_compute(answer)
        return self._machine

    def look(self) -> Look:
        """See :class:`providers.Provider`. The first one may take :data:`FIRST_SECONDS`."""
        again = SPOT_SECONDS if self._machine.is_spot else REGULAR_SECONDS
        try:
            part = self._ask()
        except ArchitectError as error:
            part = Part(announcements=None, problem=error)
        return Look(parts={"events": part}, again_seconds=again)

    def acknowledge(self, name: str) -> None:
        """See :class:`providers.Provider`: have the event happen now, not at its ``NotBefore``.

        Only what names no other machine: who acknowledges an event does so for all that are in it.
        """
        event = self._events.get(name)
        if event is None or event.status != "Scheduled" or not event.is_ours_alone:
            why = (
                "it does not stand any more" if event is None
                else "it has begun" if event.status != "Scheduled"
                else "it concerns other machines as well"
            )  # fmt: skip
            raise Rejected(f"event {name} is not acknowledged: {why}", reason=providers.NOT_ASKED)
        body = json.dumps({"StartRequests": [{"EventId": event.id}]}).encode()
        headers = {**HEADERS, "Content-Type": "application/json"}
        answer = self._service.ask(
            EVENTS, method="POST", headers=headers, body=body, seconds=NEXT_SECONDS
        )
        if not answer.is_success:
            raise answer.problem

    def _ask(self) -> Part:
        answer = self._service.ask(EVENTS, headers=HEADERS, seconds=self._seconds)
        if not answer.is_success:
            raise answer.problem
        self._seconds = NEXT_SECONDS
        found: list[Announcement] = []
        events: dict[str, Event] = {}
        problem: FormatError | None = None
        for item in parse_document(answer):
            try:
                event, announcement = parse_event(item, machine=self._machine.name)
            except FormatError as error:
                problem = FormatError(f"{answer.url}: {error.message}")
                continue
            if event is not None and announcement is not None:
                events[event.id] = event
                found.append(announcement)
        self._events = events
        return Part(announcements=tuple(found), problem=problem)


def parse_compute(answer: Answer) -> Machine:
    """Return who this machine is. Raises FormatError."""
    value = answer.json()
    if not isinstance(value, dict) or not all(
        isinstance(value.get(key), str) and value[key] for key in ("name", "vmId")
    ):
        raise answer.malformed("no machine's name")
    priority = value.get("priority")
    about = (value.get("vmSize"), value.get("location"), priority)
    return Machine(
        name=value["name"],
        about=line(", ".join(str(a) for a in about if a)),
        # Empty of one that was made before there was such a thing.
        is_spot=priority in ("Spot", "Low") or not isinstance(priority, str),
        notice_seconds=NOTICE_SECONDS,
    )


def parse_document(answer: Answer) -> list[Any]:
    """Return the events of a document, whatever they are. Raises FormatError."""
    value = answer.json()
    if not isinstance(value, dict) or not isinstance(value.get("Events"), list):
        raise answer.malformed("no document of events")
    events: list[Any] = value["Events"]
    return events


def parse_event(item: Any, *, machine: str) -> tuple[Event | None, Announcement | None]:
    """Return an event and what it announces; nothing if it does not concern *machine*.

    Everybody in a scale set or availability set hears of all its machines. Raises FormatError for
    what may concern this one, and is not understood.
    """
    if not isinstance(item, dict):
        raise FormatError(f"an event that is no object: {item!r:.100}")
    resources = item.get("Resources")
    if not isinstance(resources, list):
        raise FormatError(f"an event without resources: {item!r:.200}")
    names = [str(name).lower() for name in resources]
    if machine.lower() not in names:
        return None, None
    what, name, status = item.get("EventType"), item.get("EventId"), item.get("EventStatus")
    if not isinstance(name, str) or not _EVENT_ID.fullmatch(name):
        raise FormatError(f"an event without an id: {item!r:.200}")
    if not isinstance(what, str) or what not in KINDS:
        raise FormatError(f"an event of another type: {what!r:.100}")
    kind = kind_of(what, status)
    if kind is None:
        return None, None
    is_begun = status == "Started"
    ends, shown = _not_before(item.get("NotBefore"))
    has_end = kind is not Kind.REBALANCE
    said = f"{what} {status}: {shown}" if not is_begun and has_end else f"{what} {status}"
    return (
        Event(id=name, status=str(status), is_ours_alone=len(set(names)) == 1),
        Announcement(
            kind=kind,
            id=name,
            said=line(f"{said}. {item.get('Description') or ''}"),
            ends_unix=ends if has_end and not is_begun else None,
            ends_in_seconds=0.0 if has_end and is_begun else None,
        ),
    )


def kind_of(what: str, status: object) -> Kind | None:
    """Return what an event of a known type announces; None: nothing that matters here."""
    kind = KINDS[what]
    return Kind.REBALANCE if kind is not None and status == ADVISORY else kind


def _not_before(text: object) -> tuple[float | None, str]:
    """Return a time as RFC 1123 has it, or as older versions of the API, and how it is shown."""
    if isinstance(text, str):
        unix = from_http_date(text)
        if unix is None:
            unix = from_iso(text)
        if unix is not None:
            return unix, f"not before {to_iso(unix)}"
    return None, f"at a time that is not understood ({text!r:.60})"
