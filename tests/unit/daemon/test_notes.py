from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from architect.core.errors import ArchitectError, Unavailable
from architect.daemon import notes, status
from architect.daemon.notes import Notes
from architect.kube import resources
from architect.kube.errors import Forbidden
from architect.kube.events import EventType, Recorder
from architect.kube.watch import Backoff

POD = resources.pod("default", "web-0", uid="u1")


def note(text: str) -> status.Note:
    return status.Note(reason="Slept", text=text, action="Sleep", event_type=EventType.NORMAL)


@contextmanager
def running(api: Any) -> Iterator[Notes]:
    recorder = Recorder(api, component="daemon", instance="n1")
    made = Notes(recorder, backoff=Backoff(first_seconds=0.01, max_seconds=0.02))
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        made.poke()
        thread.join(60)
        assert not thread.is_alive()


def written(cluster: Any) -> list[str]:
    return [str(o["note"]) for p, o in cluster.objects.items() if "/events/" in p]


def failing(cluster: Any, *errors: ArchitectError) -> list[ArchitectError]:
    """Have the next writes fail so; return those that are left."""
    left = list(errors)
    cluster.failures.append(lambda _: left.pop(0) if left else None)
    return left


def test_what_is_told_while_the_api_server_is_away_is_written_when_it_is_back(
    api: Any, cluster: Any, eventually: Any
) -> None:
    left = failing(cluster, *[Unavailable("nobody answers")] * 5)
    with running(api) as told:
        told.tell_of(POD, note("first"))
        told.tell_of(POD, note("second"))
        eventually(lambda: written(cluster) == ["first", "second"])
    assert left == []


def test_its_time_is_that_at_which_it_was_told_and_it_is_one_event(
    api: Any, cluster: Any, eventually: Any
) -> None:
    failing(cluster, Unavailable("nobody answers"), Unavailable("nobody answers"))
    with running(api) as told:
        told.tell_of(POD, note("it"))
        eventually(lambda: written(cluster) == ["it"])
    tried = {
        (r.body["metadata"]["name"], r.body["eventTime"])
        for r in cluster.requests
        if "/events" in r.path
    }
    assert len(tried) == 1, "one that was stored and not confirmed is not written twice"


def test_what_is_refused_keeps_nobody_waiting(api: Any, cluster: Any, eventually: Any) -> None:
    failing(cluster, Forbidden("the namespace is on its way out", reason="Forbidden"))
    with running(api) as told:
        told.tell_of(POD, note("refused"))
        told.tell_of(POD, note("other"))
        eventually(lambda: written(cluster) == ["other"])


def test_one_that_cannot_be_written_for_long_does_not_keep_the_others(
    api: Any, cluster: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "TRY_SECONDS", 0.05)

    def is_cursed(request: Any) -> ArchitectError | None:
        is_it = request.method == "POST" and request.body["note"] == "cursed"
        return Unavailable("each time") if is_it else None

    cluster.failures.append(is_cursed)
    with running(api) as told:
        told.tell_of(POD, note("cursed"))
        told.tell_of(POD, note("other"))
        eventually(lambda: written(cluster) == ["other"])


def test_an_end_does_not_wait_for_the_api_server(api: Any, cluster: Any, eventually: Any) -> None:
    cluster.failures.append(lambda _: Unavailable("nobody answers"))
    with running(api) as told:
        told.tell_of(POD, note("it"))
        eventually(lambda: cluster.requests)
    assert written(cluster) == []
