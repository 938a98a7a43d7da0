"""Amazon EC2: the instance metadata service, version 2.

Paths, answers and times: "Use instance metadata to manage your EC2 instance" and "Spot Instance
interruption notices" in the EC2 User Guide. Version 1, without tokens, is not used: where there are
no tokens, something else answers in the service's place.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable
from typing import Final

from architect.core.errors import FormatError, Rejected, Retryable
from architect.daemon.notices import providers
from architect.daemon.notices.clock import from_http_date, from_iso, to_iso
from architect.daemon.notices.metadata import Absent, Answer, Service, Silent
from architect.daemon.notices.notice import Announcement, Kind, line
from architect.daemon.notices.providers import Look, Machine, Part

NAME: Final = "aws"
URLS: Final = ("http://169.254.169.254", "http://[fd00:ec2::254]")
"""The second where the instance's ``HttpProtocolIpv6`` is enabled."""

TOKEN: Final = "/latest/api/token"
IDENTITY: Final = "/latest/dynamic/instance-identity/document"
LIFE_CYCLE: Final = "/latest/meta-data/instance-life-cycle"
ACTION: Final = "/latest/meta-data/spot/instance-action"
REBALANCE: Final = "/latest/meta-data/events/recommendations/rebalance"
SCHEDULED: Final = "/latest/meta-data/events/maintenance/scheduled"

TTL_HEADER: Final = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER: Final = "X-aws-ec2-metadata-token"
TTL_SECONDS: Final = 21600
"""The longest that a token may live."""
RENEW_SECONDS: Final = 120.0
"""So long before its end a token is asked for anew; one that was refused, at once."""

TOKEN_SECONDS: Final = 3.0
"""For a token. What does not come within this does not get here: see :data:`HOP_LIMIT`."""

ACTION_SECONDS: Final = 2.0
"""Amazon recommends 5 s of the 120; this takes 2 % of the window at most, for half a millisecond of
processor time."""
REBALANCE_SECONDS: Final = 10.0
"""It comes minutes before, if at all."""
SCHEDULED_SECONDS: Final = 60.0
"""They come days before."""
NO_SPOT_SECONDS: Final = 60.0
"""Of an instance that is none of Spot, instead of both. Its life cycle does not change."""

HOP_LIMIT: Final = "HopLimit"
NO_TOKENS: Final = "NoTokens"
DISABLED: Final = "Disabled"

_HINTS: Final = {
    HOP_LIMIT: "the token does not get as far as this pod: let the daemon enter the host's network "
    "(hostPID, privileged), or set the instance's HttpPutResponseHopLimit to 2, with some network "
    "plugins to 3",
    NO_TOKENS: "only IMDSv1 answers, which the daemon does not use: is a proxy such as kube2iam "
    "in front of the metadata service?",
    DISABLED: "the instance's HttpEndpoint is disabled: enable it (modify-instance-metadata-"
    "options)",
}

NOTICE_SECONDS: Final = 120.0
"""Amazon: "two minutes before"."""

_TOKEN = re.compile(r"[!-~]{1,2048}")
_OVER: Final = ("completed", "canceled")
"""States of scheduled events that have no future."""

Parse = Callable[[Answer], tuple[Announcement, ...]]


class Aws:
    """One instance's service; see :class:`providers.Provider`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._token = ""
        self._token_ends_at = self._renew_at = 0.0
        self._is_spot = True
        self._due: dict[str, float] = {}

    def identify(self) -> Machine:
        """See :class:`providers.Provider`."""
        answer = self._get(IDENTITY)
        if not answer.is_success:
            raise Absent(f"{answer.url} gave {answer.status}: not Amazon's")
        name, about = parse_identity(answer)
        life_cycle = self._get(LIFE_CYCLE)
        self._is_spot = not life_cycle.is_success or life_cycle.body.strip() == b"spot"
        return Machine(name=name, about=about, is_spot=self._is_spot, notice_seconds=NOTICE_SECONDS)

    def look(self) -> Look:
        """See :class:`providers.Provider`."""
        parts: dict[str, Part] = {}
        for name, seconds, path, parse in (
            ("action", ACTION_SECONDS, ACTION, parse_action),
            ("rebalance", REBALANCE_SECONDS, REBALANCE, parse_rebalance),
            ("scheduled", SCHEDULED_SECONDS, SCHEDULED, parse_scheduled),
        ):
            now = time.monotonic()
            if self._due.get(name, 0.0) > now:
                continue
            parts[name] = providers.part(functools.partial(self._ask, path, parse))
            self._due[name] = now + (seconds if self._is_spot else NO_SPOT_SECONDS)
            if parts[name].is_dead:
                break
        again = min(self._due.values()) - time.monotonic()
        return Look(parts=parts, again_seconds=max(0.0, again))

    def acknowledge(self, name: str) -> None:
        """See :class:`providers.Provider`: Amazon waits for nobody."""
        raise Rejected(f"Amazon does not ask whether {name} may happen", reason=providers.NOT_ASKED)

    def _ask(self, path: str, parse: Parse) -> tuple[Announcement, ...]:
        answer = self._get(path)
        if answer.status == 404:
            return ()
        if not answer.is_success:
            raise answer.problem
        return parse(answer)

    def _get(self, path: str) -> Answer:
        now = time.monotonic()
        if not self._token or now > self._token_ends_at:
            self._renew()
        elif now > self._renew_at:
            with contextlib.suppress(Retryable):  # the one that we have is good for a while
                self._renew()
        answer = self._service.ask(path, headers={TOKEN_HEADER: self._token})
        if answer.status == 401:
            self._renew()
            answer = self._service.ask(path, headers={TOKEN_HEADER: self._token})
        return answer

    def _renew(self) -> None:
        asked_at = time.monotonic()
        try:
            answer = self._service.ask(
                TOKEN,
                method="PUT",
                headers={TTL_HEADER: str(TTL_SECONDS)},
                seconds=TOKEN_SECONDS,
            )
        except Silent as error:
            # Only this answer is kept within the machine's own network: does another come?
            if not self._token and self._is_amazons():
                raise _refused(f"{error}, and other requests are answered", HOP_LIMIT) from error
            raise
        if answer.is_success:
            self._token, seconds = parse_token(answer)
            self._token_ends_at = asked_at + seconds
            self._renew_at = self._token_ends_at - min(RENEW_SECONDS, seconds / 4)
            return
        if answer.status == 403:
            if "EC2" in answer.headers.get("server", "") or self._is_amazons():
                raise _refused(f"{answer.url} gave {answer.status}", DISABLED)
        elif 400 <= answer.status < 500 and answer.status != 429 and self._is_amazons():
            raise _refused(f"{answer.url} gave {answer.status}", NO_TOKENS)
        if answer.status >= 500 or answer.status == 429:
            raise answer.problem
        raise Absent(f"{answer.url} gave {answer.status}: not Amazon's")

    def _is_amazons(self) -> bool:
        """Whether what answers without a token is Amazon's: asks for one, or says who this is."""
        answer = self._service.ask(IDENTITY)
        if answer.status == 401:
            return True
        try:
            return answer.is_success and bool(parse_identity(answer))
        except FormatError:
            return False


def _refused(text: str, reason: str) -> Rejected:
    return Rejected(text, reason=reason, hint=_HINTS[reason])


def parse_token(answer: Answer) -> tuple[str, float]:
    """Return the token and its life in seconds. Raises FormatError."""
    token = answer.text()
    if not _TOKEN.fullmatch(token):
        raise FormatError(f"{answer.url} gave a token of other characters than a header may have")
    ttl = answer.headers.get(TTL_HEADER.lower(), "")
    return token, float(ttl) if re.fullmatch(r"[0-9]{1,6}", ttl) else TTL_SECONDS


def parse_identity(answer: Answer) -> tuple[str, str]:
    """Return the instance's id, and its type and zone. Raises FormatError."""
    value = answer.json()
    if not isinstance(value, dict) or not isinstance(value.get("instanceId"), str):
        raise answer.malformed("no instance identity document")
    about = (value.get("instanceType"), value.get("availabilityZone"))
    return line(value["instanceId"]), line(", ".join(str(a) for a in about if a))


def parse_action(answer: Answer) -> tuple[Announcement, ...]:
    """Return what ``spot/instance-action`` announces. Raises FormatError.

    ``{"action": "terminate", "time": "2017-09-18T08:22:00Z"}``; the action is ``terminate``,
    ``stop`` or ``hibernate``, which has begun already when it is announced. A time that is not
    understood is no reason not to hear the rest.
    """
    value = answer.json()
    if not isinstance(value, dict) or not isinstance(value.get("action"), str):
        raise answer.malformed("no instance action")
    ends, shown = _time(value.get("time"))
    return (
        Announcement(
            kind=Kind.INTERRUPTION,
            id="spot/instance-action",
            said=line(f"{value['action']} at {shown}"),
            ends_unix=ends,
        ),
    )


def parse_rebalance(answer: Answer) -> tuple[Announcement, ...]:
    """Return what ``events/recommendations/rebalance`` announces. Raises FormatError.

    ``{"noticeTime": "2020-10-27T08:22:00Z"}``, which is when it was said.
    """
    value = answer.json()
    if not isinstance(value, dict):
        raise answer.malformed("no rebalance recommendation")
    _, shown = _time(value.get("noticeTime"))
    said = f"rebalance recommendation of {shown}"
    return (
        Announcement(kind=Kind.REBALANCE, id="events/recommendations/rebalance", said=line(said)),
    )


def parse_scheduled(answer: Answer) -> tuple[Announcement, ...]:
    """Return what ``events/maintenance/scheduled`` announces. Raises FormatError.

    A list of ``{"NotBefore": "21 Jan 2019 09:00:43 GMT", "Code": "system-reboot", "EventId": …,
    "State": "active"}``; codes are ``instance-reboot``, ``system-reboot``, ``system-maintenance``,
    ``instance-retirement`` and ``instance-stop``.
    """
    value = answer.json()
    if not isinstance(value, list):
        raise answer.malformed("no list of events")
    found = []
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("Code"), str):
            raise answer.malformed("an event without a code")
        if item.get("State") in _OVER:
            continue
        ends, shown = _time(item.get("NotBefore"))
        found.append(
            Announcement(
                kind=Kind.MAINTENANCE,
                id=line(f"events/maintenance/{item.get('EventId') or item['Code']}"),
                said=line(f"{item['Code']} not before {shown}: {item.get('Description') or ''}"),
                ends_unix=ends,
            )
        )
    return tuple(found)


def _time(text: object) -> tuple[float | None, str]:
    """Return a time, if it is one, and what is to be shown of it."""
    if isinstance(text, str):
        unix = from_iso(text)
        if unix is None:
            unix = from_http_date(text)
        if unix is not None:
            return unix, to_iso(unix)
    return None, f"a time that is not understood ({text!r:.60})"
