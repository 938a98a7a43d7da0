from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from architect.core.errors import ArchitectError, Unavailable
from architect.kube import notes, resources
from architect.kube.api import Api
from architect.kube.connection import Request
from architect.kube.errors import Forbidden
from architect.kube.events import Note, Recorder
from architect.kube.notes import Notes
from architect.kube.watch import Backoff
from support.memoryserver import MemoryServer
from support.patience import patient

POD = resources.pod("default", "web-0", uid="u1")
SECONDS = patient(60.0)


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


def note(text: str) -> Note:
    return Note(reason="Slept", text=text, action="Sleep")


@contextmanager
def running(server: MemoryServer) -> Iterator[Notes]:
    api = Api(server, field_manager="architect-test")
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
        thread.join(SECONDS)
        assert not thread.is_alive()


def written(server: MemoryServer) -> list[str]:
    return [str(o["note"]) for p, o in list(server.objects.items()) if "/events/" in p]


def failing(server: MemoryServer, *errors: ArchitectError) -> list[ArchitectError]:
    """Have the next writes fail so; return those that are left."""
    left = list(errors)
    server.fail = lambda _: left.pop(0) if left else None
    return left


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        threading.Event().wait(0.02)


def test_what_is_told_while_the_api_server_is_away_is_written_when_it_is_back(
    server: MemoryServer,
) -> None:
    left = failing(server, *[Unavailable("nobody answers")] * 5)
    with running(server) as told:
        told.tell(POD, note("first"))
        told.tell(POD, note("second"))
        eventually(lambda: written(server) == ["first", "second"])
    assert left == []


def test_its_time_is_that_at_which_it_was_told_and_it_is_one_event(server: MemoryServer) -> None:
    failing(server, Unavailable("nobody answers"), Unavailable("nobody answers"))
    with running(server) as told:
        told.tell(POD, note("it"))
        eventually(lambda: written(server) == ["it"])
    tried = {
        (r.body["metadata"]["name"], r.body["eventTime"])
        for r in server.requests
        if "/events" in r.path
    }
    assert len(tried) == 1, "one that was stored and not confirmed is not written twice"


def test_what_is_refused_keeps_nobody_waiting(server: MemoryServer) -> None:
    failing(server, Forbidden("the namespace is on its way out", reason="Forbidden"))
    with running(server) as told:
        told.tell(POD, note("refused"))
        told.tell(POD, note("other"))
        eventually(lambda: written(server) == ["other"])


def test_one_that_cannot_be_written_for_long_does_not_keep_the_others(
    server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "TRY_SECONDS", 0.05)

    def is_cursed(request: Request) -> ArchitectError | None:
        is_it = request.method == "POST" and request.body["note"] == "cursed"
        return Unavailable("each time") if is_it else None

    server.fail = is_cursed
    with running(server) as told:
        told.tell(POD, note("cursed"))
        told.tell(POD, note("other"))
        eventually(lambda: written(server) == ["other"])


def test_an_end_does_not_wait_for_the_api_server(server: MemoryServer) -> None:
    server.fail = lambda _: Unavailable("nobody answers")
    with running(server) as told:
        told.tell(POD, note("it"))
        eventually(lambda: server.requests)
        assert not told.settle(0.0)
    assert written(server) == []


def test_who_ends_can_wait_until_all_are_written(server: MemoryServer) -> None:
    failing(server, *[Unavailable("nobody answers")] * 3)
    with running(server) as told:
        assert told.settle(0.0), "nothing was told yet"
        for text in ("first", "second"):
            told.tell(POD, note(text))
        assert told.settle(SECONDS)
        assert written(server) == ["first", "second"]
