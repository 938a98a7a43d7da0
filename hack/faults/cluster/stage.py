"""The pairs of one fault, one after the other: judged, and with what each has left behind."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from faults import leaks
from faults.cluster import trial
from faults.cluster.place import DEADLINE_SECONDS, Place
from faults.cluster.pod import Life, application
from faults.cluster.trial import bound
from faults.errors import FaultError
from faults.matrix import FALLING, WAKING, Bound, Pair, Step
from faults.nodeleaks import living, snapshot
from faults.results import GOES_ON, RESTARTED, Result
from lab import errors as lab_errors
from support import parts

MIDDLE: Final = (Step.AWAKE, *FALLING, Step.ASLEEP, *WAKING)
"""Steps through which one pod can go one after the other."""
TELLING: Final = (FaultError, lab_errors.LabError, AssertionError, OSError)

Trial = Callable[[], tuple[str, list[str]]]
"""Returns what came of it, and what was said of a loss. Raises what is in :data:`TELLING`."""


def run(place: Place, pairs: Sequence[Pair], *, tell: Callable[[str], None]) -> Iterator[Result]:
    """Try *pairs*, which are all of one fault. What a pair leaves is held against it."""
    for result in _tried(place, pairs):
        tell(f"{result} [{result.seconds} s]")
        yield result


def _tried(place: Place, pairs: Sequence[Pair]) -> Iterator[Result]:
    yield from _through_the_middle(place, [pair for pair in pairs if pair.step in MIDDLE])
    for pair in pairs:
        if pair.step not in MIDDLE:
            before = _snapshots(place)
            begins = pair.step in (Step.CREATE, Step.START)
            tried = functools.partial(trial.beginning if begins else trial.ending, pair, place)
            yield _with(_result(pair, place, tried), _leaked(place, before))


def _through_the_middle(place: Place, pairs: Sequence[Pair]) -> Iterator[Result]:
    """Try *pairs* with one pod, as long as it is the same."""
    with ExitStack() as stack:
        life: Life | None = None
        for pair in pairs:
            if life is None:
                without = _snapshots(place)
                made = application(place, str(pair.step), fault=pair.fault)
                life = Life.of(place, stack.enter_context(made))
                life.sandbox = life.find_sandbox()
                # What is made with the first sleep, and stays, is no leak.
                life.sleep()
                life.ask()
                with_it = _snapshots(place)
            result = _result(pair, place, functools.partial(trial.middle, pair, life))
            if result.has_survived and result.outcome == GOES_ON:
                result = _with(result, _leaked(place, with_it))
            if pair is pairs[-1] or not result.has_survived or result.outcome == RESTARTED:
                life = None
                stack.close()
                result = _with(result, _leaked(place, without))
            yield result


def _with(result: Result, leaked: Sequence[str]) -> Result:
    """Return *result* with what has leaked held against it."""
    failures = [*result.failures, *(f"leak of {text}" for text in leaked)]
    return dataclasses.replace(result, failures=list(dict.fromkeys(failures)))


def _result(pair: Pair, place: Place, tried: Trial) -> Result:
    started = time.monotonic()
    outcome = ""
    failures: list[str] = []
    told: list[str] = []
    try:
        outcome, told = tried()
        if outcome == RESTARTED and bound(pair) is Bound.GOES_ON:
            failures.append("its container was restarted")
        if outcome == RESTARTED and not told:
            failures.append("its container was restarted, and nobody said so")
    except TELLING as error:
        failures.append(f"{type(error).__name__}: {error}"[:1500])
    finally:
        place.go_on()
    return Result(
        fault=pair.fault.name,
        step=pair.step,
        outcome=outcome,
        seconds=round(time.monotonic() - started, 1),
        failures=failures,
        told=told,
    )


def _snapshots(place: Place) -> dict[str, leaks.Snapshot]:
    return {node.name: snapshot(node.machine) for node in place.cluster.nodes}


def _leaked(place: Place, before: dict[str, leaks.Snapshot]) -> list[str]:
    """Return what is there that was not *before*, once it has had the time to go."""
    # Whoever comes next finds nodes that are Ready, with Architect on them.
    parts.wait_until_ready(place.cluster)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = []
        for node in place.cluster.nodes:
            others = living(place.root_of(node), but=place.namespace)
            more = leaks.leaked(before[node.name], snapshot(node.machine))
            found += [f"{node.name}: {t}" for t in more if not any(name in t for name in others)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(2.0)
