"""What every application goes through, and the row that comes of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from applications import images, subject
from applications.clients import Client
from applications.entry import Entry, StaysAwake
from applications.subject import Subject
from architect.api import names
from demo.errors import DemoError, ProofFailed
from demo.story import State, prove
from lab import errors, waiting
from lab.cluster import Cluster

CYCLES: Final = 3
"""Sleeps under load."""
LOAD_SECONDS: Final = 1.0
STAY_SECONDS: Final = 5.0
"""Asleep: longer than what the daemon takes for a sleep that was not worth it."""
EVENT_SECONDS: Final = 180.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one application."""

    name: str
    title: str
    version: str
    memory_mib: float | None
    """Working set of its container, awake."""
    asleep_mib: float | None
    sleep_ms: float | None
    wake_ms: float | None
    first_ms: float | None
    """From the first packet of a new connection to the answer of the client's first request."""
    result: str
    done: str
    """What its clients did, all of which is there."""

    def to_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return asdict(self)


def run(cluster: Cluster, entry: Entry, *, namespace: str) -> Row:
    """Make *entry*'s pod in *namespace*, which is there, and put it to the test.

    Raises ProofFailed if something was lost, DemoError or LabError if it did anything else than
    what the catalogue says.
    """
    made = Subject(cluster=cluster, namespace=namespace, name=entry.name)
    with _running(made, entry), contextlib.closing(entry.client(made)) as client:
        try:
            with cluster.progress.step(f"{entry.name}: {entry.title}"):
                return _trial(made, entry, client)
        except (DemoError, errors.LabError, OSError) as error:
            raise DemoError(f"{type(error).__name__}: {error}\n{made.diagnosis()}") from error


@contextlib.contextmanager
def _running(made: Subject, entry: Entry) -> Iterator[None]:
    node = made.cluster.nodes[0]
    for image in entry.images:
        images.load(made.cluster.cache, node, image)
    objects = subject.deployment(
        entry.name,
        entry.containers,
        annotations=entry.annotations,
        node=node.name,
        port=entry.port,
        **entry.spec,
    )
    subject.apply(made, [subject.programs(), *objects])
    if entry.clients is not None:
        clients = subject.deployment(
            subject.CLIENTS, [entry.clients], annotations={}, node=node.name
        )
        subject.apply(made, clients[:1])
    try:
        made.wait_until_running()
        made.wait_for_service()
        if entry.clients is not None:
            made.clients().wait_until_running()
        yield
    finally:
        subject.remove(made)
        if entry.clients is not None:
            subject.remove(made.clients())


def _trial(made: Subject, entry: Entry, client: Client) -> Row:
    version = made.execute(*entry.version).strip().splitlines()[0]
    client.fill()
    with client.load():
        time.sleep(LOAD_SECONDS)
    before = {**made.fingerprint(), **client.observe()}
    if isinstance(entry.outcome, StaysAwake):
        numbers: dict[str, float | None] = dict.fromkeys(NUMBERS)
        numbers["memory_mib"] = _mebibytes(made.memory_bytes())
        _stay_awake(made, entry.outcome, client)
    else:
        numbers = _sleep_and_wake(made, client)
        _compare(made, client, before, "after a sleep of its own")
        client.check()
        _sleep_under_load(made, client)
    done = client.check()
    _compare(made, client, before, "after sleeps under load")
    return Row(
        name=entry.name,
        title=entry.title,
        version=version,
        result=str(entry.outcome),
        done=done,
        **numbers,
    )


NUMBERS: Final = ("memory_mib", "asleep_mib", "sleep_ms", "wake_ms", "first_ms")


def _sleep_and_wake(made: Subject, client: Client) -> dict[str, float | None]:
    """Leave it alone until it sleeps by itself, wake it by a client, and return the figures."""
    memory = made.memory_bytes()
    made.wait_for_label(names.STATUS_SCALED_DOWN)
    asleep = made.memory_bytes()
    slept = made.ask_runtime("status")["last_sleep_seconds"]
    made.stay_asleep(STAY_SECONDS)
    first = client.first()
    woke = made.ask_runtime("status")["last_wake_seconds"]
    return {
        "memory_mib": _mebibytes(memory),
        "asleep_mib": _mebibytes(asleep),
        "sleep_ms": round(slept * 1000),
        "wake_ms": round(woke * 1000),
        "first_ms": round(first * 1000),
    }


def _sleep_under_load(made: Subject, client: Client) -> None:
    with client.load():
        for _ in range(CYCLES):
            time.sleep(LOAD_SECONDS / 2)
            made.sleep()
            made.wait_until_awake()
        time.sleep(LOAD_SECONDS / 2)


def _stay_awake(made: Subject, outcome: StaysAwake, client: Client) -> None:
    """Have it told why it does not sleep, while clients are at work on it."""
    with client.load():
        time.sleep(LOAD_SECONDS)
        if outcome.is_managed:
            _fail_to_sleep(made, outcome)
        reason = names.EVENT_SLEEP_FAILED if outcome.is_managed else names.EVENT_UNMANAGED
        _wait_until_told(made, outcome, f"an event {reason}", lambda: made.events(reason))
        if outcome.is_managed:
            _wait_until_told(made, outcome, "the condition", lambda: [made.condition()])
        time.sleep(LOAD_SECONDS)


def _wait_until_told(
    made: Subject, outcome: StaysAwake, what: str, told: Callable[[], list[str]]
) -> None:
    waiting.until(
        lambda: any(outcome.reason in text for text in told()),
        what=f"{what} of {made.name} says {outcome.reason}",
        timeout_seconds=EVENT_SECONDS,
        interval_seconds=0.5,
        last_seen=made.diagnosis,
    )


def _fail_to_sleep(made: Subject, outcome: StaysAwake) -> None:
    try:
        made.sleep()
    except errors.CommandFailed:
        refused = made.ask_runtime("status")["refused"]
        if refused is None or refused["reason"] != outcome.reason:
            raise
        return
    raise ProofFailed(f"{made.name}: slept, though {outcome.reason} was to be expected")


def _compare(made: Subject, client: Client, before: State, title: str) -> None:
    prove(made.name, title, expected=before, seen={**made.fingerprint(), **client.observe()})


def _mebibytes(size: int) -> float:
    return round(size / (1 << 20), 1)
