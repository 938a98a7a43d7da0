"""What the catalogue says of one application."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from applications.clients import Client
from applications.subject import Subject
from architect.api import names

IDLE: Final = "3s"


@dataclass(frozen=True, kw_only=True)
class Sleeps:
    """It sleeps by itself and under load, and wakes."""

    def __str__(self) -> str:
        return "sleeps and wakes"


@dataclass(frozen=True, kw_only=True)
class StaysAwake:
    """It keeps running, and is told why."""

    reason: str
    """The word that its event has."""
    is_managed: bool
    """Whether it is found out at the first sleep only."""
    remedy: str
    """What the user can do, as a sentence."""

    def __str__(self) -> str:
        return f"keeps running: `{self.reason}`"


Outcome = Sleeps | StaysAwake


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One application."""

    name: str
    """Of its Deployment, Service, label and container."""
    title: str
    client: Callable[[Subject], Client]
    containers: Sequence[Mapping[str, Any]]
    """The first is the one under test."""
    version: Sequence[str]
    """A command in its container whose first line tells the version."""
    holds: str
    """What is checked, for the page."""
    images: Sequence[str] = ()
    """Those that nodes do not have from the start."""
    port: int = 8080
    annotations: Mapping[str, str] = field(default_factory=lambda: {names.IDLE: IDLE})
    spec: Mapping[str, Any] = field(default_factory=dict)
    """More of the pod's spec."""
    clients: Mapping[str, Any] | None = None
    """The container of the pod in which client programs run."""
    outcome: Outcome = Sleeps()
    is_long: bool = False
    """Too long for every run of the tests."""
