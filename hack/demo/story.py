"""What every application goes through: it sleeps by itself, is woken, and proves its state."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from architect.api import names
from demo.errors import ProofFailed
from demo.pods import Application
from demo.results import Result

MEBIBYTE: Final = 1 << 20
STAY_SECONDS: Final = 5.0
"""How long it is left asleep: some probes of kubelet's, and longer than what the daemon takes for a
sleep that was not worth it."""
State = Mapping[str, object]
"""Name → value of everything that must be as it was."""


@dataclass(frozen=True, kw_only=True)
class Wake:
    """One way to wake an application."""

    title: str
    act: Callable[[], State]
    """Sends the first request and returns that part of the state which its answer tells."""
    changes: Callable[[State], State] = lambda before: {}
    """What the request itself changes, from the state before."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """One application, what proves its state, and how it is woken."""

    application: Application
    subject: str
    """What it is and holds, for the table."""
    observe: Callable[[], State]
    wakes: Sequence[Wake]
    close: Callable[[], None] = lambda: None
    """Ends what is open over all sleeps."""
    results: list[Result] = field(default_factory=list)

    def run(self) -> list[Result]:
        """Go through all wakes and return what was measured. Raises ProofFailed."""
        try:
            for wake in self.wakes:
                self._cycle(wake)
        finally:
            # After a failed proof the other side may have gone; what failed is the news then.
            with contextlib.suppress(OSError):
                self.close()
        return self.results

    def _cycle(self, wake: Wake) -> None:
        app, say = self.application, self.application.cluster.progress.say
        before = {**app.fingerprint(), **self.observe()}
        awake_bytes = app.memory_bytes()
        idle_since = time.monotonic()
        say(f"{app.name}: awake with {awake_bytes / MEBIBYTE:.1f} MiB; leaving it alone")
        app.wait_for_label(names.STATUS_SCALED_DOWN)
        slept_seconds = time.monotonic() - idle_since
        asleep_bytes, image_bytes = app.memory_bytes(), app.image_bytes()
        say(
            f"{app.name}: {names.STATUS_SCALED_DOWN} after {slept_seconds:.1f} s: "
            f"{awake_bytes / MEBIBYTE:.1f} -> {asleep_bytes / MEBIBYTE:.1f} MiB, "
            f"{image_bytes / MEBIBYTE:.1f} MiB on disk; pod condition {app.condition()}"
        )
        app.stay_asleep(STAY_SECONDS)
        say(f"{app.name}: {wake.title} …")
        started = time.monotonic()
        answer = wake.act()
        answered_ms = (time.monotonic() - started) * 1000
        expected = {**before, **wake.changes(before)}
        told = {key: expected.get(key) for key in answer}
        prove(app.name, f"{wake.title}, first answer", expected=told, seen=answer)
        after = {**app.fingerprint(), **self.observe()}
        prove(app.name, wake.title, expected=expected, seen=after)
        # Left alone for as long as it takes to see the label, it would be asleep once more.
        app.wait_for_label(names.STATUS_RUNNING, meanwhile=self.observe)
        say(
            f"{app.name}: answered after {answered_ms:.0f} ms, and all is as it was: {brief(after)}"
        )
        if not self.results:
            self._record("memory awake", awake_bytes / MEBIBYTE, "MiB", "cgroup working set")
            self._record("memory asleep", asleep_bytes / MEBIBYTE, "MiB", "cgroup working set")
            self._record("image on disk", image_bytes / MEBIBYTE, "MiB", "on the node")
            self._record("idle to asleep", slept_seconds, "s", "architect.dev/idle: 5s")
        self._record("first answer", answered_ms, "ms", wake.title)

    def _record(self, name: str, value: float, unit: str, conditions: str) -> None:
        self.results.append(
            Result(
                name=f"{self.application.name}: {name}",
                value=round(value, 2),
                unit=unit,
                conditions=f"{self.subject}; {conditions}",
            )
        )


def prove(name: str, title: str, *, expected: State, seen: State) -> None:
    """Raise ProofFailed, naming every difference, unless *seen* is *expected*."""
    wrong = [
        f"{key}: {seen.get(key)!r} instead of {expected.get(key)!r}"
        for key in sorted({*expected, *seen})
        if expected.get(key) != seen.get(key)
    ]
    if wrong:
        raise ProofFailed(f"{name}: state lost ({title}): " + "; ".join(wrong))


def brief(state: State) -> str:
    """Return a state as one line; long values by their beginning."""
    return ", ".join(f"{key} {str(value)[:12]}" for key, value in state.items())
