"""Standard input, terminals, attach, exec: what people type into a pod."""

from __future__ import annotations

import contextlib
import os
import pty
import queue
import select
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from lab import errors
from lab.cluster import Cluster
from support import truth
from support.patience import patient
from support.truth import AWAKE, Kind, Plan, Subject, Trio, container
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

SECONDS: Final = patient(90.0)
SESSIONS: Final = 6
ECHO: Final = (
    "echo ready; while read -r line; do echo got $line; done; echo end of input; sleep 1000"
)
TICK: Final = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.5; done"

PLANS: Final = {
    "reads": Plan(containers=[container("app", ECHO, stdin=True)]),
    "once": Plan(containers=[container("app", ECHO, stdin=True, stdinOnce=True)]),
    "speaks": Plan(containers=[container("app", TICK)]),
    "entered": Plan(containers=[container("app", ["sleep", "1000"])]),
    "terminal": Plan(
        containers=[container("app", "tty; " + ECHO, stdin=True, tty=True)], kinds=AWAKE
    ),
}


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    with truth.running(architect, theme, PLANS) as made:
        yield made


class Session:
    """A kubectl that runs beside the test."""

    def __init__(self, pod: Subject, *words: str) -> None:
        self._process = subprocess.Popen(
            [pod.cluster.kubectl_program, "-n", pod.namespace, *words],
            env=pod.cluster.client_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def line(self) -> str:
        """Return the next line of its output."""
        found = self._lines.get(timeout=SECONDS)
        assert found is not None, "the session has ended"
        return found

    def until(self, last: str) -> list[str]:
        """Return the lines of its output up to *last*."""
        found = [self.line()]
        while found[-1] != last:
            found.append(self.line())
        return found

    def end_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def status(self) -> int:
        """Return how it ended, by itself."""
        return self._process.wait(SECONDS)


@truth.behaviour("`stdin: true` and `kubectl attach -i`: what is typed arrives, again and again")
def test_what_is_typed_arrives(pods: dict[str, Trio]) -> None:
    trio = pods["reads"]
    trio.each(Subject.until_said, "app", "ready")
    trio.sleep()

    def typed(pod: Subject, word: str) -> str:
        with Session(pod, "attach", "-i", pod.name, "-c", "app") as session:
            session.type(f"{word}\n")
            if pod.is_asleep:
                # What is typed waits in the pipe: nobody but the application reads it.
                pod.runtime("wake")
            return session.until(f"got {word}")[-1]

    for word in ("one", "two"):
        truth.check(trio.each(typed, word), f"got {word}")
    # What was seen in the session may be in the log a moment later.
    said = trio.each(Subject.until_said, "app", "got two")
    truth.check(said, ["ready", "got one", "got two"])


@truth.behaviour("`stdinOnce: true`: input ends with the session that gave it")
def test_input_that_ends_with_its_session(pods: dict[str, Trio]) -> None:
    trio = pods["once"]
    trio.each(Subject.until_said, "app", "ready")
    trio.sleep()
    trio.slept.runtime("wake")

    def typed(pod: Subject) -> list[str]:
        with Session(pod, "attach", "-i", pod.name, "-c", "app") as session:
            session.type("one\n")
            session.until("got one")
            session.end_input()
            return pod.until_said("app", "end of input")

    truth.check(trio.each(typed), ["ready", "got one", "end of input"])


@truth.behaviour("`kubectl attach`: what the application says from now on, also after a wake")
def test_attach_goes_on_after_a_wake(pods: dict[str, Trio]) -> None:
    trio = pods["speaks"]
    with contextlib.ExitStack() as stack:
        sessions = {
            kind: stack.enter_context(Session(pod, "attach", pod.name, "-c", "app"))
            for kind, pod in trio.pods.items()
        }
        seen = {kind: _ticks(session, 3) for kind, session in sessions.items()}
        trio.sleep()
        trio.slept.runtime("wake")
        for kind, session in sessions.items():
            ticks = [*seen[kind], *_ticks(session, 6)]
            first = ticks[0]
            assert ticks == list(range(first, first + len(ticks))), kind


def _ticks(session: Session, count: int) -> list[int]:
    return [int(session.line().removeprefix("tick ")) for _ in range(count)]


@truth.behaviour("`kubectl exec`: exit codes, both streams, input, and a program that is not there")
def test_exec(pods: dict[str, Trio]) -> None:
    trio = pods["entered"]

    def exec_(pod: Subject, *words: str, input: str = "") -> tuple[int, str, str]:
        done = subprocess.run(
            [
                *(pod.cluster.kubectl_program, "-n", pod.namespace, "exec"),
                *(["-i"] if input else []),
                *(pod.name, "--", *words),
            ],
            env=pod.cluster.client_environment(),
            input=input,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    for code, expected in {
        "echo out; echo err >&2; exit 0": (0, "out\n", "err\n"),
        "exit 42": (42, "", "command terminated with exit code 42\n"),
        "kill -9 $$": (137, "", "command terminated with exit code 137\n"),
        "cat; echo end": (0, "a\nb\nend\n", ""),
    }.items():
        trio.sleep()
        # Who reads none has none: kubectl fails, also under runc, if the session ends before it has
        # sent all.
        given = "a\nb\n" if "cat" in code else ""
        seen = trio.each(
            lambda pod, code=code, given=given: exec_(pod, "sh", "-c", code, input=given)
        )
        truth.check(seen, expected)
    trio.sleep()
    missing = truth.alike(trio.each(lambda pod: _without_ids(exec_(pod, "no-such-thing"))))
    assert missing[0] == 1 and "executable file not found" in missing[2]


def _without_ids(seen: tuple[int, str, str]) -> tuple[int, str, str]:
    words = [w if len(w.strip('":')) < 64 else "ID" for w in seen[2].split()]
    return seen[0], seen[1], " ".join(words)


@truth.behaviour("many `kubectl exec` at once")
def test_many_sessions_at_once(pods: dict[str, Trio]) -> None:
    trio = pods["entered"]
    trio.sleep()

    def several(pod: Subject) -> list[str]:
        jobs = [lambda n=n: pod.run("app", "echo", str(n)) for n in range(SESSIONS)]
        return truth.parallel(*jobs)

    truth.check(trio.each(several), [f"{number}\n" for number in range(SESSIONS)])


@truth.behaviour("an exec session goes on, whatever becomes of the pod beside it")
def test_a_session_that_survives_a_sleep(pods: dict[str, Trio]) -> None:
    trio = pods["entered"]
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(Session(pod, "exec", "-i", pod.name, "--", "cat"))
            for pod in trio.pods.values()
        ]
        _all_echo(sessions, "awake")
        trio.sleep()
        _all_echo(sessions, "beside one that sleeps")
        assert trio.slept.is_asleep
        trio.slept.runtime("wake")
        _all_echo(sessions, "awake again")
        for session in sessions:
            session.end_input()
            assert session.status() == 0


def _all_echo(sessions: Sequence[Session], text: str) -> None:
    for session in sessions:
        session.type(f"{text}\n")
    assert [session.line() for session in sessions] == [text] * len(sessions)


@truth.behaviour("`kubectl exec -it`: a terminal, its size, and Ctrl-C")
def test_a_terminal_session(pods: dict[str, Trio]) -> None:
    trio = pods["entered"]
    trio.sleep()

    def session(pod: Subject) -> list[str]:
        loop = "while :; do sleep 0.1; done"
        script = f"tty; stty size; trap 'echo interrupted; exit 5' INT; echo ready; {loop}"
        terminal, its_end = pty.openpty()
        process = subprocess.Popen(
            [
                *(pod.cluster.kubectl_program, "-n", pod.namespace, "exec", "-it", pod.name),
                *("--", "sh", "-c", script),
            ],
            env=pod.cluster.client_environment(),
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            start_new_session=True,
        )
        os.close(its_end)
        try:
            said = _read_until(terminal, b"ready")
            os.write(terminal, b"\x03")
            said += _read_until(terminal, None)
            status = process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()
            os.close(terminal)
        lines = [line.strip() for line in said.decode().replace("^C", "").splitlines()]
        return [*filter(None, lines), str(status)]

    seen = truth.alike(trio.each(session))
    assert seen[0] == "/dev/pts/0"
    assert "interrupted" in seen
    assert seen[-1] == "5"


def _read_until(terminal: int, word: bytes | None) -> bytes:
    """Return what comes from a terminal up to *word*; None: all that comes."""
    said = b""
    deadline = time.monotonic() + SECONDS
    while word is None or word not in said:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, said
        try:
            data = os.read(terminal, 4096)
        except OSError:  # nobody has the other end any more
            break
        if not data:
            break
        said += data
    return said


@truth.behaviour(
    "`tty: true`",
    managed="not managed (`Tty`): it runs as under runc, does not sleep, and that is said",
    slept=None,
)
def test_a_terminal_of_the_application(pods: dict[str, Trio]) -> None:
    trio = pods["terminal"]
    said = trio.each(Subject.until_said, "app", "ready")
    truth.check(said, ["/dev/pts/0", "ready"])
    managed = trio.pods[Kind.MANAGED]
    told = eventually(lambda: managed.events("Unmanaged"), what="event Unmanaged")
    assert "Tty" in told[0]
    with pytest.raises(errors.CommandFailed):
        managed.runtime("sleep")
