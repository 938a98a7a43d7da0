"""What one conversation with kubelet is: how far it got, what it was, and who answers.

A dialogue is fed what the peer said and returns what to say. It holds no socket and no
clock, so that every protocol is tested with bytes alone.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

INPUT_LIMIT_BYTES = 16 * 1024
"""The most of a peer's words that one dialogue keeps."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """The real state of a sleeping container, as its probes must hear it."""

    healthy: bool
    """What the application last answered; false once a restore of it has failed."""

    reason: str
    """One line for the body of an HTTP answer."""


HealthSource = Callable[[], Health]
"""Asked at the moment of answering, so that a change counts for a conversation under way."""


class Kind(enum.StrEnum):
    """What a finished conversation was."""

    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"
    GRPC = "grpc"
    HOOK = "hook"
    UNKNOWN = "unknown"
    SILENT = "silent"


class Progress(enum.Enum):
    """How far a dialogue is."""

    LISTENING = enum.auto()
    """More of the peer's words are needed."""

    WAITING = enum.auto()
    """The request is for the application itself and waits until it is back."""

    ANSWERED = enum.auto()
    """All is said; the peer is expected to close."""

    FAILED = enum.auto()
    """Nothing sensible can follow: close once the last words are sent."""


class Dialogue(Protocol):
    """One protocol's side of a conversation."""

    @property
    def progress(self) -> Progress:
        """How far the dialogue is."""

    @property
    def kind(self) -> Kind | None:
        """What it turned out to be, or None while that is open."""

    def receive(self, data: bytes) -> bytes:
        """Take the peer's next bytes, in pieces of any size, and return what to send.

        Raises nothing, whatever the bytes are.
        """

    def application_is_back(self) -> bytes:
        """Return what to send to a request that waited for the application."""
