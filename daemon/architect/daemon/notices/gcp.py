"""Google Compute Engine: the metadata server.

"View and query VM metadata", "Spot VMs" (the preemption process) and "Query metadata server for
maintenance event notices" in Google's documentation. Requests must have the header
``Metadata-Flavor: Google``, and answers without it are somebody else's.
"""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import quote

from architect.core.errors import Rejected
from architect.daemon.notices import providers
from architect.daemon.notices.metadata import NOT_FOUND, Absent, Answer, Service
from architect.daemon.notices.notice import Announcement, Kind, line
from architect.daemon.notices.providers import Look, Machine

NAME: Final = "gcp"
URLS: Final = ("http://169.254.169.254", "http://[fd20:ce::254]")
"""The second where an instance has no IPv4."""

ID: Final = "/computeMetadata/v1/instance/id"
PREEMPTIBLE: Final = "/computeMetadata/v1/instance/scheduling/preemptible"
PREEMPTED: Final = "/computeMetadata/v1/instance/preempted"
MAINTENANCE: Final = "/computeMetadata/v1/instance/maintenance-event"

HEADERS: Final = {"Metadata-Flavor": "Google"}

WAIT_SECONDS: Final = 10
"""How long the server holds a request back until the value changes. It tells of a preemption at
once; maintenance, which is announced a minute or an hour before, is asked for in between."""
WAIT_MARGIN_SECONDS: Final = 5.0
POLL_SECONDS: Final = 1.0
"""Between two looks at a server that does not hold requests back."""

NOTICE_SECONDS: Final = 30.0
"""From ``preempted`` to the end, where the machine was made without
``--preemption-notice-duration``; that is 0 s or 120 s more."""

CONCEALED: Final = "Concealed"
_HINT: Final = (
    "GKE's own metadata server answers, which tells pods nothing of preemptions: let the daemon "
    "enter the host's network (hostPID, privileged)"
)


class Gcp:
    """One machine's server; see :class:`providers.Provider`."""

    def __init__(self, service: Service, *, notice_seconds: float = NOTICE_SECONDS) -> None:
        self._service = service
        self._notice_seconds = notice_seconds
        self._etag = ""

    def identify(self) -> Machine:
        """See :class:`providers.Provider`."""
        answer = self._service.ask(ID, headers=HEADERS)
        if not answer.is_success or not is_googles(answer):
            raise Absent(f"{answer.url} gave {answer.status}: not Google's")
        name = answer.text()
        if not name.isdecimal():
            raise answer.malformed("no instance id")
        spot = self._service.ask(PREEMPTIBLE, headers=HEADERS)
        is_spot = not spot.is_success or spot.body.strip().upper() != b"FALSE"
        return Machine(
            name=line(name), about="", is_spot=is_spot, notice_seconds=self._notice_seconds
        )

    def look(self) -> Look:
        """See :class:`providers.Provider`."""
        began, has_etag = time.monotonic(), bool(self._etag)
        parts = {"preempted": providers.part(self._preempted)}
        # A request that was held back needs no pause after it, nor does the one that comes before.
        is_prompt = time.monotonic() - began < POLL_SECONDS
        again = POLL_SECONDS if is_prompt and (has_etag or not self._etag) else 0.0
        if not parts["preempted"].is_dead:
            parts["maintenance"] = providers.part(self._maintenance)
        return Look(parts=parts, again_seconds=again)

    def acknowledge(self, name: str) -> None:
        """See :class:`providers.Provider`: Google waits for nobody."""
        raise Rejected(f"Google does not ask whether {name} may happen", reason=providers.NOT_ASKED)

    def _preempted(self) -> tuple[Announcement, ...]:
        path, seconds = PREEMPTED, WAIT_MARGIN_SECONDS
        if self._etag:
            etag = quote(self._etag, safe="")
            path += f"?wait_for_change=true&last_etag={etag}&timeout_sec={WAIT_SECONDS}"
            seconds += WAIT_SECONDS
        # After anything but an answer the value is asked for anew, not its next change.
        self._etag = ""
        answer = self._get(path, seconds)
        self._etag = answer.headers.get("etag", "")[:200]
        return parse_preempted(answer, notice_seconds=self._notice_seconds)

    def _maintenance(self) -> tuple[Announcement, ...]:
        return parse_maintenance(self._get(MAINTENANCE, WAIT_MARGIN_SECONDS))

    def _get(self, path: str, seconds: float) -> Answer:
        answer = self._service.ask(path, headers=HEADERS, seconds=seconds)
        if not is_googles(answer) and answer.status < 500:
            raise answer.malformed("an answer without Metadata-Flavor")
        if answer.is_success:
            return answer
        problem = answer.problem
        if isinstance(problem, Rejected) and problem.reason == NOT_FOUND:
            raise Rejected(problem.message, reason=CONCEALED, hint=_HINT)
        raise problem


def is_googles(answer: Answer) -> bool:
    """Whether an answer says that it is of Google's metadata server, or of GKE's."""
    return answer.headers.get("metadata-flavor") == HEADERS["Metadata-Flavor"]


def parse_preempted(answer: Answer, *, notice_seconds: float) -> tuple[Announcement, ...]:
    """Return what ``instance/preempted`` announces: ``TRUE`` or ``FALSE``. Raises FormatError."""
    text = answer.text().upper()
    if text == "FALSE":
        return ()
    if text != "TRUE":
        raise answer.malformed("neither TRUE nor FALSE")
    return (
        Announcement(
            kind=Kind.INTERRUPTION,
            id="preempted",
            said="the machine is being preempted",
            ends_in_seconds=notice_seconds,
        ),
    )


def parse_maintenance(answer: Answer) -> tuple[Announcement, ...]:
    """Return what ``instance/maintenance-event`` announces. Raises FormatError.

    ``NONE``, ``MIGRATE_ON_HOST_MAINTENANCE`` (the machine goes on elsewhere, with its memory), or
    ``TERMINATE_ON_HOST_MAINTENANCE``, a minute before, and an hour with a GPU: so without a time.
    """
    text = answer.text()
    if text in ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"):
        return ()
    if text != "TERMINATE_ON_HOST_MAINTENANCE":
        raise answer.malformed("a maintenance event of another kind")
    return (Announcement(kind=Kind.MAINTENANCE, id="maintenance-event", said=text),)
